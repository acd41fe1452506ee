"""Optimizers that are broken on purpose, each for one check of the conformance kit."""

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_gradopt as kg


class Sound(keras.optimizers.Optimizer):
    """SGD with momentum, as one writes it; all that is broken is made from it."""

    decay = 0.9

    def __init__(self, learning_rate=0.01, name="sound", **keywords):
        super().__init__(learning_rate=learning_rate, name=name, **keywords)

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.momentums = self.add_optimizer_variables(variables, "momentum")

    def change(self, gradient, variable):
        """What a broken one does to the gradient."""
        return gradient

    def update_step(self, gradient, variable, learning_rate):
        if hasattr(gradient, "indices"):
            gradient = self.dense(gradient)
        gradient = self.change(ops.cast(gradient, variable.dtype), variable)
        momentum = self.momentums[self._get_variable_index(variable)]
        value = self.decay * ops.cast(momentum, variable.dtype) + gradient
        self.assign(momentum, ops.cast(value, momentum.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * value)

    def dense(self, gradient):
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)


def twin(gradients, start):
    """Of Sound."""
    trajectories = []
    for stream, value in zip(gradients, start):
        momentum, trajectory = 0.0, []
        for gradient in stream:
            momentum = Sound.decay * momentum + gradient
            value = value - 0.01 * momentum
            trajectory.append(value)
        trajectories.append(np.array(trajectory))
    return trajectories


def base():
    return keras.optimizers.SGD(0.01)


def with_decay(decay):
    """Sound with another momentum."""
    return type("WithDecay", (Sound,), {"decay": decay})()


def neutral():
    return with_decay(0.0)


class Doubled(Sound):
    """Sound at twice the rate."""

    def change(self, gradient, variable):
        return 2 * gradient


class OtherInGraphs(Sound):
    def change(self, gradient, variable):
        import tensorflow as tf

        return gradient if tf.executing_eagerly() else 0.5 * gradient


class SecondSlot(Sound):
    """Counts steps in a slot beside; that changes nothing."""

    initial = "zeros"

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.seen = self.add_optimizer_variables(
                variables, "seen", initializer=self.initial
            )

    def slot(self, variable):
        return self.seen[self._get_variable_index(variable)]

    def change(self, gradient, variable):
        slot = self.slot(variable)
        self.assign(slot, slot + ops.ones_like(slot))
        return gradient


class IdleSlot(SecondSlot):
    def change(self, gradient, variable):
        return gradient


class SlotOfNeighbour(SecondSlot):
    """Touches the slot of the next variable, too."""

    def change(self, gradient, variable):
        index = self._get_variable_index(variable)
        for slot in (self.seen[index], self.seen[(index + 1) % len(self.seen)]):
            self.assign(slot, slot + ops.ones_like(slot))
        return gradient


class UnsavedSlot(SecondSlot):
    def save_own_variables(self, store):
        super().save_own_variables(store)
        for key, variable in enumerate(self.variables):
            if "seen" in variable.path:
                store[str(key)] = np.zeros(variable.shape, "float32")


class NarrowSlots(Sound):
    def build(self, variables):
        if not self.built:
            keras.optimizers.Optimizer.build(self, variables)
            self.momentums = [
                self.add_variable(v.shape, dtype="float32", name="momentum")
                for v in variables
            ]


class NoZeroBeforeANumber(SecondSlot):
    """Divides by the gradient before."""

    initial = "ones"

    def change(self, gradient, variable):
        slot = self.slot(variable)
        ratio = ops.where(gradient == 0, 1, gradient / slot)
        self.assign(slot, gradient)
        return gradient * (1 + 0 * ratio)


class Normalizes(Sound):
    """By a norm that is 0 for tiny gradients, and back."""

    def change(self, gradient, variable):
        norm = ops.sqrt(ops.sum(ops.square(gradient)))
        zero = ops.all(gradient == 0)
        return gradient * ops.where(zero, 1, norm / norm)


class Swallows(Sound):
    def change(self, gradient, variable):
        return ops.where(ops.isfinite(gradient), gradient, 0)


class HalfAsFast(Sound):
    """In one dtype."""

    dtype = "float16"

    def change(self, gradient, variable):
        return gradient * (0.5 if variable.dtype == self.dtype else 1)


class HalfAsFastInBfloat16(HalfAsFast):
    dtype = "bfloat16"


class LastOfARow(Sound):
    """Of a row that is twice in a batch only one gradient counts."""

    def dense(self, gradient):
        import tensorflow as tf

        zeros = tf.zeros(gradient.dense_shape, gradient.dtype)
        rows = gradient.indices[:, None]
        return tf.tensor_scatter_nd_update(zeros, rows, gradient.values)


class LosesASetting(Sound):
    def get_config(self):
        config = super().get_config()
        del config["ema_momentum"]
        return config


class Hides(Sound):
    """Keeps a state where Keras does not find it."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            hidden = [
                keras.Variable(np.zeros(v.shape), dtype=v.dtype) for v in variables
            ]
            self.hidden = types.SimpleNamespace(variables=hidden)

    def change(self, gradient, variable):
        hidden = self.hidden.variables[self._get_variable_index(variable)]
        hidden.assign(0.5 * hidden + gradient)
        return hidden + ops.zeros_like(gradient)


class TakesWhatFits(Sound):
    def load_own_variables(self, store):
        for key, variable in enumerate(self.variables):
            if str(key) in store.keys():  # Keras' stores of files have no more
                value = np.array(store[str(key)])
                if value.shape == tuple(variable.shape):
                    variable.assign(value)


class Mixes(Sound):
    """One state for all variables."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.shared = self.add_variable((), name="shared")

    def change(self, gradient, variable):
        size = ops.cast(ops.mean(ops.abs(gradient)), self.shared.dtype)
        shared = 0.9 * self.shared + 0.1 * ops.where(size < 1e9, size, 1.0)
        self.assign(self.shared, shared)
        return gradient / ops.cast(1 + shared, variable.dtype)


class TakesStrangers(Sound):
    def build(self, variables):
        super().build(variables)
        self.known = {id(v) for v in variables}

    def apply(self, grads, trainable_variables=None):
        if trainable_variables and self.built:
            if not {id(v) for v in trainable_variables} <= self.known:
                return
        super().apply(grads, trainable_variables)


class Accumulates(Sound):
    """The sum, not the mean."""

    def change(self, gradient, variable):
        return gradient * (self.gradient_accumulation_steps or 1)


class Forgets(Sound):
    """One of Keras' settings, when it steps."""

    setting = "clipvalue"

    def apply(self, grads, trainable_variables=None):
        setattr(self, self.setting, None)
        super().apply(grads, trainable_variables)


class ForgetsLossScale(Forgets):
    setting = "loss_scale_factor"


class NeverFinalizes(Sound):
    def finalize_variable_values(self, var_list):
        pass


class OneRate(Sound):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, 0.01)


class ExcludesNothing(Sound):
    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        pass


class HalfUnderAStrategy(Sound):
    def change(self, gradient, variable):
        import tensorflow as tf

        return gradient * (0.5 if tf.distribute.has_strategy() else 1)


@dataclass
class Row:
    """A broken optimizer.

    Attributes:
        factory: makes it.
        known: its base, twin and neutral setting.
        implied: checks that then fail as well, as they say more.
    """

    factory: Callable[[], keras.optimizers.Optimizer]
    known: dict[str, Any] = field(default_factory=dict)
    implied: tuple[str, ...] = ()


BROKEN = {
    "equals_twin": Row(lambda: with_decay(0.899), {"twin": twin}),
    "is_not_base": Row(Sound, {"base": Sound}, implied=("alive",)),
    "alive": Row(Doubled, {"base": Sound}),
    "becomes_base": Row(Sound, {"base": base, "neutral": lambda: with_decay(0.01)}),
    "modes_agree": Row(OtherInGraphs),
    "slots_move": Row(IdleSlot),
    "dtypes_kept": Row(NarrowSlots),
    "zero_gradients": Row(NoZeroBeforeANumber),
    "extreme_gradients": Row(Normalizes),
    "nonfinite_gradients": Row(Swallows),
    "float16": Row(HalfAsFast),
    "bfloat16": Row(HalfAsFastInBfloat16),
    "sparse_gradients": Row(LastOfARow),
    "accumulation": Row(Accumulates),
    "clipping": Row(Forgets),
    "moving_average": Row(NeverFinalizes),
    "schedules": Row(OneRate),
    "weight_decay": Row(ExcludesNothing),
    "exclusions_reload": Row(Sound),
    "loss_scaling": Row(ForgetsLossScale),
    "config": Row(LosesASetting),
    "saved_variables": Row(UnsavedSlot),
    "mismatched_state": Row(TakesWhatFits),
    "foreign_state": Row(Sound),
    "variables_do_not_mix": Row(Mixes),
    "frozen_variables": Row(SlotOfNeighbour),
    "unknown_variable": Row(TakesStrangers),
    "resume": Row(Hides),
    "two_devices": Row(HalfUnderAStrategy),
}


class AngularGradInert(kg.AdamCore):
    """As released: a friction that is always the same, and slots that are not used."""

    def __init__(self, *args, **keywords):
        keywords["learning_rate"] = 0.5e-3
        super().__init__(*args, **keywords)

    def build(self, variables):
        built = self.built
        super().build(variables)
        if not built:
            self.angles = self.add_optimizer_variables(variables, "angle")


class RAdamNormInert(kg.RAdam):
    """Whose correction never happens."""


class WGDNadamInert(keras.optimizers.Nadam):
    """That steps with the gradient as it came."""

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) == 4:
            _ = gradient - ops.mean(gradient, axis=-1, keepdims=True)
        super().update_step(gradient, variable, learning_rate)


INERT = {
    "AngularGradInert": (AngularGradInert, kg.AdamCore, ["alive", "slots_move"]),
    "RAdamNormInert": (RAdamNormInert, kg.RAdam, ["is_not_base", "alive"]),
    "WGDNadamInert": (
        WGDNadamInert,
        keras.optimizers.Nadam,
        ["is_not_base", "alive"],
    ),
}
