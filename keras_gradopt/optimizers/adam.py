"""The Adam core and the papers' baselines that Keras lacks."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from keras import ops

from keras_gradopt import arguments, equations
from keras_gradopt.arguments import KeywordsAndTransforms, LearningRate
from keras_gradopt.equations import Tensor
from keras_gradopt.optimizers.base import BaseOptimizer
from keras_gradopt.transforms import CorrectNorm, Slot
from keras_gradopt.transforms.base import register


@register
class AdamCore(BaseOptimizer):
    """Adam as the papers print it: `epsilon` is added to the root of `v_hat`.

    `m <- beta_1 m + (1 - beta_1) g`, `v <- beta_2 v + (1 - beta_2) g^2`,
    `theta <- theta - learning_rate * m_hat / (sqrt(v_hat) + epsilon)` with the
    bias-corrected moments `m_hat`, `v_hat`.

    `keras.optimizers.Adam` adds its epsilon to the root of the *uncorrected* `v`;
    the two differ only where gradients are about as small as epsilon. The Adam-like
    optimizers of this package are this update and a transform, so
    `Transformed(AdamCore(), [AngularFriction()])` is `AngularGrad()`.

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
    >>> optimizer = keras_gradopt.AdamCore(learning_rate=0.1)
    >>> weight = keras.Variable([1.0])
    >>> optimizer.apply([keras.ops.array([3.0])], [weight])
    >>> round(float(weight[0]), 4)
    0.9

    Reference:
        Kingma and Ba (2014), as in AdaNorm Algorithm 1.
    """

    update_name = "Adam"
    slots: Sequence[Slot] = (Slot("momentum"), Slot("velocity"))
    said_otherwise = ("corrected_moments",)
    corrected_moments = "none"

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, **keywords)
        self.beta_1 = arguments.decay_rate("beta_1", beta_1)
        self.beta_2 = arguments.decay_rate("beta_2", beta_2)
        self.epsilon = arguments.positive("epsilon", epsilon)

    def _correct_moments(self, gamma: float, moments: str) -> None:
        """Gives a named class AdaNorm's correction, in "first", "second" or "both"."""
        self.corrected_moments = arguments.choice(
            "corrected_moments", moments, ["first", "second", "both"]
        )
        self.gamma = arguments.decay_rate("gamma", gamma)
        self._run_within(CorrectNorm(self.gamma))

    def change(
        self,
        gradient: Tensor,
        learning_rate: Tensor,
        scalars: dict[str, Tensor],
        slots: list[Tensor],
        parts: list[Callable[[Tensor], Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """Adam's step, from `second_moment` and `direction`."""
        m, v, *others = slots
        # the norm is of the gradient as it is, or its bounded form would be stored
        corrected = [equations.squarable(correct(gradient)) for correct in parts]
        gradient = equations.squarable(gradient)
        first, second = self.moment_gradients(gradient, *(corrected or [gradient]))
        m = equations.moving_average(m, first, self.beta_1)
        v, others = self.second_moment(v, second, m, scalars, others)
        change = -learning_rate * self.direction(m, v, first, scalars)
        return change, [m, v, *others]

    def step_scalars(self, step: Tensor) -> dict[str, Tensor]:
        """The bias corrections of both moments."""
        return {
            "correct_m": equations.bias_correction(self.beta_1, step),
            "correct_v": equations.bias_correction(self.beta_2, step),
        }

    def moment_gradients(
        self, gradient: Tensor, corrected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients that the first and the second moment take."""
        return (
            corrected if self.corrected_moments in ("first", "both") else gradient,
            corrected if self.corrected_moments in ("second", "both") else gradient,
        )

    def second_moment(
        self,
        v: Tensor,
        gradient: Tensor,
        m: Tensor,
        scalars: dict[str, Tensor],
        others: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """The new second moment, from the old one and the new first; other slots."""
        v = equations.moving_average(v, ops.square(gradient), self.beta_2)
        return v, others

    def direction(
        self, m: Tensor, v: Tensor, gradient: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """What the learning rate multiplies; the gradient is the first moment's."""
        m_hat, v_hat = m / scalars["correct_m"], v / scalars["correct_v"]
        return equations.adam_direction(m_hat, v_hat, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        corrected = self.corrected_moments
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            **({} if corrected == "none" else {"corrected_moments": corrected}),
        }

    def _update_in_words(self, update: str) -> str:
        if not self._parts:
            return update
        moments = self.corrected_moments
        where = "both moments" if moments == "both" else f"the {moments} moment"
        (correction,) = self._parts[0].transforms
        return f"{correction!r} in {where} of {update}"


@register
class RAdam(AdamCore):
    """RAdam: Adam whose adaptive step waits until its variance is bounded.

    With `rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t)`, `rho_inf = 2 / (1 -
    beta_2) - 1`: where `rho_t > rho_threshold`, Adam's step times the rectification
    `r_t`; before that, `theta <- theta - learning_rate * m_hat`.

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
    >>> keras_gradopt.RAdam(rho_threshold=5).rho_threshold
    5.0

    Reference:
        Liu et al. (2019), On the variance of the adaptive learning rate and beyond;
        WGD Algorithm 1.
    """

    update_name = "RAdam"

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        rho_threshold: float = 4.0,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **keywords)
        self.rho_threshold = arguments.number("rho_threshold", rho_threshold, 4)

    def step_scalars(self, step: Tensor) -> dict[str, Tensor]:
        """The bias corrections, and the rectification."""
        rectified, r = equations.rectification(step, self.beta_2, self.rho_threshold)
        return {**super().step_scalars(step), "rectified": rectified, "r": r}

    def direction(
        self, m: Tensor, v: Tensor, gradient: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """Adam's direction, rectified, or the first moment."""
        adaptive = scalars["r"] * super().direction(m, v, gradient, scalars)
        return ops.where(scalars["rectified"], adaptive, m / scalars["correct_m"])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {**super().get_config(), "rho_threshold": self.rho_threshold}


@register
class AdaBelief(AdamCore):
    """AdaBelief: the second moment is of the gradient's deviation from the first.

    `v <- beta_2 v + (1 - beta_2) (g - m)^2 + epsilon` with the new `m`; the rest is
    `AdamCore`. The `epsilon` added here stays in `v`.

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
    >>> keras_gradopt.AdaBelief(1e-3, epsilon=1e-16).epsilon
    1e-16

    Reference:
        Zhuang et al. (2020), AdaBelief optimizer.
    """

    update_name = "AdaBelief"

    def second_moment(
        self,
        v: Tensor,
        gradient: Tensor,
        m: Tensor,
        scalars: dict[str, Tensor],
        others: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """The new second moment, of the residual of the gradient."""
        # In this order, as XLA on CPUs copies the slot for (beta_2 v + ...) + epsilon.
        added = (1 - self.beta_2) * ops.square(gradient - m) + self.epsilon
        return self.beta_2 * v + added, others


@register
class NosAdam(AdamCore):
    """NosAdam: the second moment weighs past gradients more than recent ones.

    `v <- (B_{t-1} v + t^-gamma g^2) / B_t`, `B_t = sum of k^-gamma for k <= t`: a
    weighted mean of all squared gradients, which needs no bias correction. The rest
    is `AdamCore`. Keeps two more scalar slots per variable: `B`, and what rounding left
    of it, without which `B` in float32 stops to grow after some 1e7 steps.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`
            instance, or a callable that takes no arguments and returns the actual value
            to use. The learning rate. Defaults to `0.001`.
        beta_1: A float in [0, 1). The exponential decay rate for the 1st moment
            estimates. Defaults to `0.9`.
        epsilon: A float above 0, in units of the gradient. Added to the root of the 2nd
            moment. Defaults to `1e-8`.
        gamma: A float, at least 0. How fast the weights of later gradients in the 2nd
            moment fall, `t^-gamma`; `0` weighs all alike. Defaults to `0.1`.
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
    >>> keras_gradopt.NosAdam(gamma=0.2).gamma
    0.2

    Reference:
        Huang et al. (2019), Nostalgic Adam; AdaL's baseline.
    """

    update_name = "NosAdam"
    slots = (
        *AdamCore.slots,
        Slot("weight_sum", scalar=True),
        Slot("weight_sum_rest", scalar=True),
    )

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        epsilon: float = 1e-8,
        gamma: float = 0.1,
        **keywords: Unpack[KeywordsAndTransforms],
    ) -> None:
        super().__init__(learning_rate, beta_1, epsilon=epsilon, **keywords)
        self.gamma = arguments.number("gamma", gamma, 0)

    def step_scalars(self, step: Tensor) -> dict[str, Tensor]:
        """The bias correction of the first moment, and the weight of this gradient."""
        return {
            "correct_m": equations.bias_correction(self.beta_1, step),
            "weight": ops.power(step, -self.gamma),
        }

    def second_moment(
        self,
        v: Tensor,
        gradient: Tensor,
        m: Tensor,
        scalars: dict[str, Tensor],
        others: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """The new weighted mean of squared gradients, and the sum of the weights."""
        weight = scalars["weight"]
        before, rest = others
        total, rest = equations.compensated_sum(before, rest, weight)
        old, new = before / total, weight / total
        return old * v + new * ops.square(gradient), [total, rest]

    def direction(
        self, m: Tensor, v: Tensor, gradient: Tensor, scalars: dict[str, Tensor]
    ) -> Tensor:
        """Adam's direction, without bias correction of the second moment."""
        return equations.adam_direction(m / scalars["correct_m"], v, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        config = {**super().get_config(), "gamma": self.gamma}
        del config["beta_2"]
        return config
