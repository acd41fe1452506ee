"""Random shapes, gradients and hyperparameters: every optimizer is its float64 twin.

The examples that are given are what such a search found before; they come first.
"""

import inspect
import math

import keras
import numpy as np
import pytest
import twins
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from keras import ops
from table import OPTIMIZERS
from trajectories import BACKEND, numpy_values

import keras_gradopt as kg
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]

bounded = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking would take minutes
    suppress_health_check=list(HealthCheck),
)
searched = pytest.mark.skipif(
    BACKEND == "jax", reason="JAX compiles each operation for each new shape"
)


def log_uniform(low, high):
    return st.floats(math.log10(low), math.log10(high)).map(lambda x: 10.0**x)


# Where the twins are exact themselves: 1 - beta has enough digits left in float64.
DECAY = st.one_of(st.sampled_from([0.0, 0.9, 0.999]), st.floats(0.01, 0.9999))
# halves, quarters, ...: Keras' SGD rounds its momentum to float32
DYADIC = st.integers(0, 63).map(lambda n: n / 64)
STRATEGIES = {
    "learning_rate": log_uniform(1e-6, 10),
    "beta_1": DECAY,
    "beta_2": DECAY,
    "epsilon": log_uniform(1e-16, 1),
    "angle": st.sampled_from(["cos", "tan"]),
    "lambda_1": st.floats(0, 2),
    "lambda_2": st.floats(0.01, 2),
    "gamma": DECAY,
    "corrected_moments": st.sampled_from(["first", "second", "both"]),
    "rho_threshold": st.floats(4, 12),
    "activation": st.sampled_from(["arctan", "tanh", "log"]),
    "alpha": log_uniform(1e-2, 10),
    "beta": log_uniform(1e-2, 100),
    "momentum": DYADIC,
    "nesterov": st.booleans(),
    "learning_rate_inside": st.booleans(),
    "mean_over": st.sampled_from(["kernels", "entries"]),
}


def keywords_for(cls):
    """Random arguments of an optimizer or transform, any subset of them."""
    names = [n for n in inspect.signature(cls).parameters if n in STRATEGIES]
    chosen = {name: STRATEGIES[name] for name in names}
    return st.fixed_dictionaries({}, optional=chosen)


SHAPES = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=5).map(tuple)
KINDS_OF_GRADIENT = [
    "normal",
    "zero",
    "repeated",
    "negated",
    "shorter",
    "sparse",
    "mixed",
    "tiny",
    "huge",
    "denormal",
]
STEPS = st.lists(st.sampled_from(KINDS_OF_GRADIENT), min_size=1, max_size=8)


def gradients(kinds, shape, seed=0, largest=30):
    """One gradient for each kind, of this shape."""
    random, made = np.random.default_rng(seed), []
    for kind in kinds:
        gradient = random.normal(size=shape)
        of_last = {"repeated": 1, "negated": -1, "shorter": 0.6}.get(kind)
        if kind == "zero":
            gradient = np.zeros(shape)
        elif of_last and made:
            gradient = of_last * made[-1]
        elif kind == "sparse":
            gradient = gradient * random.integers(0, 2, size=shape)
        elif kind == "mixed":
            gradient = gradient * 10.0 ** random.uniform(-30, largest, size=shape)
        scale = {"tiny": 1e-30, "huge": 10.0**largest, "denormal": 1e-310}
        made.append(np.asarray(gradient * scale.get(kind, 1)))
    return made


def assert_follows(ours, theirs, rtol, start):
    """Each entry, to rounding: of what it has travelled, and of its own value."""
    distance = np.abs(np.diff(theirs, axis=0)).sum(axis=0)
    rounding = 4 * len(ours) * np.finfo(ours.dtype).eps * np.abs(start)
    difference = np.abs(ours - theirs).max(axis=0, initial=0)
    wrong = ~(difference <= rtol * distance + rounding)
    assert not wrong.any(), (
        f"off by {difference[wrong]} after {distance[wrong]}; "
        f"ours {ours[:, wrong]}, twin {theirs[:, wrong]}"
    )


def kernel_axes(shape):
    """Of a variable that no layer owns: the last axis of rank 3 to 5."""
    return (len(shape) - 1,) if len(shape) in (3, 4, 5) else None


def axes_to_whiten(shape, mean_over):
    """None where the mean would be of one entry, or there is nothing."""
    kernels = kernel_axes(shape)
    if kernels is None:
        return None
    axes = kernels
    if mean_over == "entries":
        axes = tuple(set(range(len(shape))) - set(kernels))
    return kernels if math.prod(shape[a] for a in axes) > 1 else None


def keeps_digits(streams, mean_over, axes):
    """Whether what is left of a gradient without its mean is more than rounding."""
    left = twins.whitened(streams, mean_over, axes)
    return all(
        (np.abs(h) >= 1e-6 * np.abs(g).max()).all() or not g.any()
        for h, g in zip(left, streams)
        if g.size
    )


def steps(optimizer, start, streams, dtype="float64", beside=None):
    """The values of a variable after each step; `beside` is what a second one gets."""
    variable = keras.Variable(start, dtype=dtype, name="weight")
    other = keras.Variable(np.ones((2, 3)), dtype=dtype, name="beside")
    optimizer.build([variable, other])
    values = [numpy_values([variable])[0]]
    for number, gradient in enumerate(streams):
        skipped = beside is not None and beside[number]
        grads = [ops.convert_to_tensor(gradient, dtype=dtype), None]
        if not skipped:
            grads[1] = ops.ones((2, 3), dtype=dtype)
        watched = [other, *(v for v in optimizer.variables if "beside" in v.path)]
        before = numpy_values(watched) if skipped else []
        optimizer.apply(grads, [variable, other])
        if skipped:
            for old, new in zip(before, numpy_values(watched)):
                np.testing.assert_array_equal(old, new)
        values.append(numpy_values([variable])[0])
    return np.stack(values)


def twin_of(name, start, streams, keywords):
    row = OPTIMIZERS[name]
    arguments = {**row.defaults, **keywords}
    axes = axes_to_whiten(start.shape, arguments.get("mean_over", "kernels"))
    if name.startswith("WGD") and axes:
        mean_over = arguments.get("mean_over", "kernels")
        assume(keeps_digits(streams, mean_over, axes))
    with np.errstate(all="ignore"):
        return row.twin(start, streams, kernel_axes=axes, **arguments)


@searched
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OPTIMIZERS)
@bounded
@given(data=st.data())
def test_optimizer_is_its_twin(name, data):
    """In float64; a variable that gets no gradient is not touched, slots and all."""
    keywords = data.draw(keywords_for(OPTIMIZERS[name].make), "keywords")
    shape, kinds = data.draw(SHAPES, "shape"), data.draw(STEPS, "steps")
    seed = data.draw(st.integers(0, 9), "seed")
    skipped = data.draw(st.lists(st.booleans(), min_size=8, max_size=8), "skipped")
    if name in ("AdaBelief", "AdaBeliefNorm", "RAdam", "RAdamNorm", "WGDRAdam"):
        # g - m, and rho near its threshold, lose the twin's own digits
        keywords.pop("beta_1", None), keywords.pop("beta_2", None)
    streams = gradients(kinds, shape, seed)
    start = np.random.default_rng(seed).normal(size=shape)
    expected = twin_of(name, start, streams, keywords)
    assume(np.isfinite(expected).all())
    ours = steps(OPTIMIZERS[name].make(**keywords), start, streams, beside=skipped)
    rtol = max(OPTIMIZERS[name].rtol, 1e-7)
    assert_follows(ours, expected, rtol, start)


def friction(streams, coefficient):
    """(gradients, coefficients) of a transform that scales the learning rate."""
    previous, factors = 0.0, []
    for g in streams:
        factors.append(coefficient(g, previous))
        previous = g
    return streams, factors


def angular(streams, angle="cos", lambda_1=0.5, lambda_2=0.5):
    angles = []

    def coefficient(g, previous):
        with np.errstate(all="ignore"):
            angles.append(np.arctan(np.abs((g - previous) / (1 + g * previous))))
            smaller = np.minimum(*angles[-2:]) if len(angles) > 1 else angles[-1]
            f = np.cos(smaller) if angle == "cos" else np.tan(smaller)
            return lambda_1 * np.tanh(np.abs(f)) + lambda_2

    return friction(streams, coefficient)


def difference(streams):
    return friction(streams, lambda g, p: 1 / (1 + np.exp(-np.abs(g - p))))


def without(function):
    """A transform without a coefficient, from its twin of the gradients."""
    return lambda streams, **keywords: (function(streams, **keywords), None)


def activated(streams, activation="arctan", alpha=0.1, beta=20.0):
    return [twins.activate(g, activation, alpha, beta) for g in streams]


def centered(streams, mean_over="kernels"):
    axes = axes_to_whiten(streams[0].shape, mean_over)
    if axes:
        assume(keeps_digits(streams, mean_over, axes))
    return twins.whitened(streams, mean_over, axes)


TRANSFORMS = {
    kt.AngularFriction: angular,
    kt.DifferenceFriction: difference,
    kt.Activate: without(activated),
    kt.Whiten: without(centered),
    kt.CorrectNorm: without(lambda s, gamma=0.95: list(twins.corrected(s, gamma))),
    kt.ScaleByL1Norm: without(lambda s: [np.abs(g).sum() * g for g in s]),
}


@searched
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("last", TRANSFORMS, ids=lambda cls: cls.__name__)
@bounded
@given(data=st.data())
def test_transforms_in_a_row_are_their_twins(last, data):
    """In front of plain SGD, each transform alone or after others."""
    others = st.lists(st.sampled_from(list(TRANSFORMS)), max_size=2, unique=True)
    classes = [c for c in data.draw(others, "before") if c is not last] + [last]
    shape, kinds = data.draw(SHAPES, "shape"), data.draw(STEPS, "steps")
    streams = gradients(kinds, shape, largest=12)
    rate = data.draw(log_uniform(1e-6, 1), "learning_rate")
    built, changes = [], [-rate] * len(streams)
    with np.errstate(all="ignore"):
        left = streams
        for cls in classes:
            keywords = data.draw(keywords_for(cls), cls.__name__)
            built.append(cls(**keywords))
            left, factors = TRANSFORMS[cls](left, **keywords)
            for number, factor in enumerate(factors or []):
                changes[number] = changes[number] * factor
    start = np.random.default_rng(0).normal(size=shape)
    expected = twins.path(start, (c * g for c, g in zip(changes, left)))
    ours = steps(kg.Transformed(keras.optimizers.SGD(rate), built), start, streams)
    assert_follows(ours, expected, 1e-7, start)
