"""diffGrad and AngularGrad: Adam whose step size a friction scales, elementwise."""

from typing import Unpack

from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.optimizers.adam import AdamCore
from keras_gradopt.transforms import AngularFriction, DifferenceFriction
from keras_gradopt.transforms.base import register


@register
class DiffGrad(AdamCore):
    """diffGrad: Adam's step times `sigmoid(|g_{t-1} - g_t|)`, elementwise.

    The same as `Transformed(AdamCore(...), [DifferenceFriction()])`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0, in units of the gradient. Added to the root of the
            bias-corrected 2nd moment. Defaults to `1e-8`.
        history_dtype: A string or `None`. `"bfloat16"` keeps the previous gradient in
            half the memory, rounded to 8 bits; `None` keeps it in the variable's dtype.
            Defaults to `None`.
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
    >>> keras_gradopt.DiffGrad(0.01).transforms
    (DifferenceFriction(),)

    Reference:
        Dubey et al. (2019), diffGrad; AngularGrad eq. 9-10.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        history_dtype: str | None = None,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(DifferenceFriction(history_dtype))


@register
class AngularGrad(AdamCore):
    """AngularGrad: Adam's step times a coefficient of the angle between gradients.

    `A_t = arctan |(g_t - g_{t-1}) / (1 + g_t g_{t-1})|`, elementwise, `g_0 = 0`;
    `theta <- theta - learning_rate * c * m_hat / (sqrt(v_hat) + epsilon)` with
    `c = lambda_1 tanh|f(min(A_{t-1}, A_t))| + lambda_2`. The same as
    `Transformed(AdamCore(...), [AngularFriction(...)])`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0, in units of the gradient. Added to the root of the
            bias-corrected 2nd moment. Defaults to `1e-8`.
        angle: A string, the function `f` of the angle between gradients: `"cos"` or
            `"tan"`. Defaults to `"cos"`.
        lambda_1: A float, at least 0. The weight of the angle in the coefficient of the
            step. Defaults to `0.5`.
        lambda_2: A float, at least 0. The smallest coefficient of the step. Defaults to
            `0.5`.
        history_dtype: A string or `None`. `"bfloat16"` keeps both slots, the previous
            gradient and the tangent of the angle, in half the memory, rounded to 8
            bits; `None` keeps them in the variable's dtype. Defaults to `None`.
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
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(optimizer=keras_gradopt.AngularGrad(angle="tan"), loss="mse")

    Differences from the paper:
        There is no angle before the first, so `A_min = A_1` at the first step (the
        paper does not define `A_0`). The released code computes something else:
        `c = 0.5` throughout, which is Adam at half the learning rate.

    Reference:
        Roy et al., AngularGrad, Algorithm 2.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        angle: str = "cos",
        lambda_1: float = 0.5,
        lambda_2: float = 0.5,
        history_dtype: str | None = None,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(AngularFriction(angle, lambda_1, lambda_2, history_dtype))
