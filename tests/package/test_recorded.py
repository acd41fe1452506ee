"""The recorded trajectories of `reference/`: reproduced, or not with a reason.

Every case of the manifest stands in exactly one of the tables below; what each
source is, and what it computes, is in `reference/README.md`.
"""

import keras
import numpy as np
import pytest
from trajectories import EVERY_MODE, MODE, Variables, gradients, manifest, recorded, run

import keras_gradopt as kg
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.oldest, pytest.mark.quick]

CASE = {case["id"]: case for case in manifest()["cases"]}


def adam_arguments(case_id, *more):
    """The hyperparameters of a case under our argument names."""
    case = CASE[case_id]
    names = ("learning_rate", "beta_1", "beta_2", "epsilon", *more)
    keywords = {name: case["hyperparameters"][name] for name in names}
    if case["weight_decay"]["form"] == "decoupled":
        keywords["weight_decay"] = case["hyperparameters"]["weight_decay"]
    return keywords


def sgd_arguments(case_id, *more):
    keywords = {**CASE[case_id]["hyperparameters"]}
    allowed = ("learning_rate", "momentum", "nesterov", *more)
    if CASE[case_id]["weight_decay"]["form"] == "decoupled":
        allowed += ("weight_decay",)
    return {name: keywords[name] for name in allowed if name in keywords}


REPRODUCED = {}  # case id -> (optimizer factory, relative tolerance)


def reproduce(make, *case_ids, rtol=1e-8):
    for case_id in case_ids:
        REPRODUCED[case_id] = (lambda case_id=case_id: make(case_id), rtol)


for angle in ("cos", "tan"):
    reproduce(
        lambda c, angle=angle: kg.AngularGrad(
            angle=angle, **adam_arguments(c, "lambda_1", "lambda_2")
        ),
        f"angulargrad_{angle}.paper.default",
        f"angulargrad_{angle}.paper.var_decoupled",
    )
for cls, prefix in (
    (kg.AdamNorm, "adamnorm.paper"),
    (kg.DiffGradNorm, "diffgradnorm.paper"),
    (kg.RAdamNorm, "radamnorm.paper"),
    (kg.AdaBeliefNorm, "adabeliefnorm.paper_epsin"),
):
    reproduce(
        lambda c, cls=cls: cls(**adam_arguments(c, "gamma")),
        f"{prefix}.default",
        f"{prefix}.var_decoupled",
    )
reproduce(
    lambda c: kg.AdaBeliefNorm(**adam_arguments(c, "gamma")),
    "adabeliefnorm.official.default",
    "adabeliefnorm.official.var_l2",
    "adabeliefnorm.official.var_decoupled",
)
reproduce(
    lambda c: kg.RAdam(**adam_arguments(c)),
    "radam.paper.default",
    "radam.paper.var_decoupled",
)
reproduce(
    # eps on the corrected v, rectified at rho >= 5: rho equals 5 at no step
    lambda c: kg.RAdam(rho_threshold=5, **adam_arguments(c)),
    "radam.optax.default",
)
reproduce(
    lambda c: kg.AdaBelief(**adam_arguments(c)),
    "adabelief.official.default",
    "adabelief.official.var_l2",
    "adabelief.official.var_decoupled",
    "adabelief.pytorch_optimizer.default",
    "adabelief.optax.default",
)
reproduce(
    lambda c: kg.AdaL(**adam_arguments(c)),
    "adal.paper.default",
    "adal.paper.var",
    "adal.paper.var_decoupled",
)
for case_activation, activation in (
    ("atan", "arctan"),
    ("tanh", "tanh"),
    ("log", "log"),
):
    for form, inside in (("paper", True), ("official", False)):
        reproduce(
            lambda c, activation=activation, inside=inside: kg.GAFSGD(
                activation=activation,
                learning_rate_inside=inside,
                **sgd_arguments(c, "alpha", "beta"),
            ),
            *(f"gaf_sgdm_{case_activation}.{form}.gaf{n}" for n in (1, 2)),
        )
reproduce(
    lambda c: kg.GAFSGD(
        learning_rate_inside="paper" in c, **sgd_arguments(c, "alpha", "beta")
    ),
    "gaf_sgdm_atan.official.var_l2_nesterov",
    "gaf_sgdm_atan.paper.var_decoupled",
)


def activate(case_id):
    hyperparameters = CASE[case_id]["hyperparameters"]
    return kt.Activate(alpha=hyperparameters["alpha"], beta=hyperparameters["beta"])


reproduce(
    lambda c: kg.Transformed(keras.optimizers.SGD(**sgd_arguments(c)), [activate(c)]),
    "gaf_sgd_atan.official.gaf1",
    "gaf_sgd_atan.official.gaf2",
    rtol=1e-6,
)
# Keras' Adam places epsilon as these codes do (on the uncorrected second moment).
reproduce(
    lambda c: kg.Transformed(keras.optimizers.Adam(**adam_arguments(c)), [activate(c)]),
    "gaf_adam_atan.official.gaf1",
    "gaf_adam_atan.official.gaf2",
    "gaf_adam_atan.official.var",
    rtol=1e-6,
)
reproduce(
    lambda c: kg.Transformed(
        keras.optimizers.Adam(**adam_arguments(c)), [kt.DifferenceFriction()]
    ),
    "diffgrad.official.default",
    "diffgrad.official.var_l2",
    rtol=1e-6,
)
for name, entries in (("paper", False), ("official", True)):
    over = "entries" if entries else "kernels"
    reproduce(
        lambda c, over=over: kg.WGDSGD(mean_over=over, **sgd_arguments(c)),
        f"wgd_sgd.{name}.default",
        f"wgd_sgd.{name}.var_l2" + ("_nesterov" if entries else ""),
        rtol=1e-6,
    )
    reproduce(
        lambda c, over=over: kg.WGDAdam(mean_over=over, **adam_arguments(c)),
        f"wgd_adam.{name}.default",
        f"wgd_adam.{name}.var_{'l2' if entries else 'decoupled'}",
    )
reproduce(lambda c: kg.WGDNadam(**adam_arguments(c)), "wgd_nadam.paper.psi1")
reproduce(
    lambda c: kg.WGDNadam(mean_over="entries", **adam_arguments(c)),
    "wgd_nadam.derived.psi1",
)
reproduce(lambda c: kg.WGDRAdam(**adam_arguments(c)), "wgd_radam.paper.default")

# The released WGD codes centralize tensors of rank > 3 only; a Conv1D kernel is a
# convolution kernel to us.
DIFFERENT_TENSORS = {
    case_id: ["conv1d"]
    for case_id in REPRODUCED
    if case_id.startswith("wgd_") and (".official" in case_id or ".derived" in case_id)
}

# What released codes compute that do something else than their paper says.
DOCUMENTED = {
    **{
        f"angulargrad_{angle}.official.plain": lambda c: keras.optimizers.Adam(
            **{**adam_arguments(c), "learning_rate": 0.5e-3}
        )
        for angle in ("cos", "tan")
    },
}
# pairs of recorded cases that are the same numbers
DOCUMENTED_PAIRS = {
    "radamnorm.official.default": "radam.official.default",
    "radamnorm.official.var_decoupled": "radam.official.var_decoupled",
}

EPSILON = "epsilon is added to the uncorrected second moment, ours to the corrected"
THRESHOLD = f"{EPSILON}; rectified at rho >= 5 at least"
EPSILON_TWICE = (
    "epsilon stays in the second moment, which the paper has in AdaBelief only"
)
NADAM = "psi = 0.004 in Nadam's momentum schedule; Keras' Nadam, our base, has 1"
UPDATE = "centralizes the update instead of the gradient"
HALF = (
    "released AngularGrad: half the rate until one coefficient per tensor jumps at a "
    "repeated gradient; neither the paper's formula nor ours"
)
NOT_REPRODUCED = {
    "angulargrad_cos.official.default": HALF,
    "angulargrad_cos.official.var_l2": HALF,
    "angulargrad_tan.official.default": HALF,
    "angulargrad_tan.official.var_l2": HALF,
    "adamnorm.official.default": EPSILON_TWICE,
    "adamnorm.official.var_l2": EPSILON_TWICE,
    "adamnorm.official.var_decoupled": EPSILON_TWICE,
    "adamnorm.pytorch_optimizer.default": f"{EPSILON}, and 1e-15 is inside the root",
    "adabeliefnorm.paper.default": "no epsilon in the second moment; AdaBelief has it",
    "adabeliefnorm.paper.var_decoupled": "no epsilon in the second moment",
    "diffgradnorm.official.default": EPSILON,
    "diffgradnorm.official.var_l2": EPSILON,
    "radamnorm.paper_thr5.default": THRESHOLD,
    "radamnorm.paper_thr5.var_decoupled": THRESHOLD,
    "radam.official.default": THRESHOLD,
    "radam.official.var_decoupled": THRESHOLD,
    "radam.pytorch_optimizer.default": THRESHOLD,
    "diffgrad.official_v1_inplace.default": "the previous gradient aliases the current "
    "one: friction 0.5 from the second step",
    "diffgrad.pytorch_optimizer.default": "1e-15 inside the root",
    "gaf_sgd_atan.official.var_wd": "dampening, and decay added after the activation",
    "gaf_adam_atan.official.var_wd": "decay added after the activation",
    "wgd_adam2.official.default": UPDATE,
    "wgd_adam2.official.var_l2": UPDATE,
    "wgd_nadam.official.default": "no centralization at all, and v / beta_2^t",
    "wgd_nadam.official.var_l2": "no centralization at all, and v / beta_2^t",
    "wgd_nadam.derived.default": NADAM,
    "wgd_nadam.paper.default": NADAM,
    "wgd_radam.official.default": f"{UPDATE}, and writes it into the first moment",
    "wgd_radam.official.var_wd": f"{UPDATE}, and writes it into the first moment",
    "wgd_radam.official_gcloc.default": THRESHOLD,
    "wgd_radam.derived.default": UPDATE,
    "nadam.optax.default": "Nadam without a momentum schedule",
    "centralize_adam.optax.default": "centralizes Dense kernels too",
}


def test_every_case_is_accounted_for():
    tables = [REPRODUCED, DOCUMENTED, DOCUMENTED_PAIRS, NOT_REPRODUCED]
    listed = [case_id for table in tables for case_id in table]
    assert sorted(listed) == sorted(CASE)


def relative_error(ours, expected):
    """Relative to the largest value of the tensor (single ones pass through 0)."""
    return np.abs(ours - expected).max() / np.abs(expected).max()


def trajectories(optimizer, case_id, mode=MODE):
    """Ours and the recorded values, per tensor."""
    case = CASE[case_id]
    is_l2 = case["weight_decay"]["form"] == "l2"
    ours = run(
        optimizer,
        Variables(case["tensors"]),
        gradients(case["gradient_stream"], case["tensors"]),
        mode,
        l2=case["hyperparameters"]["weight_decay"] if is_l2 else 0.0,
    )
    arrays = recorded(case["file"])
    return {
        tensor: (values, arrays[case["keys"][tensor]])
        for tensor, values in zip(case["tensors"], ours)
    }


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("case_id", REPRODUCED)
def test_is_reproduced(case_id, mode):
    make, rtol = REPRODUCED[case_id]
    different = DIFFERENT_TENSORS.get(case_id, [])
    for tensor, (ours, expected) in trajectories(make(), case_id, mode).items():
        close = relative_error(ours, expected) < rtol
        assert close == (tensor not in different), tensor


@pytest.mark.parametrize("case_id", DOCUMENTED)
def test_released_angulargrad_is_adam_at_half_rate(case_id):
    for ours, expected in trajectories(DOCUMENTED[case_id](case_id), case_id).values():
        assert relative_error(ours, expected) < 1e-6


def test_released_angulargrad_is_not_ours():
    """And ours is not that: it moves up to 0.881 / 0.5 times as far."""
    case_id = "angulargrad_cos.official.plain"
    ours = trajectories(kg.AngularGrad(**adam_arguments(case_id)), case_id)
    for values, released in ours.values():
        moved = np.abs(values[-1] - values[0]) / np.abs(released[-1] - released[0])
        assert np.median(moved) > 1.2


@pytest.mark.parametrize("case_id", DOCUMENTED_PAIRS)
def test_released_radamnorm_is_radam(case_id):
    other = CASE[DOCUMENTED_PAIRS[case_id]]
    for tensor in CASE[case_id]["tensors"]:
        released = recorded(CASE[case_id]["file"])[CASE[case_id]["keys"][tensor]]
        radam = recorded(other["file"])[other["keys"][tensor]]
        np.testing.assert_array_equal(released, radam)


def test_released_nadam_has_no_whitening():
    """The released WGD Nadam differs from its base nowhere, also not on kernels."""
    case = CASE["wgd_nadam.official.default"]
    arrays, g = recorded(case["file"]), gradients("main", ["conv"])[0]
    mu = [0.9 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t in range(1, 42)]
    theta, m, v, product = arrays[case["keys"]["conv"]][0].copy(), 0.0, 0.0, 1.0
    for t in range(40):
        product *= mu[t]
        m, v = 0.9 * m + 0.1 * g[t], 0.999 * v + 0.001 * g[t] ** 2
        step = (1 - mu[t]) / (1 - product) * g[t]
        step = step + mu[t + 1] / (1 - product * mu[t + 1]) * m
        theta -= 0.002 * step / (np.sqrt(v / 0.999 ** (t + 1)) + 1e-8)
        np.testing.assert_allclose(
            theta, arrays[case["keys"]["conv"]][t + 1], rtol=1e-9
        )
