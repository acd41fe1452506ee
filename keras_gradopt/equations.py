"""The papers' equations as pure functions of tensors, on `keras.ops`.

Nothing here knows of optimizers or variables. A gradient `g` and what is computed
from it have the shape of one variable; "norm" and "mean" are of that one tensor.
Each function is finite wherever the mathematics is, also where an intermediate
result would overflow or divide by zero.

References:
    AngularGrad: Roy et al. (2021). AdaNorm: Dubey et al. (2022).
    GAF: Liu et al. (2021). AdaL: Zhang et al. (2021).
    WGD: Gholamalinejad and Khosravi (2022).
    AGC: Brock et al. (2021).
    diffGrad: Dubey et al. (2019). RAdam: Liu et al. (2019). Nadam: Dozat (2016).
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


def wide_dtype(dtype: Any) -> str:
    """The dtype to compute in: float32, or `dtype` when that is wider."""
    is_double = keras.backend.standardize_dtype(dtype) == "float64"
    return "float64" if is_double else "float32"


def narrow(x: Tensor, dtype: Any) -> Tensor:
    """`x` cast back to the dtype of a variable or slot; what is finite stays finite."""
    largest = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127")}
    bound = largest.get(keras.backend.standardize_dtype(dtype))
    if bound is not None:
        x = ops.where(ops.isfinite(x), ops.clip(x, -bound, bound), x)
    return ops.cast(x, dtype)


def _largest(x: Tensor) -> float:
    # A finite bound just below overflow, exact in the dtype.
    return 2.0**1023 if wide_dtype(x.dtype) == "float64" else 2.0**127


def _smaller(a: Tensor, b: Any) -> Tensor:
    # ops.minimum, which rounds float64 to float32 on PyTorch
    return ops.where(a < b, a, b)


def _in_full_precision(name: str) -> Callable[[Tensor], Tensor]:
    # `keras.ops.<name>`, which rounds float64 to float32 on JAX
    def function(x: Tensor) -> Tensor:
        if keras.backend.backend() == "jax" and wide_dtype(x.dtype) == "float64":
            import jax.numpy

            return getattr(jax.numpy, name)(x)
        return getattr(ops, name)(x)

    return function


_tanh = _in_full_precision("tanh")
_exact_arctan = _in_full_precision("arctan")

# arctan(t) / t as a polynomial in t^2, for t from 0 to 1: exact to 5e-10
_ARCTAN = (
    np.polynomial.Chebyshev.interpolate(
        lambda u: np.arctan(np.sqrt(u)) / np.sqrt(u), 10, domain=[0, 1]
    )
    .convert(kind=np.polynomial.Polynomial)
    .coef
)


def _arctan(x: Tensor) -> Tensor:
    # XLA on CPUs calls the C library for each arctan, which takes longer than all
    # else in an update. This is as exact in float32, and becomes vector instructions.
    if wide_dtype(x.dtype) == "float64" or keras.backend.backend() == "torch":
        return _exact_arctan(x)
    size = ops.abs(x)
    large = size > 1
    t = ops.where(large, 1 / size, size)
    square, series = ops.square(t), 0.0
    for coefficient in reversed(_ARCTAN):
        series = series * square + float(coefficient)
    angle = series * t
    return ops.sign(x) * ops.where(large, math.pi / 2 - angle, angle)


def squarable(gradient: Tensor) -> Tensor:
    """The gradient with finite entries confined to where squares are finite.

    The bound is 2^62 in float32 and 2^510 in float64: also the difference of two such
    entries has a finite square. Entries that are not finite stay as they are.
    """
    exponent = 510 if wide_dtype(gradient.dtype) == "float64" else 62
    # a tensor: PyTorch's `clip` rounds a number to float32
    bound = ops.convert_to_tensor(2.0**exponent, gradient.dtype)
    clipped = ops.clip(gradient, -bound, bound)
    return ops.where(ops.isfinite(gradient), clipped, gradient)


def compensated_sum(total: Tensor, rest: Tensor, term: Tensor) -> tuple[Tensor, Tensor]:
    """`total + term`, and what rounding left of it (Kahan 1965).

    Args:
        total: the sum so far.
        rest: what rounding has left of it so far.
        term: to add, not negative.

    Returns:
        The new total and the new rest.
    """
    term = term + rest
    new = total + term
    return new, term - (new - total)


def moving_average(average: Tensor, value: Tensor, decay: Any) -> Tensor:
    """`decay * average + (1 - decay) * value`."""
    return decay * average + (1 - decay) * value


def bias_correction(decay: float, step: Tensor) -> Tensor:
    """`1 - decay**step`, without cancellation when `decay` is near 1."""
    if decay == 0:
        return ops.ones_like(step)
    return -ops.expm1(step * math.log(decay))


def adam_direction(m_hat: Tensor, v_hat: Tensor, epsilon: float) -> Tensor:
    """`m_hat / (sqrt(v_hat) + epsilon)` (AdaNorm Algorithm 1)."""
    return m_hat / (ops.sqrt(v_hat) + epsilon)


def rectification(
    step: Tensor, beta_2: float, rho_threshold: float
) -> tuple[Tensor, Tensor]:
    """RAdam's rectification of the adaptive learning rate (WGD Algorithm 1).

    `rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t)` with
    `rho_inf = 2 / (1 - beta_2) - 1`. Written so, it loses its leading digits for
    `beta_2` near 1; with `x = -t ln(beta_2)` the same number is
    `(rho_inf + 2 / ln(beta_2)) - 2 / ln(beta_2) * (1 - x / (e^x - 1))`, whose
    bracket is a constant and whose last factor is a short series for small `x`.

    Args:
        step: t, a floating point scalar counting from 1.
        beta_2: decay of the second moment.
        rho_threshold: rectify where `rho_t` is above this (at least 4).

    Returns:
        `(rectified, r)`: whether to rectify, and the factor `r_t` (0 where not).
    """
    rho_inf = 2 / (1 - beta_2) - 1
    if rho_inf <= 4 or beta_2 == 0:
        return ops.zeros_like(step) > 0, ops.zeros_like(step)
    log = math.log(beta_2)
    x = -step * log
    small = x < 0.1
    x_small = ops.where(small, x, 0.0)
    x_large = ops.where(small, 1.0, x)
    squared = ops.square(x_small)
    series = x_small / 2 - squared * (1 / 12 - squared * (1 / 720 - squared / 30240))
    direct = 1 - x_large / ops.expm1(x_large)
    rho = (rho_inf + 2 / log) - 2 / log * ops.where(small, series, direct)
    rectified = rho > rho_threshold
    safe = ops.where(rectified, rho, 5.0)
    r = ops.sqrt(
        ((safe - 4) * (safe - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * safe)
    )
    return rectified, ops.where(rectified, r, 0.0)


# prod of (1 - 0.5 * 0.96**i) for i = 1, 2, ..., constant to 1e-17 from here on
_NADAM_PRODUCTS = np.cumprod(1 - 0.5 * 0.96 ** np.arange(1.0, 1025.0))


def nadam_weights(beta_1: float, step: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of Nadam's bias-corrected look-ahead momentum (Dozat 2016, Algorithm 2).

    The momentum is `mu_{t+1} m / (1 - mu_1 ... mu_{t+1}) + (1 - mu_t) g / (1 - mu_1
    ... mu_t)` with the new first moment m, the gradient g that it took, and
    `mu_t = beta_1 (1 - 0.5 * 0.96^t)`.

    Args:
        beta_1: decay of the first moment.
        step: t, a floating point scalar counting from 1.

    Returns:
        The weights of m and of g.
    """
    table = ops.convert_to_tensor(_NADAM_PRODUCTS, step.dtype)
    last = len(_NADAM_PRODUCTS) - 1

    def mu(t):
        return beta_1 * (1 - 0.5 * 0.96**t)

    def product(t):  # of mu_1 to mu_t
        index = ops.cast(ops.where(t - 1 < last, t - 1, last), "int32")
        return ops.power(beta_1, t) * ops.take(table, index)

    after = step + 1
    return mu(after) / (1 - product(after)), (1 - mu(step)) / (1 - product(step))


def difference_friction(gradient: Tensor, previous: Tensor) -> Tensor:
    """diffGrad's coefficient `sigmoid(|g_{t-1} - g_t|)`, in [0.5, 1)."""
    return ops.sigmoid(ops.abs(previous - gradient))


def angular_ratio(gradient: Tensor, previous: Tensor) -> Tensor:
    """`x = |g_t - g_{t-1}| / |1 + g_t g_{t-1}|`, the tangent of AngularGrad's angle.

    Infinite (a right angle) where `g_t g_{t-1} = -1`. Both sides of the fraction
    are halved, which is exact and keeps the difference of huge gradients finite.
    """
    half = 0.5 * gradient
    return ops.abs(half - 0.5 * previous) / ops.abs(0.5 + half * previous)


def angular_friction(
    ratio: Tensor, previous_ratio: Tensor, angle: str, lambda_1: float, lambda_2: float
) -> Tensor:
    """AngularGrad's coefficient `lambda_1 tanh|f(A_min)| + lambda_2` (eq. 13, 15).

    Args:
        ratio: `tan A_t`, from `angular_ratio`.
        previous_ratio: `tan A_{t-1}`; the smaller angle has the smaller tangent.
        angle: f: `"cos"`, as `cos(arctan x) = 1 / sqrt(1 + x^2)`, or `"tan"`, x.
        lambda_1: weight of the angle.
        lambda_2: the smallest coefficient.
    """
    ratio = _smaller(previous_ratio, ratio)
    if angle == "cos":
        ratio = 1 / ops.sqrt(1 + ops.square(ratio))
    return lambda_1 * _tanh(ratio) + lambda_2


def l2_norm(gradient: Tensor) -> Tensor:
    """The L2 norm of the whole tensor, a scalar.

    As the norm of the norms of its columns, which compilers for CPUs vectorize; a
    single sum of all entries they may not reorder.
    """
    if 0 in gradient.shape:  # which cannot be brought into columns
        return ops.sum(gradient)
    columns = ops.reshape(gradient, (-1, *gradient.shape[-1:]))
    norms = ops.sqrt(ops.sum(ops.square(columns), axis=0))
    return ops.sqrt(ops.sum(ops.square(norms)))


def norm_correction(
    gradient: Tensor, norm_average: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """AdaNorm's correction (eq. 2-4).

    `e <- gamma e + (1 - gamma) ||g||`; the gradient is lengthened to the norm `e`
    when that is longer. A zero gradient stays zero. A norm that overflows leaves
    `e` and the gradient as they are.

    Returns:
        `(corrected gradient, new norm_average)`
    """
    norm = l2_norm(gradient)
    finite = ops.isfinite(norm)
    norm_average = ops.where(
        finite, moving_average(norm_average, norm, gamma), norm_average
    )
    longer = ops.logical_and(norm_average > norm, norm > 0)
    unit = gradient / ops.where(longer, norm, 1.0)
    return ops.where(longer, norm_average * unit, gradient), norm_average


def l1_scaling(gradient: Tensor) -> Tensor:
    """AdaL's transformed gradient `||g||_1 g` (Algorithm 1).

    What is finite stays finite: sum and product end at a bound below overflow.
    """
    # a tensor: PyTorch's `clip` rounds a number to float32
    bound = ops.convert_to_tensor(_largest(gradient), gradient.dtype)
    norm = ops.sum(ops.abs(gradient))
    norm = ops.where(ops.isfinite(norm), norm, bound)
    scaled = ops.clip(norm * gradient, -bound, bound)
    return ops.where(ops.isfinite(gradient), scaled, gradient)


def _log_activation(x: Tensor) -> Tensor:
    return ops.sign(x) * ops.log1p(_smaller(ops.abs(x), _largest(x)))


ACTIVATIONS = {"arctan": _arctan, "tanh": _tanh, "log": _log_activation}


def gradient_activation(
    x: Tensor, activation: str, alpha: float, beta: float
) -> Tensor:
    """GAF: `alpha f(beta x)`, f = arctan, tanh or `sign(x) ln(1 + |x|)` (Table I)."""
    return alpha * ACTIVATIONS[activation](beta * x)


def adaptive_clipping(
    gradient: Tensor, value: Tensor, clipping: float, epsilon: float
) -> Tensor:
    """AGC: no unit's gradient longer than `clipping * max(||w||, epsilon)`.

    Brock et al. (2021), eq. 3. A unit is what the last axis counts; a tensor of rank 0
    or 1 is one. Gradients that are finite stay so; one that is not stays as it is.
    """
    if 0 in gradient.shape:
        return gradient
    axes = tuple(range(len(gradient.shape) - 1)) or None
    weights = ops.sqrt(ops.sum(ops.square(value), axes, keepdims=True))
    longest = clipping * ops.where(weights > epsilon, weights, epsilon)
    largest = ops.max(ops.abs(gradient), axes, keepdims=True)
    largest = ops.where(largest > 0, largest, 1.0)
    scaled = gradient / largest  # so that no square overflows
    length = ops.sqrt(ops.sum(ops.square(scaled), axes, keepdims=True))
    clipped = scaled * (longest / ops.where(length > 0, length, 1.0))
    return ops.where(length > longest / largest, clipped, gradient)


def whiten(gradient: Tensor, axes: tuple[int, ...]) -> Tensor:
    """WGD: `h = g - mean(g)`, the mean over `axes` (eq. 11, eq. 13-14)."""
    count = math.prod(gradient.shape[axis] for axis in axes)
    # Scaled by a power of two, which is exact, so that no sum overflows.
    scale = 2.0 ** -(count - 1).bit_length()
    # Flipped, the sum is the same. Unflipped, XLA on GPUs fuses "sum, subtract" into
    # each kernel that needs h, and each moment gets a kernel of its own: 10 words
    # instead of 8.
    flipped = gradient * scale
    for axis in axes:  # one by one: Keras 3.10 on TensorFlow takes no tuple
        flipped = ops.flip(flipped, axis)
    return gradient - ops.sum(flipped, axis=axes, keepdims=True) / (scale * count)
