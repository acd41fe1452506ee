"""What is trained: a model, its data in three parts, a loss, and for how long."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from keras_gradopt.arguments import refuse

SCHEDULES = ("cosine", "constant")


class Parts(NamedTuple):
    """The data of a task in three parts.

    Each is a pair of arrays (inputs, targets), or three with sample weights, a batched
    `tf.data.Dataset`, or a `keras.utils.PyDataset`.

    Attributes:
        train: To train on.
        validation: To search learning rates and arguments by; never reported on.
        test: To report on.
    """

    train: Any
    validation: Any
    test: Any


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its data, a loss: what optimizers are compared on.

    Args:
        name: Of the task, in files and tables.
        model: A function without arguments that returns a new, uncompiled
            `keras.Model`, built or not. Keras' seed draws its weights.
        data: Three parts: to train on, to search by, to report on. Each is a pair of
            arrays (inputs, targets), or three with sample weights; a `tf.data.Dataset`
            of batches; or a `keras.utils.PyDataset`. Or a function that returns the
            three, without arguments, whose arrays are the same at every call, or of the
            seed (an integer), which may draw who is trained on and augmentation, but by
            default not what is reported on. What changes from epoch to epoch (shuffles)
            must come from a function: each run then gets its own, with the process'
            random generators seeded alike.
        loss: As for `compile`.
        metrics: As for `compile`: a list of names, functions or metrics, which are
            reported on too. Defaults to `()`.
        epochs: How often to go through the training part. Defaults to `10`.
        batch_size: Examples in a batch, of arrays. The last batch of an epoch is left
            out if it is smaller. `tf.data` and `PyDataset` make batches themselves.
            Defaults to `None`: 32.
        schedule: What the learning rate is multiplied by in the course of training:
            `"cosine"`, which falls from 1 to 0; `"constant"`; or a function of the
            progress, from 0 at the first step to below 1, that returns a factor.
            Defaults to `"cosine"`.
        steps_per_epoch: Batches in an epoch, for a `tf.data.Dataset` without an end.
            Defaults to `None`: all.
        resplit: Whether `data` draws another test part for every seed. Such results
            overlap, so they are tested with Nadeau and Bengio's corrected t. Defaults
            to `False`: one test part for all.
        jit_compile: As for `compile`. Defaults to `"auto"`.
        reuse: Whether a process compiles a model once for all runs of an optimizer, and
            gives it new weights for each. `False` for models or optimizers that keep
            something outside their variables. Defaults to `True`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> import keras, numpy as np
    >>> from keras_gradopt import comparison
    >>> def make_model():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    >>> y = x.sum(axis=1, keepdims=True)
    >>> data = (x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:])
    >>> comparison.Task("sums", model=make_model, data=data, loss="mse", epochs=2)
    <Task sums: 2 epochs, mse>
    """

    name: str
    model: Callable[[], keras.Model] = field(kw_only=True)
    data: Any = field(kw_only=True)
    loss: Any = field(kw_only=True)
    metrics: Sequence[Any] = field(default=(), kw_only=True)
    epochs: int = field(default=10, kw_only=True)
    batch_size: int | None = field(default=None, kw_only=True)
    schedule: str | Callable[[float], float] = field(default="cosine", kw_only=True)
    steps_per_epoch: int | None = field(default=None, kw_only=True)
    resplit: bool = field(default=False, kw_only=True)
    jit_compile: bool | str = field(default="auto", kw_only=True)
    reuse: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        whole_number("epochs", self.epochs, 1)
        for name in ("batch_size", "steps_per_epoch"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1)
        if not isinstance(self.name, str) or not self.name.strip():
            raise refuse("name", self.name, "text that is not empty")
        if isinstance(self.model, keras.Model) or not callable(self.model):
            raise refuse(
                "model", self.model, "a function that returns a new `keras.Model`"
            )
        if self.loss is None:
            raise refuse("loss", self.loss, "a loss, as for `compile`")
        if isinstance(self.metrics, str) or not isinstance(self.metrics, Sequence):
            raise refuse("metrics", self.metrics, "a list of metrics")
        for name in ("resplit", "reuse"):
            if not isinstance(getattr(self, name), bool):
                raise refuse(name, getattr(self, name), "True or False")
        if self.jit_compile not in (True, False, "auto"):
            raise refuse("jit_compile", self.jit_compile, 'True, False or "auto"')
        if not callable(self.schedule) and self.schedule not in SCHEDULES:
            raise refuse(
                "schedule",
                self.schedule,
                "'cosine', 'constant', or a function of the progress",
            )
        if callable(self.data):
            self._check_signature()
        else:
            three_parts(self.data)
            if self.resplit:
                raise refuse(
                    "resplit", True, "False unless `data` is a function of the seed"
                )

    def _check_signature(self) -> None:
        if self._required() > 1 or (self.resplit and not self.of_seed):
            raise refuse(
                "data", self.data, "three parts, or a function of the seed alone"
            )

    def _required(self) -> int:
        """The number of arguments without defaults."""
        parameters = inspect.signature(self.data).parameters.values()
        return sum(
            p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            for p in parameters
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}: {self.epochs} epochs, {self.loss_name}>"

    @property
    def loss_name(self) -> str:
        """The loss, for people."""
        return described(self.loss)

    @property
    def of_seed(self) -> bool:
        """Whether the data is a function of the seed."""
        return callable(self.data) and self._required() == 1

    def parts(self, seed: int) -> Parts:
        """The data of a seed.

        Raises:
            ValueError: If they are not three parts.
        """
        if not callable(self.data):
            return three_parts(self.data)
        return three_parts(self.data(seed) if self.of_seed else self.data())

    def factor(self, progress: float) -> float:
        """What the learning rate is multiplied by, at a progress from 0 to 1."""
        if callable(self.schedule):
            return float(self.schedule(progress))
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * progress)) / 2


def three_parts(data: Any) -> Parts:
    """Checks that data has three parts, each of a kind that can be trained on."""
    from keras_gradopt.comparison.data import check

    if not isinstance(data, (tuple, list)) or len(data) != 3:
        shown = f"{len(data)} of them" if isinstance(data, (tuple, list)) else data
        raise refuse("data", shown, "three parts: train, validation, test")
    for name, part in zip(Parts._fields, data):
        check(name, part)
    return Parts(*data)


def whole_number(name: str, value: Any, low: int) -> int:
    """Checks an integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low:
        raise refuse(name, value, f"an integer >= {low}")
    return int(value)


def described(value: Any) -> str:
    """A loss, metric or schedule in words."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(described, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {described(v)}" for name, v in value.items())
    return str(getattr(value, "__name__", type(value).__name__))
