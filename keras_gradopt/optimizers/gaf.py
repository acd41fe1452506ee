"""GAF: an activation function on the gradient (Adam) or the velocity (SGD)."""

from typing import Any, Unpack

from keras_gradopt import arguments
from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.optimizers.adam import AdamCore
from keras_gradopt.optimizers.sgd import SGDCore
from keras_gradopt.transforms import Activate
from keras_gradopt.transforms.base import register


@register
class GAFAdam(AdamCore):
    """GAFAdam: Adam on activated gradients.

    The same as `Transformed(AdamCore(...), [Activate(...)])`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0, in units of the activated gradient. Added to the root
            of the bias-corrected 2nd moment. Defaults to `1e-8`.
        activation: A string, the function: `"arctan"` for `alpha arctan(beta x)`,
            `"tanh"` for `alpha tanh(beta x)` or `"log"` for
            `alpha sign(x) ln(1 + beta |x|)`. Defaults to `"arctan"`.
        alpha: A float above 0. The scale of the activation's output. Defaults to `0.1`.
        beta: A float above 0. The scale of the activation's input. Defaults to `20.0`.
        **keywords: Those of every Keras optimizer: `weight_decay` shrinks the weights,
            apart from the gradient; `clipnorm`, `clipvalue` and `global_clipnorm` clip
            each gradient's norm, its entries, or the norm of all gradients; `use_ema`,
            `ema_momentum` and `ema_overwrite_frequency` average the weights over steps;
            `loss_scale_factor` multiplies the loss and is taken out of the gradients;
            `gradient_accumulation_steps` gradients are averaged for one update; `name`
            is the optimizer's name.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras_gradopt
    >>> keras_gradopt.GAFAdam(activation="tanh").transforms
    (Activate(activation='tanh', alpha=0.1, beta=20.0),)

    Reference:
        Liu et al., Activated Gradients for Deep Neural Networks, section IV-A.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        activation: str = "arctan",
        alpha: float = 0.1,
        beta: float = 20.0,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(Activate(activation, alpha, beta))


@register
class GAFSGD(SGDCore):
    """GAFSGD: SGD with momentum whose velocity is activated before it is applied.

    `u <- momentum u - learning_rate g`; `theta <- theta + act(u)`, where `act` is one
    of `Activate`'s functions. The learning rate is inside the activation, so a step
    is bounded by `alpha pi / 2` (`"arctan"`) and tiny steps are multiplied by
    `alpha * beta`. With `learning_rate_inside=False`, as in the released code:
    `u <- momentum u - g`; `theta <- theta + learning_rate act(u)`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.01`.
        momentum: A float in [0, 1]. The share of the velocity that a step keeps; `0`
            keeps no velocity. Defaults to `0.9`.
        nesterov: Boolean. Whether to apply `act(momentum u - learning_rate g)` with the
            new `u`. Defaults to `False`.
        activation: A string, the function: `"arctan"` for `alpha arctan(beta x)`,
            `"tanh"` for `alpha tanh(beta x)` or `"log"` for
            `alpha sign(x) ln(1 + beta |x|)`. Defaults to `"arctan"`.
        alpha: A float above 0. The scale of the activation's output. Defaults to `0.1`.
        beta: A float above 0. The scale of the activation's input. Defaults to `20.0`.
        learning_rate_inside: Boolean. Whether the learning rate multiplies the gradient
            (the paper) or the activated velocity (its code). Defaults to `True`.
        **keywords: Those of every Keras optimizer: `weight_decay` shrinks the weights,
            apart from the gradient; `clipnorm`, `clipvalue` and `global_clipnorm` clip
            each gradient's norm, its entries, or the norm of all gradients; `use_ema`,
            `ema_momentum` and `ema_overwrite_frequency` average the weights over steps;
            `loss_scale_factor` multiplies the loss and is taken out of the gradients;
            `gradient_accumulation_steps` gradients are averaged for one update; `name`
            is the optimizer's name.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.GAFSGD(learning_rate=1.0)
    >>> weight = keras.Variable([0.0])
    >>> optimizer.apply([keras.ops.array([1e6])], [weight])
    >>> round(float(weight[0]), 4)  # -alpha * pi / 2
    -0.1571

    Reference:
        Liu et al., Activated Gradients for Deep Neural Networks, Algorithm 1.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        activation: str = "arctan",
        alpha: float = 0.1,
        beta: float = 20.0,
        learning_rate_inside: bool = True,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, **keywords)
        self._run_within(Activate(activation, alpha, beta))
        self.learning_rate_inside = arguments.flag(
            "learning_rate_inside", learning_rate_inside
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        inside = self.learning_rate_inside
        return {**super().get_config(), "learning_rate_inside": inside}

    def _update_in_words(self, update: str) -> str:
        (activate,) = self._parts[0].transforms
        where = "inside" if self.learning_rate_inside else "outside"
        return f"{update} -> {activate!r} of the velocity, learning rate {where}"
