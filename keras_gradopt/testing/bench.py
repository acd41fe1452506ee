"""The bench on which optimizers are tried: small variables, gradients, ways to step."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.testing.registry import Failed, Skipped, expect

Arrays = list[np.ndarray]
Factory = Callable[[], keras.optimizers.Optimizer]
Twin = Callable[[Arrays, Arrays], Sequence[np.ndarray]]

SHAPES = [(2, 2, 2, 3), (3,), (3, 3), (3,)]  # of a convolution and a dense layer
CLASSES, IMAGE = 3, (4, 4, 2)
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}
EPS |= {"bfloat16": 2.0**-7}


def new_model(dtype: str = "float32") -> keras.Model:
    """The small model whose variables are optimized, with always the same weights."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(3, 2, dtype=dtype),
            layers.GlobalAveragePooling2D(dtype=dtype),
            layers.Dense(CLASSES, dtype=dtype),
        ]
    )
    assign(model.trainable_variables, start())
    return model


def start() -> Arrays:
    """The values of the variables before the first step."""
    random = np.random.default_rng(4)
    return [0.1 * random.normal(size=shape) for shape in SHAPES]


def gradients(steps: int, scale: float = 1.0) -> Arrays:
    """Gradients for each variable, `(steps, *shape)`, with a common direction."""
    random = np.random.default_rng(3)
    return [
        scale * (random.normal(size=(steps, *shape)) + 0.3 * random.normal(size=shape))
        for shape in SHAPES
    ]


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Gives the variables these values, rounded to their dtype."""
    for variable, array in zip(variables, arrays):
        variable.assign(to_tensor(array, variable.dtype))


def to_tensor(array: np.ndarray, dtype: str) -> Any:
    """The array as a tensor, by way of float32 if the dtype is narrower."""
    wide = "float64" if dtype == "float64" else "float32"
    with np.errstate(over="ignore"):
        return ops.cast(ops.convert_to_tensor(array.astype(wide)), dtype)


def numpy_values(variables: Sequence[Any]) -> Arrays:
    """Copies of the values; half precision as float32."""
    half = ("float16", "bfloat16")
    return [
        np.array(
            ops.convert_to_numpy(ops.cast(v, "float32") if v.dtype in half else v.value)
        )
        for v in variables
    ]


def same_bits(ours: Arrays, theirs: Arrays) -> bool:
    """Whether all numbers agree exactly; NaN is NaN."""
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(ours, theirs)
    )


def difference(ours: Arrays, theirs: Arrays) -> float:
    """Largest difference of two trajectories, relative to the distance travelled.

    What never moves is measured with the farthest distance of all variables. NaN if any
    difference is.

    Args:
        ours: for each variable its values, `(steps + 1, *shape)`.
        theirs: those to compare with.
    """
    triples = zip(ours, theirs, distances(theirs))
    return largest(_farthest(a, b) / distance for a, b, distance in triples)


def largest(values: Iterable[float]) -> float:
    """The largest of the values; NaN if one is, which Python's `max` may pass over."""
    return float(np.max(list(values)))


def _farthest(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; 0 where both are NaN or the same infinity."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0, np.abs(a - b)).max())


def distances(values: Arrays) -> list[float]:
    """How far each variable went from its start; the farthest for one that did not."""
    apart = [np.abs(v - v[0]) for v in values]
    travelled = [float(a[np.isfinite(a)].max(initial=0.0)) for a in apart]
    return [distance or max(*travelled, 1e-30) for distance in travelled]


class Bench:
    """An optimizer's factory and what is known of it; the tools of the checks.

    Attributes:
        make: makes the optimizer.
        base: makes its base, or None.
        twin: its NumPy implementation, or None.
        neutral: makes it as it is its base, or None.
        rtol: by how much of the distance travelled it may differ from the twin and
            from the base.
    """

    def __init__(
        self,
        make: Factory,
        base: Factory | None = None,
        twin: Twin | None = None,
        neutral: Callable[[], Any] | None = None,
        rtol: float = 1e-4,
    ) -> None:
        self.make = make
        self.base = base
        self.twin = twin
        self.neutral = neutral
        self.rtol = rtol
        self.fitted: Arrays | None = None  # by one check, for another
        self.backend = keras.backend.backend()
        self._models: dict[str, keras.Model] = {}

    @property
    def compiled(self) -> str:
        """The mode for optimizers with branches, which JAX compiles at each call."""
        return "compiled" if self.backend == "jax" else "eager"

    @cached_property
    def widest(self) -> str:
        """The widest dtype that the backend computes in, as it is set up."""
        one = ops.cast(ops.ones(1), "float64")
        return keras.backend.standardize_dtype(one.dtype)

    def optimizer(
        self, learning_rate: Any = None, **settings: Any
    ) -> keras.optimizers.Optimizer:
        """A new optimizer with some of Keras' settings, set as attributes."""
        optimizer = self.make()
        for name, value in settings.items():
            setattr(optimizer, name, value)
        if learning_rate is not None:
            try:
                optimizer.learning_rate = learning_rate
            except TypeError as error:
                raise Skipped(f"its learning rate cannot be set: {error}") from error
        return optimizer

    def through_file(self, model: keras.Model) -> keras.Model:
        """The model, saved to a `.keras` file and loaded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            model.save(path)
            return keras.saving.load_model(path, custom_objects=self.custom_objects())

    def variables(self, dtype: str = "float32") -> list[Any]:
        """The same variables each time, at their first values."""
        if dtype not in self._models:
            self._models[dtype] = new_model(dtype)
        variables: list[Any] = self._models[dtype].trainable_variables
        assign(variables, start())
        return variables

    def need_tensorflow(self, reason: str) -> None:
        """Skips the check on other backends."""
        if self.backend != "tensorflow":
            raise Skipped(f"on {self.backend} {reason}")

    def need_base(self) -> Factory:
        """The factory of its base, or a skip."""
        if self.base is None:
            raise Skipped("needs base, or neutral must return it, too")
        return self.base

    def custom_objects(self) -> dict[str, Any]:
        """For loading: the class of the optimizer, registered or not."""
        cls = type(self.make())
        return {cls.__name__: cls}

    def reloaded(
        self, optimizer: keras.optimizers.Optimizer
    ) -> keras.optimizers.Optimizer:
        """A new optimizer from the config of this one, by way of JSON."""
        config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
        return keras.optimizers.deserialize(config, self.custom_objects())

    def walk(
        self,
        optimizer: keras.optimizers.Optimizer,
        streams: Arrays,
        mode: str = "eager",
        dtype: str = "float32",
        only: Sequence[int] = range(len(SHAPES)),
        before_step: Callable[[int], None] = lambda step: None,
        at: Arrays | None = None,
    ) -> Arrays:
        """Applies gradients step by step.

        Args:
            optimizer: is built on the variables, if it is not built yet.
            streams: gradients for each variable, `(steps, *shape)`.
            mode: `"eager"`, or as in `stepper`.
            dtype: of the variables.
            only: the variables that exist for this optimizer.
            before_step: is called with the number of each step, from 0.
            at: other values to start from.

        Returns:
            For each variable its values, `(steps + 1, *shape)`.
        """
        every = self.variables(dtype)
        if at is not None:
            assign(every, at)
        variables = [every[i] for i in only]
        step = stepper(optimizer, variables, mode)
        history = [numpy_values(variables)]
        for number, grads in enumerate(zip(*(streams[i] for i in only))):
            before_step(number)
            step([to_tensor(g, dtype) for g in grads])
            history.append(numpy_values(variables))
        return [np.stack(values) for values in zip(*history)]

    def expect_same(
        self,
        ours: Arrays,
        theirs: Arrays,
        what: str,
        rtol: float = 1e-4,
        dtype: str = "float32",
    ) -> str:
        """What was seen, if two trajectories agree.

        Args:
            ours: for each variable its values, `(steps + 1, *shape)`.
            theirs: those to compare with.
            what: is compared.
            rtol: allowed difference, relative to the distance travelled; the rounding
                of the variables themselves comes on top of it.
            dtype: of the variables.
        """
        rounding = max(
            len(v) * EPS[dtype] * float(np.abs(v[0]).max() + distance) / distance
            for v, distance in zip(theirs, distances(theirs))
        )
        found = difference(ours, theirs)
        return expect(
            found <= rtol + rounding,
            f"{what}: {found:.1e} of the way (allowed {rtol + rounding:.0e})",
        )

    def expect_moved(self, values: Arrays) -> None:
        """Fails if a trajectory stands still, which would agree with anything."""
        if not all((v != v[0]).any() for v in values):
            raise Failed("a variable with gradients did not move")


def stepper(
    optimizer: keras.optimizers.Optimizer, variables: list[Any], mode: str = "eager"
) -> Callable[[list[Any]], None]:
    """A function that applies one list of gradients to the variables.

    Args:
        optimizer: is built on the variables, if it is not built yet.
        variables: those to update.
        mode: `"eager"`; on TensorFlow `"graph"` and `"xla"`, a `tf.function`; on JAX
            `"compiled"` and on PyTorch `"stateless"`, both `stateless_apply`.
    """
    if not optimizer.built:
        optimizer.build(variables)

    def eager(grads: list[Any]) -> None:
        optimizer.apply(grads, variables)

    if mode == "eager":
        return eager
    if mode in ("graph", "xla"):
        import tensorflow as tf

        return tf.function(eager, jit_compile=mode == "xla")
    pure = optimizer.stateless_apply
    if mode == "compiled":
        import jax

        pure = jax.jit(pure)

    def stateless(grads: list[Any]) -> None:
        values, state = pure(
            [v.value for v in optimizer.variables], grads, [v.value for v in variables]
        )
        for variable, value in zip(
            [*variables, *optimizer.variables], [*values, *state]
        ):
            variable.assign(value)

    return stateless


@contextlib.contextmanager
def floatx(dtype: str) -> Iterator[None]:
    """Keras' default dtype, and so that of learning rates, for a while."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
