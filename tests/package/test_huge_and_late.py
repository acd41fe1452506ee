"""Gradients near the ends of float32 follow the twin; so does a very late step.

What a random search found once, each case by itself; test_properties.py searches.
"""

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import ops
from table import OPTIMIZERS
from test_properties import activated, assert_follows, bounded, searched, steps
from trajectories import numpy_values

import keras_gradopt as kg
from keras_gradopt import equations

pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]

LARGEST = 2.0**62  # of a gradient in float32, as Adam-like updates take it
TAKEN = {  # what reaches the moments, from the gradients
    "AdaL": lambda streams: [np.abs(g).sum() * g for g in streams],
    "GAFAdam": activated,
}
# a norm of such gradients overflows, and then corrects nothing: see the test below
EXACT = ["RAdam", "AdaBelief", "NosAdam", "DiffGrad", "AngularGrad", "WGDAdam"]
EXACT += ["WGDNadam", "WGDRAdam", *TAKEN]


def clipped_twin(name, start, streams):
    """The twin of an update that counts gradients beyond the largest as the largest."""
    base = "WGDAdam" if name in TAKEN else name
    taken = [np.clip(g, -LARGEST, LARGEST) for g in TAKEN.get(name, list)(streams)]
    return OPTIMIZERS[base].twin(start, taken, **OPTIMIZERS[name].defaults)


@pytest.mark.parametrize("huge", [1e18, 1e19, 1e20, -1e30, 3e38])
@pytest.mark.parametrize("name", EXACT)
def test_one_huge_gradient_does_not_freeze_an_entry(name, huge):
    """In float32 `1e20` squared is infinite; the entry recovers as the exact one does.

    An ordinary entry beside it does not notice, except in AdaL, whose norm it is in.
    """
    random = np.random.default_rng(0)
    streams = [g.astype("float32") for g in random.normal(size=(30, 4))]
    streams[3][1] = huge
    start = random.normal(size=4).astype("float32")
    optimizer = OPTIMIZERS[name].make()
    ours = steps(optimizer, start, streams, "float32")
    for variable in optimizer.variables:
        if "ratio" not in variable.name:  # infinite: a right angle
            assert np.isfinite(numpy_values([variable])[0]).all(), variable.path
    wide = [g.astype("float64") for g in streams]
    expected = clipped_twin(name, start.astype("float64"), wide)
    assert_follows(ours, expected, 1e-3, start)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_number_is_visible(name, bad):
    """As with Keras' Adam: what has seen one is not finite, so that one is told.

    GAF bounds an infinite gradient; that is what its activation is for.
    """
    streams = [np.ones(3, "float32") for _ in range(4)]
    streams[2] = np.array([1, bad, 1], "float32")
    values = steps(OPTIMIZERS[name].make(), np.ones(3, "float32"), streams, "float32")
    bounded_by_equation = name.startswith("GAF") and np.isinf(bad)
    assert np.isfinite(values[-1][1]) == bounded_by_equation
    adam = steps(keras.optimizers.Adam(), np.ones(3, "float32"), streams, "float32")
    assert not np.isfinite(adam[-1][1])


@pytest.mark.parametrize("steps_before", [10, 10**6, 10**7, 2**24 + 2, 3 * 10**7])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])
def test_nosadam_late(gamma, steps_before):
    """The weight of a gradient, `t^-gamma / B_t`, whatever the number of the step."""
    optimizer = kg.NosAdam(gamma=gamma)
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer.build([variable])
    optimizer.iterations.assign(steps_before)
    velocity = next(v for v in optimizer.variables if "velocity" in v.path)
    t = steps_before + 1
    weights = np.arange(1, t + 1, dtype="float64") ** -gamma
    weight = weights[-1] / weights.sum()
    for slot in optimizer.variables:
        if slot.name.endswith("weight_sum"):
            slot.assign(weights[:-1].sum())
    gradient = np.sqrt(1 / weight)  # so that old and new are of one size
    velocity.assign(np.full(2, 1.0, "float32"))
    optimizer.apply([ops.full((2,), gradient, "float32")], [variable])
    expected = (1 - weight) + weight * gradient**2
    np.testing.assert_allclose(numpy_values([velocity])[0], expected, rtol=1e-4)


FLOAT32 = float(np.finfo("float32").max)
ENDS = st.sampled_from([0.0, 1.0, 1e38, 3e38, FLOAT32, -1e38, -3e38, -FLOAT32])


@searched
@bounded
@example(values=[FLOAT32, FLOAT32, 0.0])
@example(values=[3e38, 3e38, 3e38, 0.0])
@given(values=st.lists(ENDS, min_size=2, max_size=8))
def test_whitening_near_the_largest_number(values):
    """Finite where the exact result is; never -inf for a 0 among large ones."""
    gradient = np.array(values, "float32").reshape(1, 1, -1)
    wide = gradient.astype("float64")
    exact = wide - wide.mean(axis=-1, keepdims=True)
    ours = equations.whiten(ops.convert_to_tensor(gradient), (2,))
    ours = ops.convert_to_numpy(ours).astype("float64")
    fits = np.abs(exact) <= FLOAT32
    assert not np.isnan(ours).any()
    error = np.abs(ours - exact)[fits]
    assert (error <= 1e-5 * np.abs(wide).max()).all(), (ours, exact)
    assert (np.sign(ours[~fits]) == np.sign(exact[~fits])).all()
