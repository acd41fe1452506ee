"""Clipping by the size of the weights."""

from collections.abc import Sequence
from typing import Any

from keras_gradopt import arguments, equations
from keras_gradopt.equations import Tensor
from keras_gradopt.transforms.base import Context, Result, Transform, register


@register
class ClipAdaptively(Transform):
    """Adaptive gradient clipping: no unit's gradient is long beside its weights.

    A gradient `g` of a unit with weights `w` is shortened to
    `clipping * max(||w||, epsilon)` where it is longer; L2 norms. A unit is all that
    the last axis of a variable counts: a column of a Dense kernel, a filter of a
    convolution. A variable of rank 0 or 1, such as a bias, is one unit.

    Has no slots. The authors leave the last layer as it is:
    `Only("^(?!.*head)", ClipAdaptively())`.

    Args:
        clipping: lambda, the longest gradient in lengths of the weights, above 0.
            Defaults to `0.01`.
        epsilon: the least length of weights that counts, above 0, so that weights
            that start at 0 can grow. Defaults to `1e-3`.

    Raises:
        ValueError: for an argument out of range.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.SGDCore(
    ...     1.0, transforms=[keras_gradopt.transforms.ClipAdaptively(0.25)]
    ... )
    >>> weight = keras.Variable([[1.0, 10.0]])  # two units
    >>> optimizer.apply([keras.ops.array([[0.5, 0.5]])], [weight])
    >>> keras.ops.convert_to_numpy(weight).tolist()
    [[0.75, 9.5]]

    Reference:
        Brock et al. (2021), High-performance large-scale image recognition without
        normalization, eq. 3.
    """

    def __init__(self, clipping: float = 0.01, epsilon: float = 1e-3) -> None:
        self.clipping = arguments.positive("clipping", clipping)
        self.epsilon = arguments.positive("epsilon", epsilon)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return Result(
            equations.adaptive_clipping(
                gradient, context.value, self.clipping, self.epsilon
            )
        )

    def get_config(self) -> dict[str, Any]:
        return {"clipping": self.clipping, "epsilon": self.epsilon}
