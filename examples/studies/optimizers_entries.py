"""Who is compared in the study on optimizers, and which comparisons are primary."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
from keras.optimizers import SGD, Adam, Nadam
from optimizers_tasks import TASKS, has_kernels

import keras_gradopt as ours
from keras_gradopt.comparison import Arm


class Entry(NamedTuple):
    """An optimizer in the study.

    Attributes:
        arm: As the comparison takes it.
        turn: All entries of a turn are run, on all tasks, before those of the next.
        needs_kernels: It equals its base on networks without convolution kernels.
    """

    arm: Arm
    turn: int = 1
    needs_kernels: bool = False


def entry(make: Callable[..., keras.optimizers.Optimizer], turn=1, **keywords):
    return Entry(Arm(make, **keywords), turn)


def whitening(make, turn, mean_over="kernels"):
    arm = Arm(lambda rate: make(rate, mean_over=mean_over))
    return Entry(arm, turn, needs_kernels=True)


def momentum(rate, **keywords):
    return SGD(rate, momentum=0.9, **keywords)


def ablation(**keywords):
    """A variant, at the rate that was tuned for the default."""
    return entry(lambda rate: ours.AdamNorm(rate, **keywords), 3, rate_of="AdamNorm")


# what AdaBelief's authors choose from
EPSILONS = {"search": {"epsilon": [1e-8, 1e-12, 1e-16]}}
ENTRIES = {
    "Adam": entry(ours.AdamCore),
    "AngularGrad": entry(ours.AngularGrad),
    "AngularGrad tan": entry(lambda rate: ours.AngularGrad(rate, angle="tan")),
    "AdamNorm": entry(ours.AdamNorm),
    "Adam again": entry(ours.AdamCore, rate_of="Adam", weights_shift=1000),
    "Adam at 0.88 of AngularGrad": entry(
        ours.AdamCore, rate_of="AngularGrad", factor=0.88
    ),
    "Adam at 0.5 of AngularGrad": entry(
        ours.AdamCore, rate_of="AngularGrad", factor=0.5
    ),
    "Adam at 1.25 of AdamNorm": entry(ours.AdamCore, rate_of="AdamNorm", factor=1.25),
    "SGD": entry(momentum),
    "SGD, clipped norms": entry(lambda rate: momentum(rate, clipnorm=0.1)),
    "GAFSGD": entry(ours.GAFSGD),
    "AdaL": entry(ours.AdaL),
    "WGDSGD": whitening(ours.WGDSGD, 1),
    "WGDAdam": whitening(ours.WGDAdam, 1),
    "DiffGrad": entry(ours.DiffGrad, 2),
    "DiffGradNorm": entry(ours.DiffGradNorm, 2),
    "AdaBelief": entry(ours.AdaBelief, 2),
    "AdaBelief, epsilon searched": entry(ours.AdaBelief, 2, **EPSILONS),
    "AdaBeliefNorm": entry(ours.AdaBeliefNorm, 2),
    "AdaBeliefNorm, epsilon searched": entry(ours.AdaBeliefNorm, 2, **EPSILONS),
    "RAdam": entry(ours.RAdam, 2),
    "RAdamNorm": entry(ours.RAdamNorm, 2),
    "AdamNorm, gamma 0.9": ablation(gamma=0.9),
    "AdamNorm, gamma 0.99": ablation(gamma=0.99),
    "AdamNorm, gamma 0.999": ablation(gamma=0.999),
    "AdamNorm, second": ablation(corrected_moments="second"),
    "AdamNorm, both": ablation(corrected_moments="both"),
    "GAFAdam": entry(ours.GAFAdam, 3),
    "SGD, clipped values": entry(lambda rate: momentum(rate, clipvalue=0.1), 3),
    "NosAdam": entry(ours.NosAdam, 3),
    "AMSGrad": entry(lambda rate: Adam(rate, amsgrad=True), 3),
    "Nadam": entry(Nadam, 3),
    "WGDNadam": whitening(ours.WGDNadam, 3),
    "WGDRAdam": whitening(ours.WGDRAdam, 3),
    "WGDSGD, entries": whitening(ours.WGDSGD, 4, "entries"),
    "WGDAdam, entries": whitening(ours.WGDAdam, 4, "entries"),
}
LAST_TURN = max(found.turn for found in ENTRIES.values())

CONTROL, EXPLORATORY = "control", "exploratory"
COMPARISONS = {
    # one primary family a paper; Holm's correction over all tasks
    "AngularGrad": [
        ("AngularGrad", "Adam"),
        ("AngularGrad tan", "Adam"),
        ("AngularGrad", "Adam at 0.88 of AngularGrad"),
    ],
    "AdaNorm": [("AdamNorm", "Adam"), ("AdamNorm", "Adam at 1.25 of AdamNorm")],
    "GAF": [("GAFSGD", "SGD"), ("GAFSGD", "SGD, clipped norms")],
    "AdaL": [("AdaL", "Adam")],
    "WGD": [("WGDSGD", "SGD"), ("WGDAdam", "Adam")],
    CONTROL: [("Adam again", "Adam")],
    EXPLORATORY: [
        ("SGD", "Adam"),
        ("DiffGrad", "Adam"),
        ("AdaBelief", "Adam"),
        ("AdaBelief, epsilon searched", "Adam"),
        ("RAdam", "Adam"),
        ("NosAdam", "Adam"),
        ("AMSGrad", "Adam"),
        ("Nadam", "Adam"),
        ("GAFSGD", "Adam"),
        ("GAFAdam", "Adam"),
        ("GAFSGD", "SGD, clipped values"),
        ("AngularGrad", "Adam at 0.5 of AngularGrad"),
        ("DiffGradNorm", "DiffGrad"),
        ("AdaBeliefNorm", "AdaBelief"),
        ("AdaBeliefNorm, epsilon searched", "AdaBelief, epsilon searched"),
        ("RAdamNorm", "RAdam"),
        ("AdamNorm, gamma 0.9", "AdamNorm"),
        ("AdamNorm, gamma 0.99", "AdamNorm"),
        ("AdamNorm, gamma 0.999", "AdamNorm"),
        ("AdamNorm, second", "AdamNorm"),
        ("AdamNorm, both", "AdamNorm"),
        ("AdaL", "NosAdam"),
        ("AdaL", "AMSGrad"),
        ("WGDNadam", "Nadam"),
        ("WGDRAdam", "RAdam"),
        ("WGDSGD, entries", "SGD"),
        ("WGDAdam, entries", "Adam"),
    ],
}


def left_out(
    turn: int, tasks: Iterable[str] = TASKS, names: Iterable[str] = ENTRIES
) -> list[tuple[str, str]]:
    """Pairs (task, entry) that are not run: later, not asked for, or never."""
    return [
        (task, name)
        for name, found in ENTRIES.items()
        for task in TASKS
        if found.turn > turn
        or task not in tasks
        or name not in names
        or (found.needs_kernels and not has_kernels(task))
    ]
