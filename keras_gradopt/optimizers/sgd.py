"""The SGD core: stochastic gradient descent with momentum."""

from collections.abc import Callable
from typing import Any, Unpack

from keras_gradopt import arguments
from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.equations import Tensor
from keras_gradopt.optimizers.base import BaseOptimizer
from keras_gradopt.transforms import Slot
from keras_gradopt.transforms.base import register


@register
class SGDCore(BaseOptimizer):
    """SGD with momentum, as `keras.optimizers.SGD` has it, as one pure update.

    `u <- momentum u - learning_rate g`; `theta <- theta + u`, or with Nesterov
    momentum `theta <- theta + momentum u - learning_rate g` with the new `u`. Computed
    in float32 or wider, whatever the variable's dtype.

    `WGDSGD` and `GAFSGD` are this update with something in front of it or within.

    Args:
        learning_rate: A float in [0, inf), a
            `keras.optimizers.schedules.LearningRateSchedule`, or a callable that takes
            no arguments and returns the rate. Defaults to `0.01`.
        momentum: A float in [0, 1], how much of the velocity is kept at each step; `0`
            keeps no velocity. Defaults to `0.0`.
        nesterov: Whether to apply Nesterov momentum. Defaults to `False`.
        **keywords: `transforms`, a list of gradient transforms that run before the
            update, and the keywords of every Keras optimizer: `weight_decay`,
            `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.SGDCore(learning_rate=0.1)
    >>> weight = keras.Variable([1.0])
    >>> optimizer.apply([keras.ops.array([3.0])], [weight])
    >>> round(float(weight[0]), 4)
    0.7

    Reference:
        Sutskever et al. (2013), On the importance of initialization and momentum in
        deep learning; GAF Algorithm 1.
    """

    update_name = "SGD"
    said_otherwise = ("learning_rate_inside",)
    learning_rate_inside = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, **keywords)
        self.momentum = arguments.number("momentum", momentum, 0, 1)
        self.nesterov = arguments.flag("nesterov", nesterov)
        self.slots = (Slot("momentum"),) if self.momentum else ()

    def change(
        self,
        gradient: Tensor,
        learning_rate: Tensor,
        scalars: dict[str, Tensor],
        slots: list[Tensor],
        parts: list[Callable[[Tensor], Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """The velocity, activated if there is an activation, and the velocity."""
        change = step = -gradient * (learning_rate if self.learning_rate_inside else 1)
        if slots:
            change = velocity = self.momentum * slots[0] + step
            slots = [velocity]
            if self.nesterov:
                change = self.momentum * velocity + step
        for activate in parts:
            change = activate(change)
        return change if self.learning_rate_inside else learning_rate * change, slots

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
