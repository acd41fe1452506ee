"""Transforms that act on some variables only, chosen by their paths."""

import copy
import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor
from keras_gradopt.paths import same_variables
from keras_gradopt.transforms.base import (
    LEFT_ALONE,
    Context,
    Result,
    Transform,
    register,
)


class ByPath(Transform):
    """A transform with patterns that are to be found in the paths of variables.

    A model that was loaded calls its variables otherwise (`dense/kernel` for
    `sequential/dense/kernel`). So what the patterns chose is kept in the config, and
    a loaded transform chooses the same variables.

    Args:
        name: of the argument that holds the patterns, for error messages.
        patterns: regular expressions.
    """

    def __init__(self, name: str, patterns: Sequence[str]) -> None:
        if not patterns:
            raise arguments.refuse(name, patterns, "at least one pattern")
        self._name = name
        self.patterns = [arguments.pattern(name, x) for x in patterns]
        # of the variables that it was planned for: [path, position of its pattern]
        self._chosen: list[list[Any]] = []

    def _choose(self, variables: Sequence[keras.Variable]) -> list[int | None]:
        """For each variable the position of the first pattern that fits, if any.

        Raises:
            ValueError: if a pattern fits no variable, nor did when this was saved.

        Warns:
            UserWarning: of a pattern that chose variables then, and chooses none now.
        """
        here = [getattr(variable, "path", variable.name) for variable in variables]
        fits = [[bool(re.search(x, path)) for x in self.patterns] for path in here]
        chosen = [row.index(True) if True in row else None for row in fits]
        if not self._chosen:
            for pattern, found in zip(self.patterns, zip(*fits)):
                if not any(found):
                    raise self._fits_nothing(pattern, here)
        before = [position for _, position in self._chosen]
        pairs = same_variables(here, [path for path, _ in self._chosen])
        for ours, saved in pairs.items():
            chosen[ours] = before[saved]
        for position in sorted({*before} - {*chosen, None}):
            warnings.warn(
                f"{self._name} with {self.patterns[position]!r} chose variables when "
                f"{type(self).__name__} was saved, and none of these {len(here)}",
                stacklevel=2,
            )
        self._chosen = [list(pair) for pair in zip(here, chosen)]
        return chosen

    def _fits_nothing(self, pattern, paths):
        nearest = difflib.get_close_matches(pattern, paths, 5, 0)
        return ValueError(
            f"A pattern must be found in the path of a variable that is trained. "
            f"Received: {self._name} with {pattern!r}, which is in none of "
            f"{len(paths)}; the nearest are {nearest}"
        )

    def _config(self, own: dict[str, Any]) -> dict[str, Any]:
        return own | ({"chosen": self._chosen} if self._chosen else {})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ByPath":
        """Creates the transform from what `get_config` returned.

        Raises:
            ValueError: if it is damaged.
        """
        config = dict(config)
        chosen = config.pop("chosen", [])
        transform = cls(**config)
        last = len(transform.patterns) - 1
        if not isinstance(chosen, (list, tuple)) or not all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and isinstance(pair[0], str)
            and (pair[1] is None or (type(pair[1]) is int and 0 <= pair[1] <= last))
            for pair in chosen
        ):
            raise arguments.refuse("chosen", chosen, "pairs of a path and a position")
        transform._chosen = [list(pair) for pair in chosen]
        return transform


def _as_list(patterns):
    return [patterns] if isinstance(patterns, str) else list(patterns)


@register
class Only(ByPath):
    """Another transform, on some variables only.

    All others pass as they are, and have no slots of it. The patterns choose the same
    variables in a model that was saved and loaded, whose paths may begin otherwise.

    Args:
        patterns: a regular expression, or a list of them: the transform acts on the
            variables in whose path one of them is found, such as `"head"`,
            `"/kernel$"` or `"^encoder/"`. The path is Keras' `variable.path`.
        transform: the `keras_gradopt.transforms.Transform` to confine.

    Raises:
        ValueError: for what is no regular expression, one that could take exponential
            time, or no transform; and when built, for a pattern that fits no variable.

    Example:

    >>> import keras, keras_gradopt
    >>> from keras_gradopt.transforms import DifferenceFriction, Only
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((3,)),
    ...         keras.layers.Dense(2, name="body"),
    ...         keras.layers.Dense(1, name="head"),
    ...     ]
    ... )
    >>> optimizer = keras_gradopt.SGDCore(
    ...     transforms=[Only("head", DifferenceFriction())]
    ... )
    >>> optimizer.build(model.trainable_variables)
    >>> [tuple(slot.shape) for slot in optimizer.variables[2:]]  # of the head alone
    [(2, 1), (1,)]
    """

    def __init__(self, patterns: str | Sequence[str], transform: Transform) -> None:
        if not isinstance(patterns, (str, list, tuple)):
            raise arguments.refuse(
                "patterns", patterns, "a regular expression or a list of them"
            )
        super().__init__("patterns", _as_list(patterns))
        if isinstance(transform, Mapping):  # from a config
            transform = keras.saving.deserialize_keras_object(transform)
        if not isinstance(transform, Transform):
            raise arguments.refuse(
                "transform", transform, "a keras_gradopt.transforms.Transform object"
            )
        self.transform = transform
        self.slots = transform.slots
        self.history_dtype = transform.history_dtype
        self.jit_compile = transform.jit_compile

    @property
    def shown_as(self) -> str:
        """That of the transform which is confined."""
        return self.transform.shown_as

    def plan(self, variables: Sequence[keras.Variable]) -> list[Any]:
        chosen = [i for i, x in enumerate(self._choose(variables)) if x is not None]
        plans: list[Any] = [LEFT_ALONE] * len(variables)
        if chosen:
            theirs = self.transform.plan([variables[i] for i in chosen])
            for position, plan in zip(chosen, theirs, strict=True):
                plans[position] = plan
        return plans

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return self.transform.apply(gradient, slots, context)

    def get_config(self) -> dict[str, Any]:
        transform = keras.saving.serialize_keras_object(self.transform)
        return self._config({"patterns": self.patterns, "transform": transform})

    def __copy__(self) -> "Only":
        made = type(self)(self.patterns, copy.copy(self.transform))
        made._chosen = self._chosen
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.patterns!r}, {self.transform!r})"


@register
class ScaleLearningRate(ByPath):
    """Multiplies the learning rate of some variables by factors.

    The optimizer's own update runs with the product. With the factor 0 it adds exactly
    0, so a variable whose gradients are finite stays as it is, while moments and slots
    go on.

    **Decoupled weight decay** (`weight_decay=`) is Keras' own, and takes the
    optimizer's learning rate as it is: a variable with the factor 0 still decays, one
    with 0.1 decays as much as all others. Exclude it if it should not:
    `optimizer.exclude_from_weight_decay(var_names=["backbone"])`.

    Args:
        factors: a dictionary from regular expressions to factors of the learning rate,
            at least 0. Of a variable in whose path several are found, the first
            counts; one in whose path none is found keeps the learning rate.

    Raises:
        ValueError: for anything else; and when built, for a pattern that fits no
            variable.

    Example:

    >>> import keras, keras_gradopt
    >>> from keras_gradopt.transforms import ScaleLearningRate
    >>> optimizer = keras_gradopt.Transformed(
    ...     keras.optimizers.SGD(1.0), [ScaleLearningRate({"backbone": 0.1})]
    ... )
    >>> backbone = keras.layers.Dense(1, name="backbone", use_bias=False)
    >>> head = keras.layers.Dense(1, name="head", use_bias=False)
    >>> model = keras.Sequential([keras.Input((1,)), backbone, head])
    >>> before = [float(layer.kernel[0, 0]) for layer in model.layers]
    >>> optimizer.apply([keras.ops.ones((1, 1))] * 2, model.trainable_variables)
    >>> after = [float(layer.kernel[0, 0]) for layer in model.layers]
    >>> [round(old - new, 4) for old, new in zip(before, after)]
    [0.1, 1.0]
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        if not isinstance(factors, Mapping):
            raise arguments.refuse(
                "factors", factors, "a dictionary from regular expressions to factors"
            )
        super().__init__("factors", list(factors))
        self.factors = {
            pattern: arguments.number(f"factors[{pattern!r}]", factor, 0)
            for pattern, factor in factors.items()
        }

    def plan(self, variables: Sequence[keras.Variable]) -> list[Any]:
        factors = list(self.factors.values())
        chosen = self._choose(variables)
        return [LEFT_ALONE if i is None else factors[i] for i in chosen]

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return Result(gradient, ops.cast(context.plan, gradient.dtype))

    def get_config(self) -> dict[str, Any]:
        return self._config({"factors": self.factors})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.factors!r})"


def layerwise_decay(model: keras.Model, factor: float) -> dict[str, float]:
    """Factors of the learning rate that shrink from the head of a model to its input.

    The last layer with weights that are trained has 1, the one before it `factor`,
    the one before that `factor**2`, and so on, in the order of `model.layers`. Models
    within the model are entered; other layers with layers in them, such as a
    transformer's blocks, count as one.

    Args:
        model: a model that is built.
        factor: in (0, 1].

    Returns:
        A dictionary from patterns to factors, for
        `keras_gradopt.transforms.ScaleLearningRate`.

    Raises:
        ValueError: if the model is not built or trains nothing, if two of its layers
            have the same path (two towers made by one function), or for a factor out
            of range.

    Example:

    >>> import keras, keras_gradopt
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((3,)),
    ...         keras.layers.Dense(2, name="body"),
    ...         keras.layers.Dense(1, name="head"),
    ...     ],
    ...     name="net",
    ... )
    >>> keras_gradopt.layerwise_decay(model, 0.75)
    {'^net/head/': 1.0, '^net/body/': 0.75}
    """
    if not isinstance(model, keras.Model):
        raise arguments.refuse("model", model, "a keras.Model")
    factor = arguments.number("factor", factor, 0, 1, exclude_low=True)
    layers = [layer for layer in _layers(model) if layer.trainable_variables]
    if not layers:
        raise arguments.refuse(
            "model", model, "built, and to have weights that are trained"
        )
    factors: dict[str, float] = {}
    owners: dict[str, Any] = {}
    for depth, layer in enumerate(reversed(layers)):
        for pattern in _patterns(layer.trainable_variables):
            factors.setdefault(pattern, factor**depth)  # shared: nearest to the head
            if owners.setdefault(pattern, layer) is not layer:
                raise ValueError(
                    "Layers must have names of their own, as paths tell them apart. "
                    f"Received: two layers whose variables fit {pattern!r}"
                )
    return factors


def _layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _patterns(variables):
    """What fits the variables of one layer: the part of the path that all have."""
    folders = [variable.path.split("/")[:-1] for variable in variables]
    common = []
    for parts in zip(*folders):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if common:
        return [f"^{re.escape('/'.join(common))}/"]
    return [f"^{re.escape(variable.path)}$" for variable in variables]
