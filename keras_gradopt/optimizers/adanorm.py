"""AdaNorm: one norm correction in the moments of four Adam-like optimizers."""

from typing import Unpack

from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.equations import Tensor
from keras_gradopt.optimizers.adam import AdaBelief, AdamCore, RAdam
from keras_gradopt.optimizers.angulargrad import DiffGrad
from keras_gradopt.transforms.base import register


@register
class AdamNorm(AdamCore):
    """AdamNorm: Adam whose first moment takes gradients of at least average norm.

    `e <- gamma e + (1 - gamma) ||g||`; `s = (e / ||g||) g` where `e > ||g||`, else
    `g`; `m <- beta_1 m + (1 - beta_1) s`, `v <- beta_2 v + (1 - beta_2) g^2`. The
    norm is of each variable's whole gradient, `s = 0` where it is 0.

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
        gamma: A float in [0, 1). The exponential decay rate for the average gradient
            norm `e`; `0` corrects nothing. Defaults to `0.95`.
        corrected_moments: A string, which moments take the corrected gradient `s`:
            `"first"`, `"second"` or `"both"` (the paper's Table 3). Defaults to
            `"first"`.
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
    >>> keras_gradopt.AdamNorm(gamma=0.9).gamma
    0.9

    Differences from the paper:
        The released code is NaN after the first all-zero gradient; here `s = 0`.

    Reference:
        Dubey et al., AdaNorm, eq. 2-9.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        gamma: float = 0.95,
        corrected_moments: str = "first",
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._correct_moments(gamma, corrected_moments)


@register
class DiffGradNorm(DiffGrad):
    """diffGradNorm: `DiffGrad` with AdaNorm's correction; see `AdamNorm`.

    The friction is of the uncorrected gradients.

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
        gamma: A float in [0, 1). The exponential decay rate for the average gradient
            norm `e`; `0` corrects nothing. Defaults to `0.95`.
        corrected_moments: A string, which moments take the corrected gradient `s`:
            `"first"`, `"second"` or `"both"` (the paper's Table 3). Defaults to
            `"first"`.
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
    >>> keras_gradopt.DiffGradNorm().transforms
    (DifferenceFriction(),)

    Reference:
        Dubey et al., AdaNorm, section 2 and supplement.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        gamma: float = 0.95,
        corrected_moments: str = "first",
        history_dtype: str | None = None,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, history_dtype, **keywords
        )
        self._correct_moments(gamma, corrected_moments)


@register
class RAdamNorm(RAdam):
    """RAdamNorm: `RAdam` with AdaNorm's correction; see `AdamNorm`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Up to 0.6, `rho_inf` is at most 4 and no step is adaptive.
            Defaults to `0.999`.
        epsilon: A float above 0, in units of the gradient. Added to the root of the
            bias-corrected 2nd moment. Defaults to `1e-8`.
        gamma: A float in [0, 1). The exponential decay rate for the average gradient
            norm `e`; `0` corrects nothing. Defaults to `0.95`.
        corrected_moments: A string, which moments take the corrected gradient `s`:
            `"first"`, `"second"` or `"both"` (the paper's Table 3). Defaults to
            `"first"`.
        rho_threshold: A float, at least 4. A step is adaptive where `rho_t`, the length
            of the average behind the 2nd moment, is above it. The papers print
            `rho_t > 4`; the widely copied code has `>= 5`. Defaults to `4.0`.
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
    >>> keras_gradopt.RAdamNorm(gamma=0.9).rho_threshold
    4.0

    Differences from the paper:
        The released code resets `e` at every step, so that it never corrects and
        equals RAdam; here `e` is kept.

    Reference:
        Dubey et al., AdaNorm, section 2 and supplement.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        gamma: float = 0.95,
        corrected_moments: str = "first",
        rho_threshold: float = 4.0,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, rho_threshold, **keywords
        )
        self._correct_moments(gamma, corrected_moments)


@register
class AdaBeliefNorm(AdaBelief):
    """AdaBeliefNorm: `AdaBelief` with AdaNorm's correction; see `AdamNorm`.

    The second moment is of the residual `s - m` of the corrected gradient.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0. Added to the 2nd moment at each step, where it stays,
            in units of the squared gradient; and to the root of the bias-corrected 2nd
            moment, in units of the gradient. Defaults to `1e-8`.
        gamma: A float in [0, 1). The exponential decay rate for the average gradient
            norm `e`; `0` corrects nothing. Defaults to `0.95`.
        corrected_moments: A string, which moments take the corrected gradient `s`.
            `"first"` is the paper's algorithm; as its residual holds `s`, `"both"` is
            the same here. With `"second"`, `m` takes `g` and the residual is still
            `s - m`. Defaults to `"first"`.
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
    >>> keras_gradopt.AdaBeliefNorm(epsilon=1e-12).epsilon
    1e-12

    Reference:
        Dubey et al., AdaNorm, section 2 and supplement.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        gamma: float = 0.95,
        corrected_moments: str = "first",
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._correct_moments(gamma, corrected_moments)

    def moment_gradients(
        self, gradient: Tensor, corrected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the first moment and of the residual, the corrected one."""
        first, _ = super().moment_gradients(gradient, corrected)
        return first, corrected
