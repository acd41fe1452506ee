"""AdaL: Adam on gradients multiplied by their own L1 norm."""

from typing import Unpack

from keras_gradopt.arguments import LearningRate, OptimizerKeywords
from keras_gradopt.optimizers.adam import AdamCore
from keras_gradopt.transforms import ScaleByL1Norm, register


@register
class AdaL(AdamCore):
    """AdaL: Adam on `||g||_1 g`, the norm of each variable's whole gradient.

    The same as `Transformed(AdamCore(...), [ScaleByL1Norm()])`. As `m_hat /
    sqrt(v_hat)` has no scale, only the *change* of the norm over the memory of the
    moments acts: gradients of steps with a large norm weigh more. `epsilon` matters
    where `||g||_1 |g|` falls below it, which is earlier than in Adam when norms are
    small.

    Args:
        learning_rate: see `AdamCore`. Defaults to `0.001`.
        beta_1: see `AdamCore`. Defaults to `0.9`.
        beta_2: see `AdamCore`. Defaults to `0.999`.
        epsilon: in units of the squared gradient, above 0. Defaults to `1e-8`.
        **keywords: those of every Keras optimizer, see `AdamCore`.

    Raises:
        ValueError: for an argument out of range or unknown.

    Example:

    >>> import keras_gradopt
    >>> keras_gradopt.AdaL(0.001).transforms
    (ScaleByL1Norm(),)

    Differences from the paper:
        The printed update `alpha (v_hat^(-1/2) + epsilon) m_hat` is read as
        `alpha m_hat / (sqrt(v_hat) + epsilon)`.

    Reference:
        Zhang et al., AdaL, Algorithm 1.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_first(ScaleByL1Norm())
