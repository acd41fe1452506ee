"""WGD: one whitening of convolution gradients before four optimizers."""

from typing import Unpack

from keras_gradopt import equations
from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.equations import Tensor
from keras_gradopt.optimizers.adam import AdamCore, RAdam
from keras_gradopt.optimizers.sgd import SGDCore
from keras_gradopt.transforms import Whiten
from keras_gradopt.transforms.base import register


@register
class WGDSGD(SGDCore):
    """WGDSGD: SGD with momentum on whitened gradients of convolution kernels.

    The same as `Transformed(SGDCore(...), [Whiten(...)])`; see `Whiten` for which
    variables are whitened and how.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.01`.
        momentum: A float in [0, 1]. The share of the velocity that a step keeps; `0`
            keeps no velocity. Defaults to `0.9`.
        nesterov: Boolean. Whether to apply Nesterov momentum. Defaults to `False`.
        mean_over: A string, which mean is subtracted from the gradient of a convolution
            kernel: `"kernels"`, the mean over the layer's kernels, or `"entries"`, each
            kernel's mean over its own entries. Defaults to `"kernels"`.
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
    >>> keras_gradopt.WGDSGD(0.1, mean_over="entries").transforms
    (Whiten(mean_over='entries'),)

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, eq. 11.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        mean_over: str = "kernels",
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, **keywords)
        self._run_last(Whiten(mean_over))


@register
class WGDAdam(AdamCore):
    """WGDAdam: Adam on whitened gradients of convolution kernels.

    The same as `Transformed(AdamCore(...), [Whiten(...)])`; see `Whiten`.

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
        mean_over: A string, which mean is subtracted from the gradient of a convolution
            kernel: `"kernels"`, the mean over the layer's kernels, or `"entries"`, each
            kernel's mean over its own entries. Defaults to `"kernels"`.
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
    >>> keras_gradopt.WGDAdam().transforms
    (Whiten(mean_over='kernels'),)

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, eq. 11.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        mean_over: str = "kernels",
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(Whiten(mean_over))


@register
class WGDRAdam(RAdam):
    """WGDRAdam: `RAdam` on whitened gradients of convolution kernels.

    The same as `Transformed(RAdam(...), [Whiten(...)])`; see `Whiten`.

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
        mean_over: A string, which mean is subtracted from the gradient of a convolution
            kernel: `"kernels"`, the mean over the layer's kernels, or `"entries"`, each
            kernel's mean over its own entries. Defaults to `"kernels"`.
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
    >>> keras_gradopt.WGDRAdam(rho_threshold=5).rho_threshold
    5.0

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, Algorithm 2.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        mean_over: str = "kernels",
        rho_threshold: float = 4.0,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, rho_threshold, **keywords
        )
        self._run_last(Whiten(mean_over))


@register
class WGDNadam(AdamCore):
    """WGDNadam: Nadam on whitened gradients of convolution kernels.

    The same as `Transformed(keras.optimizers.Nadam(...), [Whiten(...)])` to rounding,
    and right where Keras' Nadam is not: with half-precision variables, and under
    loss scaling on JAX. See `Whiten`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0, in units of the gradient. Added to the root of the
            bias-corrected 2nd moment. The default is that of Keras' Nadam. Defaults to
            `1e-7`.
        mean_over: A string, which mean is subtracted from the gradient of a convolution
            kernel: `"kernels"`, the mean over the layer's kernels, or `"entries"`, each
            kernel's mean over its own entries. Defaults to `"kernels"`.
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
    >>> keras_gradopt.WGDNadam().epsilon
    1e-07

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, eq. 11; Dozat (2016).
    """

    update_name = "Nadam"

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        mean_over: str = "kernels",
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(Whiten(mean_over))

    def step_scalars(self, step: Tensor) -> dict[str, Tensor]:
        """The bias correction of the second moment, and Nadam's two weights."""
        of_m, of_gradient = equations.nadam_weights(self.beta_1, step)
        correct_v = equations.bias_correction(self.beta_2, step)
        return {"of_m": of_m, "of_gradient": of_gradient, "correct_v": correct_v}

    def direction(
        self, m: Tensor, v: Tensor, gradient: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """Adam's direction, with Nadam's momentum for the first moment."""
        m_hat = scalars["of_m"] * m + scalars["of_gradient"] * gradient
        return equations.adam_direction(m_hat, v / scalars["correct_v"], self.epsilon)
