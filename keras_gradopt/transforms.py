"""Gradient transforms: each paper's idea, for any optimizer.

A transform is configuration plus a pure function. It states which slot variables
it needs per model variable; an optimizer creates them, and at each step calls
`apply` with the gradient and the values of the slots. One transform object may
therefore serve several optimizers, and stand twice in one list.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import keras

from keras_gradopt import arguments, convolutions, equations
from keras_gradopt.equations import Tensor

__all__ = [
    "Activate",
    "AngularFriction",
    "Context",
    "CorrectNorm",
    "DifferenceFriction",
    "Result",
    "ScaleByL1Norm",
    "Slot",
    "Transform",
    "Whiten",
]

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

    slots: ClassVar[tuple[Slot, ...]] = ()
    history_dtype: str | None = None
    jit_compile: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """What the names of its slots begin with."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def plan(self, variables: Sequence[keras.Variable]) -> list[Any]:
        """What `apply` must know of each variable; called when one is built.

        Args:
            variables: the model variables, in the optimizer's order.

        Returns:
            One entry per variable, given to `apply` as `context.plan`.
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


def _history_dtype(value):
    return (
        None
        if value is None
        else arguments.choice("history_dtype", value, ["bfloat16"])
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
        self.history_dtype = _history_dtype(history_dtype)

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
        self.history_dtype = _history_dtype(history_dtype)

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


@register
class Activate(Transform):
    """GAF: an activation function acts on the gradient, elementwise.

    `"arctan"`: `alpha arctan(beta g)`; `"tanh"`: `alpha tanh(beta g)`; `"log"`:
    `alpha sign(g) ln(1 + beta |g|)`. Tiny gradients are multiplied by
    `alpha * beta`, large ones are bounded (slowed, for `"log"`).

    Args:
        activation: `"arctan"`, `"tanh"` or `"log"`. Defaults to `"arctan"`.
        alpha: scale of the output, above 0. Defaults to `0.1`.
        beta: scale of the input, above 0. Defaults to `20.0`.

    Raises:
        ValueError: for an unknown activation or a scale that is not positive.

    Example:

    >>> from keras_gradopt.transforms import Activate
    >>> Activate("tanh", 0.2, 10)
    Activate(activation='tanh', alpha=0.2, beta=10.0)

    Reference:
        Liu et al., Activated Gradients for Deep Neural Networks, sections III-IV.
    """

    def __init__(
        self, activation: str = "arctan", alpha: float = 0.1, beta: float = 20.0
    ) -> None:
        self.activation = arguments.choice(
            "activation", activation, equations.ACTIVATIONS
        )
        self.alpha = arguments.positive("alpha", alpha)
        self.beta = arguments.positive("beta", beta)

    def __call__(self, x: Tensor) -> Tensor:
        """The activation function itself, for a tensor of any shape."""
        return equations.gradient_activation(x, self.activation, self.alpha, self.beta)

    def apply(
        self, gradient: Tensor, slots: Sequence[Tensor], context: Context
    ) -> Result:
        return Result(self(gradient))

    def get_config(self) -> dict[str, Any]:
        return {"activation": self.activation, "alpha": self.alpha, "beta": self.beta}


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
