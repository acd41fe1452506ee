"""At the ends of floating point: huge gradients, long runs, empty variables."""

import keras
import numpy as np
import pytest
from keras import ops
from table import ALL, OPTIMIZERS
from trajectories import stepper

import keras_gradopt as kg
from keras_gradopt import equations

pytestmark = [pytest.mark.oldest, pytest.mark.quick]

ADAPTIVE = [name for name in OPTIMIZERS if "SGD" not in name]
LARGEST = float(np.finfo("float32").max)


def walk(optimizer, gradients, shape=(3,)):
    """Applies gradients to a variable; returns its values, step by step."""
    weight = keras.Variable(np.zeros(shape, "float32"))
    step = stepper(optimizer, [weight])
    values = []
    for gradient in gradients:
        step([ops.convert_to_tensor(gradient)])
        values.append(ops.convert_to_numpy(weight)[:3].copy())
    return np.array(values)


def one_huge(value, steps, at=10):
    """Gradients of which one entry is huge in one step."""
    gradients = np.random.default_rng(0).normal(size=(steps, 3)).astype("float32")
    gradients[at, 0] = value
    return gradients


FORGETFUL = {"beta_1": 0.5, "beta_2": 0.7}  # so that it takes hundreds of steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTIVE)
def test_one_huge_gradient_does_not_freeze_an_entry(name):
    """Its second moment stays finite and decays, so the entry moves again.

    A second moment that overflows is infinite for ever, and the update is zero.
    """
    forgets = name != "NosAdam"  # whose second moment is a mean of all
    keywords = FORGETFUL if forgets else {}
    values = walk(OPTIMIZERS[name].make(**keywords), one_huge(1e25, 350))
    assert np.isfinite(values).all()
    steps = np.abs(np.diff(values[:, 0]))
    assert steps.max() < 0.1  # no leap
    assert steps[-9:].max() > 1e-4 or not forgets


@pytest.mark.parametrize("name", ADAPTIVE)
def test_huge_gradients_count_as_the_largest_that_can_be_squared(name):
    bound = 2.0**62
    ours = walk(OPTIMIZERS[name].make(), np.full((3, 3), 3e25, "float32"))
    if name in ("GAFAdam", "AdaL") or "Norm" in name or "iff" in name:
        assert np.isfinite(ours).all()  # they see the gradient before
    else:
        theirs = walk(OPTIMIZERS[name].make(), np.full((3, 3), bound, "float32"))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_adal_in_a_large_variable():
    """The sum of a million gradients of 5e6, times 5e6, has no square in float32."""
    ones = np.ones(1_000_000, "float32")
    gradients = (5e6 * ones if t == 10 else ones for t in range(350))
    values = walk(kg.AdaL(**FORGETFUL), gradients, (1_000_000,))[:, 0]
    assert np.isfinite(values).all()
    assert abs(values[-1] - values[-2]) > 1e-4


def test_sum_of_nosadams_weights_in_a_long_run():
    """In float32 one sum is a quarter off from 1e7 steps on, and then stops."""
    first, steps, gamma = 10_000_000, 4000, 0.1
    weights = np.arange(first, first + steps, dtype="float64") ** -gamma
    start = np.float32(first ** (1 - gamma) / (1 - gamma))
    total, rest, naive = start, np.float32(0), start
    for weight in weights.astype("float32"):
        total, rest = equations.compensated_sum(total, rest, weight)
        naive = naive + weight
    added = float(total) - float(start) + float(rest)
    assert added == pytest.approx(weights.sum(), rel=1e-5)
    assert float(naive) - float(start) != pytest.approx(weights.sum(), rel=0.1)


def test_nosadam_keeps_the_rest():
    """The compensated sum is what the optimizer uses, also compiled."""
    optimizer = kg.NosAdam()
    weight = keras.Variable(np.zeros(2, "float32"))
    optimizer.build([weight])
    slots = {v.name.split("_", 1)[1]: v for v in optimizer.variables if "_" in v.name}
    total = next(v for n, v in slots.items() if n.endswith("weight_sum"))
    start = 2.2e6
    total.assign(start)
    optimizer.iterations.assign(10_000_000)
    for _ in range(40):  # each adds 0.2, where the next larger number is 0.25 away
        optimizer.apply([ops.ones(2)], [weight])
    rest = next(v for n, v in slots.items() if n.endswith("weight_sum_rest"))
    added = float(total) - start + float(rest)
    assert added == pytest.approx(40 * 1e7**-0.1, rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 2), (1, 1, 5, 7)])
def test_whitening_values_near_the_largest(shape):
    axes = (len(shape) - 1,)
    gradient = np.full(shape, LARGEST, "float32")
    gradient[..., -1] = 0
    whitened = ops.convert_to_numpy(equations.whiten(ops.array(gradient), axes))
    exact = gradient.astype("float64")
    exact -= exact.mean(axis=axes, keepdims=True)
    np.testing.assert_allclose(whitened, exact, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(3, 0), (0,), (0, 2)])
def test_empty_variables(name, shape):
    """They change nothing, and the others go on."""
    if name == "Transformed Lion" and shape == (0, 2):
        pytest.skip("Keras' own Lion fails on TensorFlow")
    variables = [keras.Variable(np.ones(s, "float32")) for s in (shape, (2, 2))]
    optimizer = ALL[name]()
    for _ in range(2):
        optimizer.apply([ops.ones(v.shape) for v in variables], variables)
    assert tuple(variables[0].shape) == shape
    moved = ops.convert_to_numpy(variables[1])
    assert np.isfinite(moved).all()
    assert not np.array_equal(moved, np.ones((2, 2)))
