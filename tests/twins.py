"""The methods in float64 NumPy, written from the papers' equations.

Nothing is shared with the package. Each twin takes the initial value and the
gradients of one tensor and returns its values after every step; `kernel_axes` are
the axes that count convolution kernels, None for anything else.
"""

import numpy as np


def adam_moments(gradients, beta_1, beta_2):
    """Yields t, g, m_hat, v_hat."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        yield t, g, m / (1 - beta_1**t), v / (1 - beta_2**t)


def path(theta, steps):
    values = [np.array(theta)]
    for step in steps:
        values.append(values[-1] + step)
    return np.stack(values)


def adam(theta, gradients, learning_rate, beta_1, beta_2, epsilon, kernel_axes=None):
    moments = adam_moments(gradients, beta_1, beta_2)
    return path(
        theta, (-learning_rate * m / (np.sqrt(v) + epsilon) for _, _, m, v in moments)
    )


def diffgrad(
    theta, gradients, learning_rate, beta_1, beta_2, epsilon, kernel_axes=None
):
    def steps():
        previous = np.zeros_like(theta)
        for _, g, m, v in adam_moments(gradients, beta_1, beta_2):
            xi = 1 / (1 + np.exp(-np.abs(previous - g)))
            yield -learning_rate * xi * m / (np.sqrt(v) + epsilon)
            previous = g

    return path(theta, steps())


def angulargrad(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    angle="cos",
    lambda_1=0.5,
    lambda_2=0.5,
    kernel_axes=None,
):
    def steps():
        previous, previous_angle = np.zeros_like(theta), None
        for _, g, m, v in adam_moments(gradients, beta_1, beta_2):
            with np.errstate(divide="ignore"):
                a = np.arctan(np.abs((g - previous) / (1 + g * previous)))
            smaller = a if previous_angle is None else np.minimum(previous_angle, a)
            f = np.cos(smaller) if angle == "cos" else np.tan(smaller)
            phi = np.tanh(np.abs(f)) * lambda_1 + lambda_2
            yield -learning_rate * phi * m / (np.sqrt(v) + epsilon)
            previous, previous_angle = g, a

    return path(theta, steps())


def rectified_step(t, m_hat, v_hat, learning_rate, beta_2, epsilon, rho_threshold):
    rho_inf = 2 / (1 - beta_2) - 1
    rho = rho_inf - 2 * t * beta_2**t / (1 - beta_2**t)
    if rho <= rho_threshold:
        return -learning_rate * m_hat
    r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return -learning_rate * np.sqrt(r) * m_hat / (np.sqrt(v_hat) + epsilon)


def radam(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    rho_threshold=4,
    kernel_axes=None,
):
    return path(
        theta,
        (
            rectified_step(t, m, v, learning_rate, beta_2, epsilon, rho_threshold)
            for t, _, m, v in adam_moments(gradients, beta_1, beta_2)
        ),
    )


def adabelief(
    theta, gradients, learning_rate, beta_1, beta_2, epsilon, kernel_axes=None
):
    def steps():
        m, s = np.zeros_like(theta), np.zeros_like(theta)
        for t, g in enumerate(gradients, 1):
            m = beta_1 * m + (1 - beta_1) * g
            s = beta_2 * s + (1 - beta_2) * (g - m) ** 2 + epsilon
            m_hat, s_hat = m / (1 - beta_1**t), s / (1 - beta_2**t)
            yield -learning_rate * m_hat / (np.sqrt(s_hat) + epsilon)

    return path(theta, steps())


def nosadam(
    theta, gradients, learning_rate, beta_1, epsilon, gamma=0.1, kernel_axes=None
):
    def steps():
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t, g in enumerate(gradients, 1):
            b_now = sum(k**-gamma for k in range(1, t + 1))
            b_before = sum(k**-gamma for k in range(1, t))
            m = beta_1 * m + (1 - beta_1) * g
            v = b_before / b_now * v + (1 - b_before / b_now) * g**2
            yield -learning_rate * m / (1 - beta_1**t) / (np.sqrt(v) + epsilon)

    return path(theta, steps())


def corrected(gradients, gamma):
    """AdaNorm's s_t for every gradient."""
    e = 0.0
    for g in gradients:
        norm = np.sqrt(np.sum(g**2))
        e = gamma * e + (1 - gamma) * norm
        if norm == 0:
            yield np.zeros_like(g)
        else:
            yield e / norm * g if e > norm else g


def norm_corrected_moments(gradients, beta_1, beta_2, gamma, corrected_moments):
    """Yields t, g, m_hat, v_hat with AdaNorm's correction."""
    m = v = 0.0
    for t, (g, s) in enumerate(zip(gradients, corrected(gradients, gamma)), 1):
        first = g if corrected_moments == "second" else s
        second = g if corrected_moments == "first" else s
        m = beta_1 * m + (1 - beta_1) * first
        v = beta_2 * v + (1 - beta_2) * second**2
        yield t, g, m / (1 - beta_1**t), v / (1 - beta_2**t)


def adamnorm(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    gamma=0.95,
    corrected_moments="first",
    kernel_axes=None,
):
    moments = norm_corrected_moments(
        gradients, beta_1, beta_2, gamma, corrected_moments
    )
    return path(
        theta, (-learning_rate * m / (np.sqrt(v) + epsilon) for _, _, m, v in moments)
    )


def diffgradnorm(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    gamma=0.95,
    corrected_moments="first",
    kernel_axes=None,
):
    def steps():
        previous = np.zeros_like(theta)
        for _, g, m, v in norm_corrected_moments(
            gradients, beta_1, beta_2, gamma, corrected_moments
        ):
            xi = 1 / (1 + np.exp(-np.abs(previous - g)))
            yield -learning_rate * xi * m / (np.sqrt(v) + epsilon)
            previous = g

    return path(theta, steps())


def radamnorm(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    gamma=0.95,
    corrected_moments="first",
    rho_threshold=4,
    kernel_axes=None,
):
    moments = norm_corrected_moments(
        gradients, beta_1, beta_2, gamma, corrected_moments
    )
    return path(
        theta,
        (
            rectified_step(t, m, v, learning_rate, beta_2, epsilon, rho_threshold)
            for t, _, m, v in moments
        ),
    )


def adabeliefnorm(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    gamma=0.95,
    corrected_moments="first",
    kernel_axes=None,
):
    def steps():
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t, (g, s) in enumerate(zip(gradients, corrected(gradients, gamma)), 1):
            m = beta_1 * m + (1 - beta_1) * (g if corrected_moments == "second" else s)
            v = beta_2 * v + (1 - beta_2) * (s - m) ** 2 + epsilon
            m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
            yield -learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)

    return path(theta, steps())


def adal(theta, gradients, learning_rate, beta_1, beta_2, epsilon, kernel_axes=None):
    scaled = [np.abs(g).sum() * g for g in gradients]
    return adam(theta, scaled, learning_rate, beta_1, beta_2, epsilon)


def activate(x, activation, alpha, beta):
    if activation == "arctan":
        return alpha * np.arctan(beta * x)
    if activation == "tanh":
        return alpha * np.tanh(beta * x)
    return alpha * np.sign(x) * np.log1p(beta * np.abs(x))


def gafadam(
    theta,
    gradients,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    activation="arctan",
    alpha=0.1,
    beta=20.0,
    kernel_axes=None,
):
    activated = [activate(g, activation, alpha, beta) for g in gradients]
    return adam(theta, activated, learning_rate, beta_1, beta_2, epsilon)


def gafsgd(
    theta,
    gradients,
    learning_rate,
    momentum=0.9,
    nesterov=False,
    activation="arctan",
    alpha=0.1,
    beta=20.0,
    learning_rate_inside=True,
    kernel_axes=None,
):
    def steps():
        u = np.zeros_like(theta)
        for g in gradients:
            push = learning_rate * g if learning_rate_inside else g
            u = momentum * u - push
            applied = momentum * u - push if nesterov else u
            act = activate(applied, activation, alpha, beta)
            yield act if learning_rate_inside else learning_rate * act

    return path(theta, steps())


def agc(
    theta,
    gradients,
    learning_rate,
    clipping,
    epsilon,
    momentum=0.9,
    kernel_axes=None,
):
    """SGD after adaptive gradient clipping, unit by unit."""
    weights, velocity = np.array(theta), np.zeros_like(theta)
    values = [weights.copy()]
    for g in gradients:
        clipped = np.zeros_like(g)
        if weights.ndim < 2:
            units = [...]
        else:
            units = [(..., unit) for unit in range(weights.shape[-1])]
        for unit in units:
            w, h = np.linalg.norm(weights[unit]), np.linalg.norm(g[unit])
            longest = clipping * max(w, epsilon)
            clipped[unit] = g[unit] * (longest / h if h > longest else 1)
        velocity = momentum * velocity - learning_rate * clipped
        weights = weights + velocity
        values.append(weights)
    return np.stack(values)


def whitened(gradients, mean_over, kernel_axes):
    if kernel_axes is None:
        return gradients
    whitened = []
    for g in gradients:
        axes = kernel_axes
        if mean_over == "entries":
            axes = tuple(set(range(g.ndim)) - set(kernel_axes))
        whitened.append(g - g.mean(axis=axes, keepdims=True))
    return whitened


def sgd(
    theta, gradients, learning_rate, momentum=0.9, nesterov=False, kernel_axes=None
):
    def steps():
        u = np.zeros_like(theta)
        for g in gradients:
            u = momentum * u - learning_rate * g
            yield momentum * u - learning_rate * g if nesterov else u

    return path(theta, steps())


def nadam(theta, gradients, learning_rate, beta_1, beta_2, epsilon, kernel_axes=None):
    """Keras' Nadam: momentum schedule beta_1 (1 - 0.5 * 0.96^t)."""

    def steps():
        m = v = 0.0
        product = 1.0
        for t, g in enumerate(gradients, 1):
            mu = beta_1 * (1 - 0.5 * 0.96**t)
            mu_next = beta_1 * (1 - 0.5 * 0.96 ** (t + 1))
            product = product * mu
            m = beta_1 * m + (1 - beta_1) * g
            v = beta_2 * v + (1 - beta_2) * g**2
            m_bar = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
            yield -learning_rate * m_bar / (np.sqrt(v / (1 - beta_2**t)) + epsilon)

    return path(theta, steps())


def whitening(base):
    """The twin of a WGD optimizer from that of its base."""

    def twin(
        theta, gradients, *args, mean_over="kernels", kernel_axes=None, **keywords
    ):
        h = whitened(gradients, mean_over, kernel_axes)
        return base(theta, h, *args, **keywords)

    return twin
