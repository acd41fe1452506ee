"""Runs an optimizer on given gradients: eager, as a graph, compiled by XLA.

"graph" is what users have, a graph whose inner functions XLA compiles; "uncompiled" is
the same with `KERAS_GRADOPT_JIT_COMPILE=0`; "xla" compiles the whole.
"""

import ast
import json
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_gradopt.testing import bench

REFERENCE = Path(__file__).parent / "reference"
BACKEND = keras.backend.backend()
MODES = {
    "tensorflow": ["eager", "uncompiled", "graph", "xla"],
    "jax": ["xla"],  # eager, op by op, is slow; small tests elsewhere use it
    "torch": ["eager"],
}[BACKEND]
# the quickest, for tests that are not about the mode
MODE = {"tensorflow": "uncompiled", "jax": "xla", "torch": "eager"}[BACKEND]

# each mode; all but the quickest are slow tests
EVERY_MODE = [
    pytest.param(mode, marks=[] if mode == MODE else pytest.mark.slow) for mode in MODES
]


def module_marks(path):
    """The names in a module's `pytestmark`, read from its text without importing it."""
    return {
        node.attr
        for statement in ast.parse(path.read_text()).body
        if ast.unparse(statement).startswith("pytestmark = ")
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Attribute)
    }


@cache
def manifest():
    return json.loads((REFERENCE / "manifest.json").read_text())


@cache
def recorded(file):
    with np.load(REFERENCE / file) as arrays:
        return {key: arrays[key] for key in arrays.files}


TENSORS = ["scale", "bias", "dense", "conv", "dwconv", "conv1d", "dwk"]

# The axes that count the kernels of a tensor, for the twins: written by hand from
# the layouts in the reference's README.
KERNEL_AXES = {"conv": (3,), "dwconv": (3,), "conv1d": (2,), "dwk": (2, 3)}


def gradients(stream="main", tensors=TENSORS):
    """The recorded gradients, `(steps, *shape)` for each tensor."""
    arrays = recorded("gradients.npz")
    return [arrays[f"{stream}/{name}"] for name in tensors]


def initial_values(tensors=TENSORS):
    """The recorded initial values."""
    return [recorded("gradients.npz")[f"init/{name}"] for name in tensors]


class Variables(list):
    """Variables with the recorded initial values, kernels owned by real layers."""

    def __init__(self, tensors=TENSORS, dtype="float64"):
        layers = keras.layers
        self.layers = {
            "conv": layers.Conv2D(3, (3, 2), dtype=dtype),
            "dwconv": layers.Conv2D(4, (2, 3), groups=4, dtype=dtype),
            "conv1d": layers.Conv1D(2, 3, dtype=dtype),
            "dwk": layers.DepthwiseConv2D((2, 3), depth_multiplier=2, dtype=dtype),
        }
        channels = {"conv": 2, "dwconv": 4, "conv1d": 2, "dwk": 2}
        for name, value in zip(tensors, initial_values(tensors)):
            if name in self.layers:
                layer = self.layers[name]
                shape = (None, 9, channels[name])
                layer.build(shape if name == "conv1d" else (None, 9, *shape[1:]))
                layer.kernel.assign(value)
                self.append(layer.kernel)
            else:
                self.append(keras.Variable(value, dtype=dtype))


def numpy_values(variables):
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def run(optimizer, variables, streams, mode=MODE, l2=0.0):
    """Applies recorded gradients step by step.

    Args:
        optimizer: a Keras optimizer.
        variables: the variables to update.
        streams: for each variable its gradients, `(steps, *shape)`.
        mode: one of `MODES`.
        l2: weight decay added to the gradients, `g + l2 * p` with the current `p`.

    Returns:
        For each variable its values, `(steps + 1, *shape)`.
    """
    if not optimizer.built:
        optimizer.build(list(variables))
    step = stepper(optimizer, variables, mode)
    history = [numpy_values(variables)]
    for t in range(len(streams[0])):
        values = [
            (stream[t] + l2 * value).astype(value.dtype)
            for stream, value in zip(streams, history[-1])
        ]
        step([keras.ops.convert_to_tensor(value) for value in values])
        history.append(numpy_values(variables))
    return [np.stack(values) for values in zip(*history)]


def stepper(optimizer, variables, mode=MODE):
    """A function that applies one list of gradients to the variables."""
    if BACKEND == "jax" and mode == "xla":
        return bench.stepper(optimizer, list(variables), "compiled")
    if mode == "eager":
        return bench.stepper(optimizer, list(variables))
    traced = "xla" if mode == "xla" else "graph"
    return in_environment(mode, bench.stepper(optimizer, list(variables), traced))


def in_environment(mode, step):
    """`step`, which is traced and compiled as the mode wants it."""

    def call(grads):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KERAS_GRADOPT_JIT_COMPILE", str(int(mode != "uncompiled")))
            return step(grads)

    return call


def inner_functions(graph):
    """Names of the functions compiled by XLA that a TensorFlow graph calls."""
    return [
        operation.get_attr("f").name
        for operation in graph.get_operations()
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall")
        and "_XlaMustCompile" in operation.node_def.attr
    ]
