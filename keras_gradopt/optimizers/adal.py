"""AdaL: Adam on gradients multiplied by their own L1 norm."""

from typing import Unpack

from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.optimizers.adam import AdamCore
from keras_gradopt.transforms import ScaleByL1Norm
from keras_gradopt.transforms.base import register


@register
class AdaL(AdamCore):
    """AdaL: Adam on `||g||_1 g`, the norm of each variable's whole gradient.

    The same as `Transformed(AdamCore(...), [ScaleByL1Norm()])`. As `m_hat /
    sqrt(v_hat)` has no scale, only the *change* of the norm over the memory of the
    moments acts: gradients of steps with a large norm weigh more. `epsilon` matters
    where `||g||_1 |g|` falls below it, which is earlier than in Adam when norms are
    small.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        beta_2: A float in [0, 1). The exponential decay rate for the 2nd moment
            estimates. Defaults to `0.999`.
        epsilon: A float above 0, in units of the squared gradient. Added to the root of
            the bias-corrected 2nd moment. Defaults to `1e-8`.
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
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self._run_last(ScaleByL1Norm())
