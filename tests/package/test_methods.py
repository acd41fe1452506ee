"""Every optimizer computes what its equations say, and not what its base does."""

import ast
import inspect
import re

import keras
import numpy as np
import pytest
import twins
from table import OPTIMIZERS, ROWS
from trajectories import (
    KERNEL_AXES,
    MODES,
    TENSORS,
    Variables,
    gradients,
    run,
)

import keras_gradopt

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.oldest, pytest.mark.quick]

by_name = pytest.mark.parametrize("name", OPTIMIZERS)


def largest_difference(ours, theirs):
    """Largest difference of two trajectories, relative to the distance travelled."""
    return max(
        np.abs(a - b).max() / max(np.abs(b - b[0]).max(), 1e-30)
        for a, b in zip(ours, theirs)
    )


def test_table_is_complete():
    """No optimizer of the package is without a row."""
    classes = {
        name
        for name in keras_gradopt.optimizers.__all__
        if name not in ("AdamCore", "SGDCore", "Transformed")
    }
    assert set(OPTIMIZERS) == classes
    assert len(classes) == 16


# every mode with default settings, one mode with the others


CORES = {
    "Adam": (keras_gradopt.AdamCore, twins.adam, (1e-3, 0.9, 0.999, 1e-8)),
    "SGD": (keras_gradopt.SGDCore, twins.sgd, (1e-2, 0.0, False)),
    "momentum": (keras_gradopt.SGDCore, twins.sgd, (0.1, 0.9, False)),
    "Nesterov": (keras_gradopt.SGDCore, twins.sgd, (0.1, 0.8, True)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("core", CORES)
def test_core_equals_twin(core, mode):
    make, twin, settings = CORES[core]
    ours = run(make(*settings), Variables(), gradients(), mode)
    expected = [
        twin(values[0], stream, *settings) for values, stream in zip(ours, gradients())
    ]
    assert largest_difference(ours, expected) < 1e-9


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_core_is_keras_sgd_to_rounding(momentum, nesterov):
    settings = {"momentum": momentum, "nesterov": nesterov}
    ours = run(keras_gradopt.SGDCore(0.1, **settings), Variables(), gradients())
    theirs = run(keras.optimizers.SGD(0.1, **settings), Variables(), gradients())
    assert largest_difference(ours, theirs) < 1e-6


def test_few_classes_for_a_reader():
    """Of our own, in the method resolution order; Keras' Adam has one."""
    most = {name: 3 for name in ["AngularGrad", "GAFSGD", "WGDSGD", "AdaL", "GAFAdam"]}
    most |= {name: 4 for name in ["AdamNorm", "RAdamNorm", "DiffGradNorm", "WGDRAdam"]}
    for name in keras_gradopt.optimizers.__all__:
        order = getattr(keras_gradopt, name).__mro__
        own = [cls for cls in order if cls.__module__.startswith("keras_gradopt")]
        assert len(own) <= most.get(name, 4), own


def half_precision_run(optimizer, dtype):
    """Trajectories on gradients of at least 0.01, which no dtype rounds to 0."""
    keras.config.set_floatx("float32")
    streams = gradients("plain", TENSORS[:5])
    streams = [np.maximum(np.abs(g), 1e-2) * np.sign(g) for g in streams]
    variables = Variables(TENSORS[:5], dtype)
    ours = run(optimizer, variables, [s.astype("float32") for s in streams])
    return [values.astype("float64") for values in ours], streams


# Rounding of variables and slots; float32 as in the reference's README.
@pytest.mark.parametrize(
    ("dtype", "rounding"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)]
)
@pytest.mark.parametrize("name", ROWS)
def test_other_dtypes_follow_the_twin(name, dtype, rounding):
    row = ROWS[name]
    ours, streams = half_precision_run(row.make(), dtype)
    for tensor, values, stream in zip(TENSORS, ours, streams):
        axes = KERNEL_AXES.get(tensor)
        expected = row.twin(values[0], stream, kernel_axes=axes, **row.defaults)
        assert np.abs(values - expected).max() < rounding, tensor


@pytest.mark.slow_on_jax
@by_name
def test_differs_on_every_tensor_it_acts_on(name):
    """Not only somewhere: WGD on every kernel, all others on every tensor."""
    row = OPTIMIZERS[name]
    ours = run(row.make(), Variables(), gradients())
    theirs = run(row.base(), Variables(), gradients())
    for tensor, a, b in zip(TENSORS, ours, theirs):
        changed = largest_difference([a], [b]) > 1e-3
        assert changed == (not name.startswith("WGD") or tensor in KERNEL_AXES), tensor


@by_name
def test_slots_are_as_documented(name):
    row = OPTIMIZERS[name]
    optimizer = row.make()
    variables = Variables()
    optimizer.build(list(variables))
    own = [
        v for v in optimizer.variables if v.name not in ("iteration", "learning_rate")
    ]
    assert len(own) == row.slots * len(variables)
    scalars = [v for v in own if len(v.shape) == 0]
    of_each = 2 if name == "NosAdam" else int("Norm" in name)
    assert len(scalars) == of_each * len(variables)


@by_name
def test_documented_defaults_are_the_real_ones(name):
    """The `Defaults to` of a docstring agree with the signature."""
    cls = OPTIMIZERS[name].make
    text = cls.__doc__.split("Args:")[1].split("Raises:")[0]
    entries = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\S|\Z)", text, re.M | re.S)
    documented = {
        argument: ast.literal_eval(re.search(r"Defaults\s+to\s+`(.+?)`", body).group(1))
        for argument, body in entries
    }
    actual = {
        argument: parameter.default
        for argument, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert documented == actual
