"""Transforms by the norm of a variable's whole gradient."""

from collections.abc import Sequence
from typing import Any

from keras_gradopt import arguments, equations
from keras_gradopt.equations import Tensor
from keras_gradopt.transforms.base import Context, Result, Slot, Transform, register


@register
class CorrectNorm(Transform):
    """AdaNorm's correction: a gradient shorter than the average is lengthened to it.

    `e <- gamma e + (1 - gamma) ||g||`, `e_0 = 0`; `g <- (e / ||g||) g` where
    `e > ||g||`. The L2 norm is of one variable's whole gradient. A zero gradient
    stays zero. `e` has no bias correction, so nothing is corrected at first.

    Here the correction acts on all that the optimizer sees. `AdamNorm` and its
    siblings can confine it to one of Adam's moments, as the paper does.

    Keeps one scalar slot, `e`.

    Args:
        gamma: decay of the average norm, in [0, 1). `0` corrects nothing.
            Defaults to `0.95`.

    Raises:
        ValueError: if `gamma` is out of range.

    Example:

    >>> from keras_gradopt.transforms import CorrectNorm
    >>> CorrectNorm(0.9)
    CorrectNorm(gamma=0.9)

    Reference:
        Dubey et al., AdaNorm, eq. 2-4.
    """

    slots = (Slot("norm_average", scalar=True),)

    def __init__(self, gamma: float = 0.95) -> None:
        self.gamma = arguments.decay_rate("gamma", gamma)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        (average,) = slots
        gradient, average = equations.norm_correction(gradient, average, self.gamma)
        return Result(gradient, slots=[average])

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma}


@register
class ScaleByL1Norm(Transform):
    """AdaL's transformation: `g <- ||g||_1 g`.

    The norm, the sum of absolute values, is of the variable's whole gradient. An
    optimizer that is indifferent to the scale of gradients, as Adam is, sees only the
    *change* of the norm over its memory. Takes no arguments, has no slots.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.Transformed(
    ...     keras.optimizers.SGD(1.0), [keras_gradopt.transforms.ScaleByL1Norm()]
    ... )
    >>> weight = keras.Variable([0.0, 0.0])
    >>> optimizer.apply([keras.ops.array([1.0, -2.0])], [weight])
    >>> keras.ops.convert_to_numpy(weight).tolist()
    [-3.0, 6.0]

    Reference:
        Zhang et al., AdaL, Algorithm 1.
    """

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return Result(equations.l1_scaling(gradient))
