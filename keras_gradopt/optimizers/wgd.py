"""WGD: one whitening of convolution gradients before four optimizers."""

from typing import Unpack

import keras

from keras_gradopt import arguments, equations
from keras_gradopt.arguments import LearningRate, OptimizerKeywords
from keras_gradopt.equations import Tensor
from keras_gradopt.optimizers.adam import AdamCore, RAdam
from keras_gradopt.optimizers.pipeline import Pipelined
from keras_gradopt.transforms import Whiten, register


@register
class WGDSGD(Pipelined, keras.optimizers.SGD):
    """WGDSGD: SGD with momentum on whitened gradients of convolution kernels.

    The same as `Transformed(keras.optimizers.SGD(...), [Whiten(...)])`; see `Whiten`
    for which variables are whitened and how.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.01`.
        momentum: in [0, 1]. Defaults to `0.9`.
        nesterov: whether to apply Nesterov momentum. Defaults to `False`.
        mean_over: `"kernels"` or `"entries"`, see `Whiten`. Defaults to `"kernels"`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras_gradopt
    >>> keras_gradopt.WGDSGD(0.1, mean_over="entries").transforms
    (Whiten(mean_over='entries'),)

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, eq. 11.
    """

    update_name = "SGD"

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        mean_over: str = "kernels",
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(
            learning_rate,
            arguments.number("momentum", momentum, 0, 1),
            arguments.flag("nesterov", nesterov),
            **keywords,
        )
        self._run_first(Whiten(mean_over))


class _WhitenedAdaptive(Pipelined):
    """Mixin for an adaptive optimizer: convolution gradients are whitened first."""

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        mean_over: str = "kernels",
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_first(Whiten(mean_over))


@register
class WGDAdam(_WhitenedAdaptive, AdamCore):
    """WGDAdam: Adam on whitened gradients of convolution kernels.

    The same as `Transformed(AdamCore(...), [Whiten(...)])`; see `Whiten`.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: see `AdamCore`. Defaults to `1e-8`.
        mean_over: `"kernels"` or `"entries"`, see `Whiten`. Defaults to `"kernels"`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras_gradopt
    >>> keras_gradopt.WGDAdam().transforms
    (Whiten(mean_over='kernels'),)

    Reference:
        Gholamalinejad and Khosravi, Whitened gradient descent, eq. 11.
    """


@register
class WGDRAdam(_WhitenedAdaptive, RAdam):
    """WGDRAdam: `RAdam` on whitened gradients of convolution kernels.

    The same as `Transformed(RAdam(...), [Whiten(...)])`; see `Whiten`.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: see `AdamCore`. Defaults to `1e-8`.
        mean_over: `"kernels"` or `"entries"`, see `Whiten`. Defaults to `"kernels"`.
        rho_threshold: see `RAdam`. Defaults to `4.0`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

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
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            mean_over,
            rho_threshold=rho_threshold,
            **keywords,
        )


@register
class WGDNadam(_WhitenedAdaptive, AdamCore):
    """WGDNadam: Nadam on whitened gradients of convolution kernels.

    The same as `Transformed(keras.optimizers.Nadam(...), [Whiten(...)])` to rounding,
    and right where Keras' Nadam is not: with half-precision variables, and under
    loss scaling on JAX. See `Whiten`.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: see `AdamCore`. Defaults to `1e-7`, as in Keras' Nadam.
        mean_over: `"kernels"` or `"entries"`, see `Whiten`. Defaults to `"kernels"`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

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
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, mean_over, **keywords)

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
