"""GAF's procedure for its two hyperparameters."""

import math
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gradopt import arguments
from keras_gradopt.monitoring.monitor import GradientMonitor

_BOUNDS = {"arctan": math.pi / 2, "tanh": 1.0}  # of the activation for alpha = 1


class ActivationAdvice(NamedTuple):
    """What `recommend_activation` found.

    Attributes:
        activation: the activation that was asked for.
        alpha: recommended scale of its output.
        beta: recommended scale of its input.
        reason: why, in sentences.
        maximal_gradients: the largest entry of the gradient, step by step.
        scales: positions along the direction, in units of the weights' own norm.
        losses: the loss at each of them.
        growth: p, where the loss grows as `|scale|^p` around the trained weights; NaN
            if it has no minimum there.
    """

    activation: str
    alpha: float
    beta: float
    reason: str
    maximal_gradients: np.ndarray
    scales: np.ndarray
    losses: np.ndarray
    growth: float


def recommend_activation(
    model: keras.Model,
    x: Any,
    y: Any,
    activation: str = "arctan",
    steps: int = 100,
    batch_size: int = 32,
    radius: float = 1.0,
    points: int = 11,
    directions: int = 3,
    seed: int = 0,
) -> ActivationAdvice:
    """GAF's steps (a)-(d): alpha and beta for one model and its data.

    (a) trains a copy of the model as it was compiled, without activation, and records
    the largest entry of the gradient, which appears early in training. (b) draws the
    loss along random directions through the trained weights, each filter scaled to the
    norm of the filter there (Li et al. 2018), and compares it with a parabola. Where
    the loss is flatter than one, small gradients are to be enlarged (`alpha beta > 1`);
    where it is sharper, reduced. (c, d) alpha is set so that large gradients are
    restrained.

    The paper does not put numbers to (b)-(d). Here: the loss, averaged over directions
    and their opposites, grows as `|scale|^p` around the weights, p by least squares on
    logarithms over the lower half of its rise; flatter means `p >= 1.95`, and `alpha
    beta` is then 2, as in both pairs that the paper recommends, else 1/2; the bound of
    the activation is half of the largest gradient. The paper's advice is to try (0.1,
    20) and (0.2, 10) first.

    The model itself stays as it is.

    Args:
        model: compiled; Sequential or functional.
        x: inputs, an array.
        y: targets, an array.
        activation: `"arctan"` or `"tanh"`; `"log"` has no bound. Defaults to
            `"arctan"`.
        steps: of training in (a). Defaults to `100`.
        batch_size: in examples. Defaults to `32`.
        radius: the largest scale in (b), in units of the filters' norms. Defaults to
            `1.0`.
        points: of the loss curve, odd. Defaults to `11`.
        directions: random directions, over which the loss is averaged. Defaults to `3`.
        seed: of directions and order of examples. Defaults to `0`.

    Returns:
        An `ActivationAdvice`.

    Raises:
        ValueError: for an argument out of range, a model that is not compiled, no
            examples or another number of targets, or gradients that are not finite or
            all zero.

    Example:

    >>> import keras, keras_gradopt, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> advice = keras_gradopt.recommend_activation(model, x, x.sum(1), steps=20)
    >>> round(advice.growth, 1)  # a parabola
    2.0
    >>> round(advice.alpha * advice.beta, 6)
    2.0

    Reference:
        Liu et al., Activated Gradients for Deep Neural Networks, section IV-B.
    """
    arguments.choice("activation", activation, list(_BOUNDS))
    steps = arguments.whole_number("steps", steps, 1)
    batch_size = arguments.whole_number("batch_size", batch_size, 1)
    radius = arguments.positive("radius", radius)
    if arguments.whole_number("points", points, 5) % 2 == 0:
        raise arguments.refuse("points", points, "an odd number, at least 5")
    directions = arguments.whole_number("directions", directions, 1)
    seed = arguments.whole_number("seed", seed, 0)
    x, y = np.asarray(x), np.asarray(y)
    if not (x.ndim and y.ndim and len(x) == len(y) > 0):
        raise ValueError(
            "`x` and `y` must be arrays of equally many examples, at least one. "
            f"Received: x of shape {x.shape}, y of shape {y.shape}"
        )
    if not getattr(model, "compiled", False):
        raise ValueError("`model` must be compiled, without activated gradients.")
    with warnings.catch_warnings():  # a schedule may be a lambda; it stays here
        warnings.simplefilter("ignore")
        serialized = keras.saving.serialize_keras_object(model.optimizer)
    optimizer = keras.saving.deserialize_keras_object(serialized, safe_mode=False)
    if not model.built:
        model.build((None, *x.shape[1:]))
    # without its loss, which need not be serializable
    copy = keras.models.clone_model(keras.Model(model.inputs, model.outputs))
    copy.set_weights(model.get_weights())
    copy.compile(optimizer, model.loss)

    maximal = _maximal_gradients(copy, x, y, steps, batch_size, seed)
    if not np.isfinite(maximal).all():
        raise ValueError(
            "The gradients are not finite: train with a smaller learning rate first."
        )
    scales = np.linspace(-radius, radius, points)
    losses = _losses_along(copy, x, y, scales, directions, batch_size, seed)
    growth = _growth(scales, losses)
    largest = float(maximal.max())
    product = 0.5 if growth < 1.95 else 2.0
    alpha = largest / 2 / _BOUNDS[activation]
    if alpha == 0:
        raise ValueError("All gradients are zero: there is nothing to recommend.")
    if math.isnan(growth):
        shape = "has no minimum, so the usual alpha beta = 2 is taken"
    elif product == 2:
        shape = (
            f"grows as |scale|^{growth:.2f}, no sharper than a parabola, so small "
            "gradients are enlarged: alpha beta = 2"
        )
    else:
        shape = (
            f"grows as |scale|^{growth:.2f}, sharper than a parabola, so small "
            "gradients are reduced: alpha beta = 0.5"
        )
    reason = (
        f"(a) The largest gradient entry was {largest:.3g}, in step "
        f"{int(maximal.argmax()) + 1} of {len(maximal)}. (b) Along a random direction "
        f"the loss {shape}. (c, d) {activation} is bounded by alpha x "
        f"{_BOUNDS[activation]:.3g}; alpha = {alpha:.3g} makes that half of the "
        "largest gradient. The paper suggests to try (0.1, 20) and (0.2, 10) first."
    )
    return ActivationAdvice(
        activation, alpha, product / alpha, reason, maximal, scales, losses, growth
    )


def _maximal_gradients(model, x, y, steps, batch_size, seed):
    random = np.random.default_rng(seed)
    need, drawn = steps * batch_size, np.empty(0, int)
    while len(drawn) < need:
        drawn = np.append(drawn, random.permutation(len(x)))
    order = drawn[:need]
    monitor = GradientMonitor(every=1, group_by="model")
    model.fit(
        x[order], y[order], batch_size, shuffle=False, verbose=0, callbacks=[monitor]
    )
    return np.array(monitor.series("gradient_max")[1])


def _losses_along(model, x, y, scales, directions, batch_size, seed):
    """The loss at the weights plus multiples of filter-normalized directions."""
    random = np.random.default_rng(seed)
    weights = [v.numpy() for v in model.trainable_variables]
    total = np.zeros(len(scales))
    for _ in range(directions):
        direction = [filter_normalized(random, weight) for weight in weights]
        for i, scale in enumerate(scales):
            for v, weight, d in zip(model.trainable_variables, weights, direction):
                v.assign(weight + scale * d)
            total[i] += model.evaluate(x, y, batch_size, verbose=0)
    return total / directions


def filter_normalized(random: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """A random direction, each filter as long as that of the weights (Li et al. 2018).

    Filters are along the last axis, as in Keras' kernels. Biases and scales, of rank
    0 and 1, are not moved.

    Args:
        random: a NumPy generator.
        weight: of any shape.

    Returns:
        An array of the same shape.
    """
    if weight.ndim < 2:
        return np.zeros_like(weight)
    direction = random.normal(size=weight.shape)
    axes = tuple(range(weight.ndim - 1))
    norms = np.sqrt(np.sum(weight**2, axes) / np.sum(direction**2, axes))
    return direction * norms


def _growth(scales, losses):
    # both directions together: the slope, if there still is one, cancels
    rise = (losses + losses[::-1]) / 2 - losses[len(losses) // 2]
    rise, distance = rise[scales > 0], scales[scales > 0]
    inner = (rise > 0) & (rise <= 0.5 * rise.max())
    if inner.sum() < 2:  # so sharp that only the ends are left, or no minimum
        inner = rise > 0
    if inner.sum() < 2:
        return math.nan
    exponent, _ = np.polyfit(np.log(distance[inner]), np.log(rise[inner]), 1)
    return float(exponent)
