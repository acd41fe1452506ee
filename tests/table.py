"""One table of all optimizers; it drives every generic test. A new one is one row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import twins

import keras_gradopt as kg
from keras_gradopt import transforms as kt

ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
OTHER_ADAM = {"learning_rate": 3e-3, "beta_1": 0.85, "beta_2": 0.99, "epsilon": 1e-6}
SGD = {"learning_rate": 1e-2}


@dataclass
class Row:
    """One optimizer.

    Attributes:
        make: the class, or a function of its keyword arguments.
        twin: its float64 NumPy implementation.
        defaults: its documented defaults, for the twin; those that the twin's own
            defaults do not state.
        base: makes the optimizer that it must differ from, with default settings.
        neutral: makes (optimizer, its base, map of the gradients) that must agree.
        variations: keyword arguments to try, beside none.
        identity: makes the `Transformed` that is the same, if there is one.
        slots: slot variables per model variable.
        rtol: of the twin, relative to the distance travelled. Keras' own SGD and
            Nadam round their hyperparameters to float32.
        base_rtol: of the base; `rtol` unless given.
        identity_rtol: of the identity, in float32; exact unless given.
    """

    make: Callable[..., keras.optimizers.Optimizer]
    twin: Callable[..., np.ndarray]
    base: Callable[[], keras.optimizers.Optimizer]
    neutral: Callable[[], tuple]
    defaults: dict[str, Any] = field(default_factory=lambda: ADAM)
    variations: list[dict[str, Any]] = field(default_factory=list)
    identity: Callable[[], kg.Transformed] | None = None
    slots: int = 2
    rtol: float = 1e-9
    base_rtol: float | None = None
    identity_rtol: float = 0.0


def same(gradients):
    return gradients


def tiny(gradients):
    return [g * 1e-13 for g in gradients]


def unit_l1(gradients):
    """Every gradient scaled to L1 norm 1 (zero gradients stay)."""
    scaled = []
    for stream in gradients:
        norms = np.abs(stream).sum(axis=tuple(range(1, stream.ndim)), keepdims=True)
        scaled.append(stream / np.where(norms > 0, norms, 1))
    return scaled


def zero_mean(gradients):
    """Every gradient of a convolution's kernel, with the mean over kernels removed."""
    return [g - g.mean(axis=-1, keepdims=True) if g.ndim > 4 else g for g in gradients]


def late(optimizer):
    """The optimizer as it is after a million steps, when r_t is 1."""
    optimizer.iterations.assign(1_000_000)
    return optimizer


TINY_EPSILON = {"epsilon": 1e-40}
LINEAR = {"alpha": 1e9, "beta": 1e-9}
NORM_VARIATIONS = [
    {"gamma": 0.5, "corrected_moments": "second"},
    {"gamma": 0.9, "corrected_moments": "both", **OTHER_ADAM},
]
ACTIVATIONS = [
    {"activation": "tanh", "alpha": 0.2, "beta": 10},
    {"activation": "log", "alpha": 0.3, "beta": 4.5},
]

OPTIMIZERS = {
    "AngularGrad": Row(
        kg.AngularGrad,
        twins.angulargrad,
        base=kg.AdamCore,
        neutral=lambda: (kg.AngularGrad(lambda_1=0, lambda_2=1), kg.AdamCore(), same),
        variations=[
            {"angle": "tan"},
            {"lambda_1": 0.9, "lambda_2": 0.1, **OTHER_ADAM},
            {"angle": "tan", "lambda_1": 1.0, "lambda_2": 0.0},
        ],
        identity=lambda: kg.Transformed(kg.AdamCore(), [kt.AngularFriction()]),
        slots=4,
    ),
    "DiffGrad": Row(
        kg.DiffGrad,
        twins.diffgrad,
        base=kg.AdamCore,
        # gradients that hardly change have friction 1/2
        neutral=lambda: (
            kg.DiffGrad(2e-3, **TINY_EPSILON),
            kg.AdamCore(1e-3, **TINY_EPSILON),
            tiny,
        ),
        variations=[OTHER_ADAM],
        identity=lambda: kg.Transformed(kg.AdamCore(), [kt.DifferenceFriction()]),
        slots=3,
    ),
    "RAdam": Row(
        kg.RAdam,
        twins.radam,
        base=kg.AdamCore,
        neutral=lambda: (late(kg.RAdam()), late(kg.AdamCore()), same),
        variations=[OTHER_ADAM, {"rho_threshold": 8.5}, {"beta_2": 0.5}],
    ),
    "AdaBelief": Row(
        kg.AdaBelief,
        twins.adabelief,
        base=kg.AdamCore,
        # with a first moment near 0 the residual is the gradient
        neutral=lambda: (
            kg.AdaBelief(beta_1=1 - 1e-12, **TINY_EPSILON),
            kg.AdamCore(beta_1=1 - 1e-12, **TINY_EPSILON),
            same,
        ),
        variations=[OTHER_ADAM],
    ),
    "NosAdam": Row(
        kg.NosAdam,
        twins.nosadam,
        base=kg.AdamCore,
        # equal weights: the mean of all squares, as is v_hat when beta_2 is near 1
        neutral=lambda: (kg.NosAdam(gamma=0), kg.AdamCore(beta_2=1 - 1e-12), same),
        defaults={k: v for k, v in ADAM.items() if k != "beta_2"},
        variations=[
            {"gamma": 0.5},
            {"gamma": 0, "learning_rate": 3e-3, "beta_1": 0.85, "epsilon": 1e-6},
        ],
        slots=4,
    ),
    "AdamNorm": Row(
        kg.AdamNorm,
        twins.adamnorm,
        base=kg.AdamCore,
        neutral=lambda: (kg.AdamNorm(gamma=0), kg.AdamCore(), same),
        variations=NORM_VARIATIONS,
        slots=3,
    ),
    "DiffGradNorm": Row(
        kg.DiffGradNorm,
        twins.diffgradnorm,
        base=kg.DiffGrad,
        neutral=lambda: (kg.DiffGradNorm(gamma=0), kg.DiffGrad(), same),
        variations=NORM_VARIATIONS,
        slots=4,
    ),
    "RAdamNorm": Row(
        kg.RAdamNorm,
        twins.radamnorm,
        base=kg.RAdam,
        neutral=lambda: (kg.RAdamNorm(gamma=0), kg.RAdam(), same),
        variations=[*NORM_VARIATIONS, {"rho_threshold": 5}],
        slots=3,
    ),
    "AdaBeliefNorm": Row(
        kg.AdaBeliefNorm,
        twins.adabeliefnorm,
        base=kg.AdaBelief,
        neutral=lambda: (kg.AdaBeliefNorm(gamma=0), kg.AdaBelief(), same),
        variations=NORM_VARIATIONS,
        slots=3,
    ),
    "AdaL": Row(
        kg.AdaL,
        twins.adal,
        base=kg.AdamCore,
        neutral=lambda: (kg.AdaL(), kg.AdamCore(), unit_l1),
        variations=[OTHER_ADAM],
        identity=lambda: kg.Transformed(kg.AdamCore(), [kt.ScaleByL1Norm()]),
    ),
    "GAFAdam": Row(
        kg.GAFAdam,
        twins.gafadam,
        base=kg.AdamCore,
        neutral=lambda: (kg.GAFAdam(**LINEAR), kg.AdamCore(), same),
        variations=[{**a, **OTHER_ADAM} for a in ACTIVATIONS],
        identity=lambda: kg.Transformed(kg.AdamCore(), [kt.Activate()]),
    ),
    "GAFSGD": Row(
        kg.GAFSGD,
        twins.gafsgd,
        base=lambda: kg.SGDCore(momentum=0.9),
        neutral=lambda: (
            kg.GAFSGD(**LINEAR),
            kg.SGDCore(momentum=0.9),
            same,
        ),
        defaults=SGD,
        variations=[
            {"nesterov": True, "momentum": 0.8, "learning_rate": 0.02},
            {"momentum": 0.0, "learning_rate_inside": False},
            *({**a, "learning_rate_inside": False} for a in ACTIVATIONS),
        ],
        slots=1,
    ),
    "WGDSGD": Row(
        kg.WGDSGD,
        twins.whitening(twins.sgd),
        base=lambda: kg.SGDCore(momentum=0.9),
        neutral=lambda: (
            kg.WGDSGD(),
            kg.SGDCore(momentum=0.9),
            zero_mean,
        ),
        defaults=SGD,
        variations=[
            {"mean_over": "entries"},
            {"nesterov": True, "momentum": 0.8, "learning_rate": 0.02},
        ],
        identity=lambda: kg.Transformed(kg.SGDCore(momentum=0.9), [kt.Whiten()]),
        slots=1,
    ),
    "WGDAdam": Row(
        kg.WGDAdam,
        twins.whitening(twins.adam),
        base=kg.AdamCore,
        neutral=lambda: (kg.WGDAdam(), kg.AdamCore(), zero_mean),
        variations=[{"mean_over": "entries", **OTHER_ADAM}],
        identity=lambda: kg.Transformed(kg.AdamCore(), [kt.Whiten()]),
    ),
    "WGDNadam": Row(
        kg.WGDNadam,
        twins.whitening(twins.nadam),
        base=keras.optimizers.Nadam,
        neutral=lambda: (kg.WGDNadam(), keras.optimizers.Nadam(), zero_mean),
        defaults={**ADAM, "epsilon": 1e-7},
        variations=[{"mean_over": "entries", **OTHER_ADAM}],
        identity=lambda: kg.Transformed(keras.optimizers.Nadam(), [kt.Whiten()]),
        base_rtol=1e-6,
        identity_rtol=1e-5,
    ),
    "WGDRAdam": Row(
        kg.WGDRAdam,
        twins.whitening(twins.radam),
        base=kg.RAdam,
        neutral=lambda: (kg.WGDRAdam(), kg.RAdam(), zero_mean),
        variations=[{"mean_over": "entries", **OTHER_ADAM}, {"rho_threshold": 5}],
        identity=lambda: kg.Transformed(kg.RAdam(), [kt.Whiten()]),
    ),
}


def clipped_sgd(learning_rate=0.1, clipping=0.3, epsilon=1e-3, **keywords):
    keywords = {"momentum": 0.9, **keywords}
    clip = kt.ClipAdaptively(clipping, epsilon)
    return kg.SGDCore(learning_rate, transforms=[clip], **keywords)


# transforms that are in no class of their own; a new one is one row
TRANSFORMS = {
    "ClipAdaptively": Row(
        clipped_sgd,
        twins.agc,
        base=lambda: kg.SGDCore(0.1, momentum=0.9),
        neutral=lambda: (
            clipped_sgd(clipping=1e9),
            kg.SGDCore(0.1, momentum=0.9),
            same,
        ),
        defaults={"learning_rate": 0.1, "clipping": 0.3, "epsilon": 1e-3},
        variations=[{"clipping": 0.01, "epsilon": 0.5}],
        identity=lambda: kg.Transformed(
            kg.SGDCore(0.1, momentum=0.9), [kt.ClipAdaptively(0.3)]
        ),
        slots=1,
    ),
}

# all that has a twin
ROWS = {**OPTIMIZERS, **TRANSFORMS}

# Keywords are those of the inner optimizer.
PIPELINES = {
    "Transformed Lion": lambda learning_rate=1e-4, **keywords: kg.Transformed(
        keras.optimizers.Lion(learning_rate, **keywords),
        [kt.Whiten(), kt.AngularFriction("cos")],
    ),
    "Transformed SGD": lambda learning_rate=0.01, **keywords: kg.Transformed(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, **keywords),
        [kt.DifferenceFriction()],
    ),
    "Transformed Adam": lambda learning_rate=1e-3, **keywords: kg.Transformed(
        keras.optimizers.Adam(learning_rate, **keywords),
        [kt.CorrectNorm(0.9), kt.Activate("tanh", 0.2, 10), kt.AngularFriction("tan")],
    ),
}

# one of each way in which an update is made, for what takes long with all
FAMILIES = ["AngularGrad", "RAdamNorm", "NosAdam", "AdaL", "GAFSGD", "WGDAdam"]
FAMILIES += ["Transformed Adam"]

# name -> function that makes the optimizer with default settings
ALL = {**{name: row.make for name, row in ROWS.items()}, **PIPELINES}

# (name, keyword arguments) for every row and variation
CASES = [
    (name, keywords) for name, row in ROWS.items() for keywords in [{}, *row.variations]
]


def case_id(value):
    """A readable test id for a name or keyword arguments."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return None
