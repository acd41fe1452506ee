"""Whitening: a mean is subtracted from the gradients of convolution kernels."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_gradopt import arguments, equations
from keras_gradopt.equations import Tensor
from keras_gradopt.transforms import convolutions
from keras_gradopt.transforms.base import Context, Result, Transform, register


@register
class Whiten(Transform):
    """WGD: subtracts the mean from the gradient of every convolution kernel.

    With `mean_over="kernels"` the mean kernel of the layer is subtracted from each
    of its kernels (eq. 11); with `"entries"` each kernel's own mean is (eq. 13-14),
    which is gradient centralization (Yong et al. 2020).

    Which variables are convolution kernels, and which of their axes count kernels,
    is read off the layers that own them: Conv1D-3D `(..., in, out)`, their
    transposes `(..., out, in)`, depthwise `(..., in, multiplier)` where a kernel is
    one (in, multiplier) pair, both kernels of separable layers, ConvLSTM. Variables
    of all other layers are left alone. A variable that no layer owns is taken for a
    Conv kernel if it has rank 3, 4 or 5. Where a variable of rank 3 or more has no
    layer, or one of a class that Keras does not know, a warning names it; `kernel_axes`
    then says what it is. A variable with one kernel only (or kernels of one entry, for
    `"entries"`) is left alone, as its gradient would vanish.

    Has no slots.

    Args:
        mean_over: `"kernels"` or `"entries"`. Defaults to `"kernels"`.
        kernel_axes: a dictionary for variables that are not as above: from the end of
            a variable's path, such as `"my_layer/kernel"`, to the axes that count its
            kernels, or to `None` if it is no convolution kernel. Defaults to `None`.

    Raises:
        ValueError: for any other value of `mean_over`, `kernel_axes` that are no such
            dictionary; and when built, if one of its paths fits no variable.

    Warns:
        UserWarning: when built, of variables that it knows no layer of; or if there is
            not a single convolution kernel, so that it changes nothing.

    Example:

    >>> import keras, keras_gradopt
    >>> layer = keras.layers.Conv2D(2, 1, kernel_initializer="zeros")
    >>> layer.build((None, 8, 8, 1))
    >>> optimizer = keras_gradopt.Transformed(
    ...     keras.optimizers.SGD(1.0), [keras_gradopt.transforms.Whiten()]
    ... )
    >>> gradient = keras.ops.array([1.0, 3.0])
    >>> optimizer.apply([keras.ops.reshape(gradient, (1, 1, 1, 2))], [layer.kernel])
    >>> keras.ops.convert_to_numpy(layer.kernel).ravel().tolist()
    [1.0, -1.0]

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, section 3.
    """

    def __init__(
        self,
        mean_over: str = "kernels",
        kernel_axes: Mapping[str, Sequence[int] | None] | None = None,
    ) -> None:
        self.mean_over = arguments.choice(
            "mean_over", mean_over, ["kernels", "entries"]
        )
        self.kernel_axes = _kernel_axes(kernel_axes)

    def plan(self, variables: Sequence[keras.Variable]) -> list[Any]:
        plans = []
        for variable, axes in zip(
            variables, convolutions.kernel_axes(variables, self.kernel_axes)
        ):
            if axes is not None and self.mean_over == "entries":
                axes = tuple(a for a in range(len(variable.shape)) if a not in axes)
            if axes is not None:
                averaged = math.prod(variable.shape[axis] for axis in axes)
                axes = axes if averaged > 1 else None
            plans.append(axes)
        if not any(plans):
            warnings.warn(
                f"{self!r} changes nothing here: none of the {len(plans)} variables "
                "is a convolution kernel with a mean to subtract.",
                stacklevel=2,
            )
        return plans

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        axes = context.plan
        return Result(gradient if axes is None else equations.whiten(gradient, axes))

    def get_config(self) -> dict[str, Any]:
        given = {"kernel_axes": self.kernel_axes} if self.kernel_axes else {}
        return {"mean_over": self.mean_over, **given}


def _kernel_axes(value):
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(path, str)
        and (axes is None or isinstance(axes, (list, tuple)))
        and all(type(axis) is int for axis in axes or ())
        for path, axes in value.items()
    ):
        raise arguments.refuse(
            "kernel_axes", value, "a dictionary from paths to lists of axes or None"
        )
    return {path: axes and list(axes) for path, axes in value.items()}
