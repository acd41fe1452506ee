"""
Title: What the figures share
Description: Optimizers by name, their colours, functions of two numbers, digits.

Each script beside this one draws one figure of the documentation:

    python examples/figures/toy_functions.py            # docs/figures/toy_functions.png
    python examples/figures/toy_functions.py --small    # the same, less of everything
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import keras
import numpy as np
from keras import layers, ops
from matplotlib.figure import Figure

import keras_gradopt

"""
## Optimizers and their looks

An optimizer has the same colour in every figure. Those that are drawn into one picture
differ for colour-blind readers too (the first eight are Okabe and Ito's colours).
"Adam" is the Adam core on which the package's optimizers build.
"""

COLORS = {
    "Adam": "#000000",
    "SGD": "#0072B2",
    "AngularGrad": "#D55E00",
    "AngularGrad tan": "#E69F00",
    "DiffGrad": "#009E73",
    "AdaBelief": "#CC79A7",
    "RAdam": "#56B4E9",
    "Adam, half rate": "#8C8C8C",
    "NosAdam": "#6A3D9A",
    "AdamNorm": "#CC3311",
    "DiffGradNorm": "#882255",
    "RAdamNorm": "#7B4B1E",
    "AdaBeliefNorm": "#332288",
    "AdaL": "#AA4499",
    "GAFAdam": "#117733",
    "GAFSGD": "#999933",
    "WGDSGD": "#44AA99",
    "WGDAdam": "#4D4D4D",
    "WGDNadam": "#B15928",
    "WGDRAdam": "#005F73",
}

NAMED = {
    name: getattr(keras_gradopt, name)
    for name in keras_gradopt.optimizers.__all__
    if name not in ("AdamCore", "SGDCore", "Transformed")
}


def make(name: str, learning_rate: float, **settings: Any) -> keras.Optimizer:
    """An optimizer by its name in `COLORS`.

    Args:
        name: of the optimizer; `"SGD"` has momentum 0.9 unless told otherwise.
        learning_rate: of the optimizer; `"Adam, half rate"` takes half of it.
        **settings: further arguments.
    """
    if name == "SGD":
        return keras.optimizers.SGD(learning_rate, **{"momentum": 0.9, **settings})
    if name == "Adam":
        return keras_gradopt.AdamCore(learning_rate, **settings)
    if name == "Adam, half rate":
        return keras_gradopt.AdamCore(learning_rate / 2, **settings)
    if name == "AngularGrad tan":
        return keras_gradopt.AngularGrad(learning_rate, angle="tan", **settings)
    return NAMED[name](learning_rate, **settings)


"""
## Descending on a function of a few numbers

Everything is in float64, so that what a picture shows is the method and not rounding.
"""


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Variables made inside, learning rates among them, are float64."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before)


class Descent:
    """An optimizer on a function of a few numbers, always from the same start.

    On TensorFlow and JAX the steps are one compiled program, traced once.

    Args:
        optimizer: a Keras optimizer that is not built yet.
        gradient: the function's gradient, of a tensor of shape `(n,)`.
        start: the `n` numbers to start from.
        steps: how many steps to make.
    """

    def __init__(
        self,
        optimizer: keras.Optimizer,
        gradient: Callable[[Any], Any],
        start: Sequence[float],
        steps: int,
    ) -> None:
        self.optimizer, self.gradient, self.steps = optimizer, gradient, steps
        self.position = keras.Variable(start, dtype="float64", name="position")
        optimizer.build([self.position])
        self.state = [self.position, *optimizer.variables]
        self.beginning = [ops.convert_to_numpy(v).copy() for v in self.state]
        self.program = {
            "tensorflow": self._on_tensorflow,
            "jax": self._on_jax,
            "torch": self._step_by_step,
        }[keras.backend.backend()]()

    def __call__(self, learning_rate: float | None = None) -> np.ndarray:
        """The positions, `(steps + 1, n)`, with this or the optimizer's own rate."""
        for variable, value in zip(self.state, self.beginning):
            variable.assign(value)
        if learning_rate is not None:
            self.optimizer.learning_rate = learning_rate
        return np.concatenate([self.beginning[0][None], self.program()])

    def _step(self):
        here = ops.convert_to_tensor(self.position)
        self.optimizer.apply([self.gradient(here)], [self.position])

    def _step_by_step(self):
        def program():
            path = []
            for _ in range(self.steps):
                self._step()
                path.append(ops.convert_to_numpy(self.position).copy())
            return np.stack(path)

        return program

    def _on_tensorflow(self):
        import tensorflow as tf

        def step(*_):
            self._step()
            here = ops.convert_to_tensor(self.position)
            return here, here

        def path():
            start = ops.convert_to_tensor(self.position)
            return ops.scan(step, start, length=self.steps)[1]

        program = tf.function(path, autograph=False).get_concrete_function()
        return lambda: ops.convert_to_numpy(program())

    def _on_jax(self):
        def step(state, _):
            (here,), slots = state
            state = self.optimizer.stateless_apply(slots, [self.gradient(here)], [here])
            return state, state[0][0]

        def program():
            values = [variable.value for variable in self.state]
            _, path = ops.scan(step, (values[:1], values[1:]), length=self.steps)
            return ops.convert_to_numpy(path)

        return program


"""
## Handwritten digits and a small network

The 1,797 digits that scikit-learn ships need no network, and the same seed gives the
same initial weights and the same batches to every optimizer.
"""


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels; pixels from 0 to 1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images[..., None] / 16).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(
        images, data.target, test_size=360, stratify=data.target, random_state=0
    )
    return train_x, train_y, test_x, test_y


def small_network(
    optimizer: keras.Optimizer, seed: int, run_eagerly: bool = False
) -> keras.Model:
    """A convolutional network for the digits with 9,930 weights, compiled.

    Args:
        optimizer: to compile it with.
        seed: of the initial weights and of the batches to come.
        run_eagerly: whether to train without a graph, which a few steps do not repay;
            on JAX they do.
    """
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(
                16, 3, padding="same", activation="relu", name="first_convolution"
            ),
            layers.MaxPooling2D(),
            layers.Conv2D(
                32, 3, padding="same", activation="relu", name="second_convolution"
            ),
            layers.Flatten(),
            layers.Dense(10, name="dense"),
        ],
        name="digits",
    )
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=run_eagerly and keras.backend.backend() != "jax",
    )
    return network


"""
## Arguments, tables, files
"""


def arguments(name: str, text: str, given: list[str] | None) -> argparse.Namespace:
    """The arguments that every figure takes.

    Args:
        name: of the figure's file, without ending.
        text: the script's docstring.
        given: arguments, or `None` for those of the command line.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help=f"default: docs/figures/{name}.png")
    parser.add_argument(
        "--small", action="store_true", help="less of everything, in seconds; then the "
        f"default of --output is runs/figures/{name}.png",
    )  # fmt: skip
    found = parser.parse_args(given)
    folder = "runs/figures" if found.small else "docs/figures"  # never a trial's
    found.output = found.output or Path(folder, f"{name}.png")
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as Markdown; numbers with four digits."""

    def line(cells):
        shown = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
        return f"| {' | '.join(shown)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})
    print(f"\n{path}")
