"""Frictions: they shorten the steps where the gradient changes little."""

import math
from collections.abc import Sequence
from typing import Any

from keras_gradopt import arguments, equations
from keras_gradopt.equations import Tensor
from keras_gradopt.transforms.base import (
    Context,
    Result,
    Slot,
    Transform,
    checked_history_dtype,
    register,
)


@register
class DifferenceFriction(Transform):
    """diffGrad's friction: the step is multiplied by `sigmoid(|g_{t-1} - g_t|)`.

    Elementwise, with `g_0 = 0`. The coefficient is in [0.5, 1): a gradient that
    stays the same halves the step. Keeps one slot, the previous gradient.

    Args:
        history_dtype: `"bfloat16"` keeps the previous gradient in half the memory,
            rounded to 8 bits. Defaults to `None`, the variable's dtype.

    Raises:
        ValueError: for any other dtype.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.Transformed(
    ...     keras.optimizers.SGD(1.0), [keras_gradopt.transforms.DifferenceFriction()]
    ... )
    >>> weight = keras.Variable([0.0])
    >>> for _ in range(2):  # the second gradient equals the first: half a step
    ...     optimizer.apply([keras.ops.array([2.0])], [weight])
    >>> round(float(weight[0]), 4)
    -2.7616

    Reference:
        Dubey et al. (2019), diffGrad; AngularGrad eq. 9.
    """

    slots = (Slot("previous_gradient", history=True),)

    def __init__(self, history_dtype: str | None = None) -> None:
        self.history_dtype = checked_history_dtype(history_dtype)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        (previous,) = slots
        coefficient = equations.difference_friction(gradient, previous)
        return Result(gradient, coefficient, [gradient])

    def get_config(self) -> dict[str, Any]:
        return {"history_dtype": self.history_dtype}


@register
class AngularFriction(Transform):
    """AngularGrad's friction: steps are scaled by `lambda_1 tanh|f(A)| + lambda_2`.

    `A` is the smaller of this step's and the previous step's angle between
    consecutive gradients, elementwise: `A_t = arctan |(g_t - g_{t-1}) /
    (1 + g_t g_{t-1})|`, `g_0 = 0`. With the default weights the coefficient is in
    [0.5, 0.881] for `"cos"` and in [0.5, 1] for `"tan"`.

    Keeps two slots: the previous gradient and the previous `tan A` (infinite
    before the first step, where there is no angle yet).

    Args:
        angle: f, `"cos"` or `"tan"`. Defaults to `"cos"`.
        lambda_1: weight of the angle, at least 0. Defaults to `0.5`.
        lambda_2: the smallest coefficient, at least 0. Defaults to `0.5`.
        history_dtype: `"bfloat16"` keeps both slots in half the memory, rounded to 8
            bits. Defaults to `None`, the variable's dtype.

    Raises:
        ValueError: for an argument out of range, or if both weights are 0.

    Example:

    >>> from keras_gradopt.transforms import AngularFriction
    >>> AngularFriction("tan")
    AngularFriction(angle='tan', lambda_1=0.5, lambda_2=0.5)

    Reference:
        Roy et al., AngularGrad, Algorithm 2 and eq. 13-15.
    """

    slots = (
        Slot("previous_gradient", history=True),
        Slot("previous_ratio", initial=math.inf, history=True),
    )

    def __init__(
        self,
        angle: str = "cos",
        lambda_1: float = 0.5,
        lambda_2: float = 0.5,
        history_dtype: str | None = None,
    ) -> None:
        self.angle = arguments.choice("angle", angle, ["cos", "tan"])
        self.lambda_1 = arguments.number("lambda_1", lambda_1, 0)
        self.lambda_2 = arguments.number("lambda_2", lambda_2, 0)
        if self.lambda_1 == self.lambda_2 == 0:
            raise arguments.refuse("lambda_2", lambda_2, "above 0 when lambda_1 is 0")
        self.history_dtype = checked_history_dtype(history_dtype)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        previous, previous_ratio = slots
        ratio = equations.angular_ratio(gradient, previous)
        coefficient = equations.angular_friction(
            ratio, previous_ratio, self.angle, self.lambda_1, self.lambda_2
        )
        return Result(gradient, coefficient, [gradient, ratio])

    def get_config(self) -> dict[str, Any]:
        return {
            "angle": self.angle,
            "lambda_1": self.lambda_1,
            "lambda_2": self.lambda_2,
            "history_dtype": self.history_dtype,
        }
