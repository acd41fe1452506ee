"""Transforms in front of any Keras optimizer object."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_gradopt import arguments
from keras_gradopt.optimizers.base import BaseOptimizer, config_of, settings
from keras_gradopt.optimizers.compilation import outside_autograph
from keras_gradopt.optimizers.pipeline import Pipeline, Update
from keras_gradopt.optimizers.state import CheckpointGuard
from keras_gradopt.transforms import Transform
from keras_gradopt.transforms.base import register


@register
class Transformed(BaseOptimizer):
    """Any Keras optimizer, with gradient transforms in front of its update.

    The transforms run left to right on what the inner optimizer's `update_step`
    would have received: gradients after unscaling, accumulation, clipping and the
    all-reduce. A friction scales the learning rate that the inner update sees. The
    inner optimizer keeps doing all the rest, with its own settings: weight decay,
    clipping, accumulation, moving averages, schedules. With an empty list it is the
    inner optimizer, bit for bit.

    Everything of the inner optimizer can be read and set here: `learning_rate`,
    `iterations`, `momentum` and so on. The slots of the transforms come after the
    inner optimizer's own in `variables`.

    Args:
        inner_optimizer: a Keras optimizer with an `update_step` of its own, not yet
            built. From now on it belongs to this object. (For `LossScaleOptimizer`
            and `MultiOptimizer`: transform the optimizers inside them.)
        transforms: a list of `keras_gradopt.transforms.Transform` objects.
        name: a new name for the optimizer. Defaults to the inner optimizer's.

    Raises:
        ValueError: if `inner_optimizer` is no such optimizer or belongs to another
            `Transformed` already, or something in `transforms` is not a transform.

    Example:

    >>> import keras, keras_gradopt
    >>> from keras_gradopt.transforms import Activate, AngularFriction
    >>> optimizer = keras_gradopt.Transformed(
    ...     keras.optimizers.Lion(1e-4), [Activate("tanh"), AngularFriction("cos")]
    ... )
    >>> [type(transform).__name__ for transform in optimizer.transforms]
    ['Activate', 'AngularFriction']
    >>> round(float(optimizer.learning_rate), 6)
    0.0001
    """

    # Base.__init__ is not called on purpose: it would make a second set of settings
    # and counters. This object has no state but the following; see __getattr__.
    _OWN = (
        "_lock",
        "inner_optimizer",
        "_own_transforms",
        "_pipeline",
        "_exclusions",
        "_excluded_ids",
        "_guard",
        "_checkpointed_layout",
    )

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        transforms: Sequence[Transform],
        name: str | None = None,
    ) -> None:
        _check_inner(inner_optimizer)
        name = None if name is None else arguments.text("name", name)
        is_ours = isinstance(inner_optimizer, BaseOptimizer)
        own = tuple(map(copy.copy, Pipeline(inner_optimizer, transforms).transforms))
        self._lock = False
        self.inner_optimizer = inner_optimizer
        self._own_transforms = own
        if is_ours:
            self._pipeline = inner_optimizer.run_first(own)
        else:
            self._pipeline = Pipeline(inner_optimizer, own)
        self._exclusions = {}
        self._excluded_ids = ()
        self._guard = CheckpointGuard(self)
        if is_ours:
            inner_optimizer.guarded_by(self._guard)
        if name is not None:
            self.name = name
        if not is_ours and self.transforms:
            _intercept_update_step(inner_optimizer, self._pipeline)
        inner_optimizer._is_transformed = True

    @classmethod
    def _is_own(cls, name: str) -> bool:
        # TensorFlow keeps what a checkpoint holds in `_self_...` of each object.
        return name in cls._OWN or name.startswith("_self_")

    def __getattr__(self, name: str) -> Any:
        if self._is_own(name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        is_property = isinstance(getattr(type(self), name, None), property)
        if is_property or self._is_own(name):
            super().__setattr__(name, value)
        else:
            setattr(self.inner_optimizer, name, value)

    def __delattr__(self, name: str) -> None:
        target = self if self._is_own(name) else self.inner_optimizer
        object.__delattr__(target, name)

    def __dir__(self) -> Iterable[str]:
        # Keras saves the state of every optimizer that dir() lists; the state of the
        # inner one is this object's state already.
        return [name for name in super().__dir__() if name != "inner_optimizer"]

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms that run before the update, first to last."""
        return self._own_transforms

    @property
    def pipelines(self) -> list[Pipeline]:
        """All that transforms within the update, in the order in which it runs."""
        return getattr(self.inner_optimizer, "pipelines", [self._pipeline])

    @outside_autograph
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slot variables, one set per model variable."""
        if self.built:
            return
        if isinstance(self.inner_optimizer, BaseOptimizer):
            self.inner_optimizer.build(variables)  # the transforms are among its own
            return
        self._find_excluded(variables)
        self._pipeline.plan(variables)  # what can fail comes before anything is made
        self.inner_optimizer.build(variables)
        self._pipeline.build(variables)
        self._guard.built_on(variables)

    @outside_autograph
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        """Updates the variables by their gradients, building first if necessary."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if len(grads) and not self.built:
                self.build(trainable_variables)
        with self._pipeline.functions.one_step():
            self.inner_optimizer.apply(grads, trainable_variables)

    def prepare(self, gradient: Any, variable: Any, learning_rate: Any) -> Update:
        """The update of one variable, as far as it is not Keras'."""
        whose = getattr(self.inner_optimizer, "prepare", self._pipeline.prepare)
        return whose(gradient, variable, learning_rate)

    def _excluding(self) -> BaseOptimizer:
        inner = self.inner_optimizer  # told before or now, the last call counts
        return inner if isinstance(inner, BaseOptimizer) else self

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        serialize = keras.saving.serialize_keras_object
        return {
            "inner_optimizer": serialize(self.inner_optimizer),
            "transforms": [serialize(transform) for transform in self.transforms],
            **self._exclusions_config(),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "Transformed":
        """Creates the optimizer from what `get_config` returned.

        Raises:
            ValueError: if it is not such a config, as when the name `"Transformed"`
                stands alone, or nested without end.
        """
        config = dict(config)
        if not {"inner_optimizer", "transforms"} <= set(config):
            raise ValueError(
                "Transformed is made of an inner optimizer and transforms, so its name "
                f"alone, or a config without them, is not enough. Received: {config!r}"
            )

        def deserialize(item):
            return keras.saving.deserialize_keras_object(item, custom_objects)

        exclusions = cls._checked_exclusions(
            config.get("exclude_from_weight_decay", {})
        )
        try:
            transforms = [deserialize(item) for item in config["transforms"]]
            inner = deserialize(config["inner_optimizer"])
        except RecursionError:
            raise ValueError("The config is nested too deeply.") from None
        optimizer = cls(inner, transforms)
        if exclusions:
            optimizer._excluding()._exclusions = exclusions
        return optimizer

    def __repr__(self) -> str:
        inner = self.inner_optimizer
        update = f"{type(inner).__name__}({settings(config_of(inner))})"
        steps = " -> ".join([*map(repr, self.transforms), update])
        return f"<{type(self).__name__}: gradient -> {steps}>"


def _check_inner(inner: Any) -> None:
    optimizer_class = keras.optimizers.Optimizer
    allowed = "a keras.optimizers.Optimizer object"
    if isinstance(inner, type):
        allowed += f": call {inner.__name__}(...)"
    if not isinstance(inner, optimizer_class):
        raise arguments.refuse("inner_optimizer", inner, allowed)
    if isinstance(inner, Transformed) or "_is_transformed" in vars(inner):
        raise arguments.refuse(
            "inner_optimizer",
            inner,
            "an optimizer that is not Transformed already: give one Transformed all "
            "transforms, in one list",
        )
    if type(inner).update_step is optimizer_class.update_step:
        raise arguments.refuse(
            "inner_optimizer",
            inner,
            "an optimizer with an `update_step` of its own; to transform what is "
            f"inside {type(inner).__name__}, pass Transformed optimizers to it",
        )
    if inner.built:
        raise arguments.refuse("inner_optimizer", inner, "an optimizer not yet built")


def update_one_by_one(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes a built-in optimizer of Keras call `update_step` for each variable."""
    kind = type(optimizer)
    public = getattr(keras.optimizers, kind.__name__, None)
    is_keras = kind.__module__.partition(".")[0] == "keras"  # a user's may be named so
    if keras.backend.backend() == "torch" and is_keras and public in kind.__mro__:
        # On PyTorch Keras gives Adam and others a subclass that updates all variables
        # at once and never calls `update_step`; the public class itself does.
        optimizer.__class__ = public


def _intercept_update_step(inner: Any, pipeline: Pipeline) -> None:
    update_one_by_one(inner)
    update_step = inner.update_step

    def transformed_update_step(gradient, variable, learning_rate):
        update = pipeline.prepare(gradient, variable, learning_rate)
        gradient, learning_rate = pipeline.call(update)
        update_step(gradient, variable, learning_rate)

    inner.update_step = transformed_update_step
