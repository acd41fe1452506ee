"""Who is compared in the study on optimizers, and with whom."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras.optimizers import SGD, Adam, Nadam

import keras_gradopt as ours
from keras_gradopt import comparison


@dataclass(frozen=True)
class Entry:
    """An optimizer in a comparison.

    Args:
        make: From a learning rate to the optimizer.
        against: The entries that it is compared with.
        rate_of: The entry whose tuned learning rate it takes, times `factor`.
        factor: See `rate_of`.
        weights_shift: Added to the seed of the initial weights, and to no other.
        needs_kernels: It equals its base on networks without convolution kernels.
    """

    make: Callable[[float], keras.optimizers.Optimizer]
    against: tuple[str, ...] = ("Adam",)
    rate_of: str | None = None
    factor: float = 1.0
    weights_shift: int = 0
    needs_kernels: bool = False

    @property
    def arm(self) -> comparison.Arm:
        """As the comparison takes it."""
        return comparison.Arm(
            self.make,
            rate_of=self.rate_of,
            factor=self.factor,
            weights_shift=self.weights_shift,
        )


def momentum(rate, **keywords):
    return SGD(rate, momentum=0.9, **keywords)


def whitening(make, *bases, **keywords):
    return Entry(make, bases, needs_kernels=True, **keywords)


def entries(make):
    return lambda rate: make(rate, mean_over="entries")


def ablation(**keywords):
    return Entry(
        lambda rate: ours.AdamNorm(rate, **keywords), ("AdamNorm",), "AdamNorm"
    )


ENTRIES = {
    "Adam": Entry(ours.AdamCore, ()),
    "SGD": Entry(momentum),
    "Nadam": Entry(Nadam),
    "RAdam": Entry(ours.RAdam),
    "AdaBelief": Entry(ours.AdaBelief),
    "NosAdam": Entry(ours.NosAdam),
    "AMSGrad": Entry(lambda rate: Adam(rate, amsgrad=True)),
    "DiffGrad": Entry(ours.DiffGrad),
    "AngularGrad": Entry(ours.AngularGrad),
    "AngularGrad tan": Entry(lambda rate: ours.AngularGrad(rate, angle="tan")),
    "AdamNorm": Entry(ours.AdamNorm),
    "DiffGradNorm": Entry(ours.DiffGradNorm, ("Adam", "DiffGrad")),
    "RAdamNorm": Entry(ours.RAdamNorm, ("Adam", "RAdam")),
    "AdaBeliefNorm": Entry(ours.AdaBeliefNorm, ("Adam", "AdaBelief")),
    "AdaL": Entry(ours.AdaL, ("Adam", "NosAdam", "AMSGrad")),
    "SGD, clipped values": Entry(lambda rate: momentum(rate, clipvalue=0.1), ("SGD",)),
    "SGD, clipped norms": Entry(lambda rate: momentum(rate, clipnorm=0.1), ("SGD",)),
    "GAFSGD": Entry(
        ours.GAFSGD, ("Adam", "SGD", "SGD, clipped values", "SGD, clipped norms")
    ),
    "GAFAdam": Entry(ours.GAFAdam),
    "WGDSGD": whitening(ours.WGDSGD, "Adam", "SGD"),
    "WGDAdam": whitening(ours.WGDAdam, "Adam"),
    "WGDNadam": whitening(ours.WGDNadam, "Adam", "Nadam"),
    "WGDRAdam": whitening(ours.WGDRAdam, "Adam", "RAdam"),
    # the paper's other mean
    "WGDSGD, entries": whitening(entries(ours.WGDSGD), "SGD"),
    "WGDAdam, entries": whitening(entries(ours.WGDAdam), "Adam"),
    "WGDNadam, entries": whitening(entries(ours.WGDNadam), "Nadam"),
    "WGDRAdam, entries": whitening(entries(ours.WGDRAdam), "RAdam"),
    # controls
    "Adam again": Entry(ours.AdamCore, rate_of="Adam", weights_shift=1000),
    "Adam, half rate": Entry(
        ours.AdamCore, ("AngularGrad",), rate_of="AngularGrad", factor=0.5
    ),
    "Adam, 0.88 rate": Entry(
        ours.AdamCore, ("AngularGrad",), rate_of="AngularGrad", factor=0.88
    ),
    # variants, at the rate that was tuned for the default
    "AdamNorm, gamma 0.9": ablation(gamma=0.9),
    "AdamNorm, gamma 0.99": ablation(gamma=0.99),
    "AdamNorm, gamma 0.999": ablation(gamma=0.999),
    "AdamNorm, second": ablation(corrected_moments="second"),
    "AdamNorm, both": ablation(corrected_moments="both"),
}
