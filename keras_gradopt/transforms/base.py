"""What a gradient transform is.

A transform is configuration plus a pure function. It states which slot variables
it needs per model variable; an optimizer creates them, and at each step calls
`apply` with the gradient and the values of the slots. One transform object may
therefore serve several optimizers, and stand twice in one list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor

register = keras.saving.register_keras_serializable(package="keras_gradopt")


@dataclass(frozen=True)
class Slot:
    """A slot variable that a transform keeps for each model variable.

    Args:
        name: what it holds.
        scalar: one number per variable, float32 or wider, instead of a tensor of
            the variable's shape and dtype. Defaults to `False`.
        initial: its value before the first step. Defaults to `0.0`.
        history: its new value does not depend on its old one, as with a previous
            gradient. Defaults to `False`.
    """

    name: str
    scalar: bool = False
    initial: float = 0.0
    history: bool = False


class _LeftAlone:
    def __repr__(self) -> str:
        return "LEFT_ALONE"


LEFT_ALONE = _LeftAlone()
"""What `Transform.plan` says of a variable that the transform does not act on."""


class Result(NamedTuple):
    """What `Transform.apply` returns.

    Attributes:
        gradient: the gradient for whatever comes next, of the same shape.
        coefficient: factor of the learning rate, broadcastable to the gradient's
            shape, or `None` for 1.
        slots: the new values of the slots, in the order of `Transform.slots`.
    """

    gradient: Tensor
    coefficient: Tensor | None = None
    slots: Sequence[Tensor] = ()


class Context(NamedTuple):
    """What `Transform.apply` may look at beside the gradient and its slots.

    Attributes:
        plan: the variable's entry of `Transform.plan`.
        value: of the variable, in the gradient's shape and dtype.
        step: the number of this step, a scalar that counts from 1.
        learning_rate: a scalar; after a friction, of the variable's shape.

    Example:

    >>> import keras, keras_gradopt
    >>> from keras_gradopt.transforms import Result, Transform
    >>> class Decay(Transform):  # L2 regularization of 0.1, in the gradient
    ...     def apply(self, gradient, slots, context):
    ...         return Result(gradient + 0.1 * context.value)
    >>> optimizer = keras_gradopt.SGDCore(1.0, transforms=[Decay()])
    >>> weight = keras.Variable([10.0])
    >>> optimizer.apply([keras.ops.zeros(1)], [weight])
    >>> float(weight[0])
    9.0
    """

    plan: Any
    value: Tensor
    step: Tensor
    learning_rate: Tensor


class Transform:
    """Base class of the gradient transforms.

    A subclass implements `apply` and `get_config`; it lists `slots` if it has
    memory, and overrides `plan` if it treats variables differently. In TensorFlow's
    graphs `apply` is compiled by XLA; if XLA cannot, it sets `jit_compile = False`.

    Example:

    >>> import keras, keras_gradopt
    >>> class Halve(keras_gradopt.transforms.Transform):
    ...     def apply(self, gradient, slots, context):
    ...         return keras_gradopt.transforms.Result(0.5 * gradient)
    >>> optimizer = keras_gradopt.Transformed(keras.optimizers.SGD(1.0), [Halve()])
    >>> weight = keras.Variable([1.0])
    >>> optimizer.apply([keras.ops.ones(1)], [weight])
    >>> float(weight[0])
    0.5
    """

    slots: tuple[Slot, ...] = ()
    history_dtype: str | None = None
    jit_compile: bool = True

    @property
    def shown_as(self) -> str:
        """What it is called in the names of its slots and in what is monitored."""
        return type(self).__name__

    def plan(self, variables: Sequence[keras.Variable]) -> list[Any]:
        """What `apply` must know of each variable; called when one is built.

        Args:
            variables: the model variables, in the optimizer's order.

        Returns:
            One entry per variable, given to `apply` as `context.plan`. `LEFT_ALONE`
            for a variable that passes as it is, without slots.
        """
        return [None] * len(variables)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        """Transforms one gradient. A pure function.

        Args:
            gradient: gradient of one variable, float32 or wider.
            slots: values of this transform's slots for the variable.
            context: the variable's plan and value, the step's number and learning rate.

        Returns:
            A `Result`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Transform":
        """Creates the transform from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        config = {k: v for k, v in self.get_config().items() if v is not None}
        shown = ", ".join(f"{name}={value!r}" for name, value in config.items())
        return f"{type(self).__name__}({shown})"


def checked_history_dtype(value: Any) -> str | None:
    """Checks the `history_dtype` of a transform."""
    return (
        None
        if value is None
        else arguments.choice("history_dtype", value, ["bfloat16"])
    )
