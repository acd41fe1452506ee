"""diffGrad and AngularGrad: Adam whose step size a friction scales, elementwise."""

from typing import Unpack

from keras_gradopt.arguments import LearningRate, OptimizerKeywords
from keras_gradopt.optimizers.adam import AdamCore
from keras_gradopt.transforms import AngularFriction, DifferenceFriction, register


@register
class DiffGrad(AdamCore):
    """diffGrad: Adam's step times `sigmoid(|g_{t-1} - g_t|)`, elementwise.

    The same as `Transformed(AdamCore(...), [DifferenceFriction()])`.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: see `AdamCore`. Defaults to `1e-8`.
        history_dtype: see `DifferenceFriction`. Defaults to `None`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

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
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_first(DifferenceFriction(history_dtype))


@register
class AngularGrad(AdamCore):
    """AngularGrad: Adam's step times a coefficient of the angle between gradients.

    `A_t = arctan |(g_t - g_{t-1}) / (1 + g_t g_{t-1})|`, elementwise, `g_0 = 0`;
    `theta <- theta - learning_rate * c * m_hat / (sqrt(v_hat) + epsilon)` with
    `c = lambda_1 tanh|f(min(A_{t-1}, A_t))| + lambda_2`. The same as
    `Transformed(AdamCore(...), [AngularFriction(...)])`.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: see `AdamCore`. Defaults to `1e-8`.
        angle: f, `"cos"` or `"tan"`. Defaults to `"cos"`.
        lambda_1: weight of the angle, at least 0. Defaults to `0.5`.
        lambda_2: the smallest coefficient, at least 0. Defaults to `0.5`.
        history_dtype: see `AngularFriction`. Defaults to `None`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

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
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_first(AngularFriction(angle, lambda_1, lambda_2, history_dtype))
