"""Every optimizer of the table passes every check of the conformance kit.

These are the generic tests: what holds for any optimizer is a check in
`keras_gradopt.testing`, and here it meets all of ours.
"""

import keras
import numpy as np
import pytest
from table import ALL, FAMILIES, ROWS, case_id

from keras_gradopt.testing import CHECKS, checks

pytestmark = pytest.mark.oldest

# what traces, compiles or fits; the others step eagerly
COMPILING = {"modes_agree", "resume", "two_devices"}
QUICK = {"equals_twin", "alive", "slots_move", "config", "saved_variables"}
KERNEL_AXES = [(3,), None, None, None]  # of the kit's variables: Conv2D and Dense


def twin(row, keywords):
    """The row's twin, as the kit calls it."""
    settings = {**row.defaults, **keywords}

    def every(gradients, start):
        return [
            row.twin(value, stream, kernel_axes=axes, **settings)[1:]
            for value, stream, axes in zip(start, gradients, KERNEL_AXES)
        ]

    return every


def inner(name):
    """Makes the optimizer within a `Transformed`, without it."""
    config = keras.optimizers.serialize(ALL[name]().inner_optimizer)
    return keras.optimizers.deserialize(config)


def known(name):
    """What the kit is told of an optimizer."""
    if name not in ROWS:
        return {"base": lambda: inner(name)}
    row = ROWS[name]
    return {"base": row.base, "twin": twin(row, {}), "rtol": row.rtol}


# Keras' Adam is within, and Keras' faults with it (docs/keras-notes.md)
FAULTS_OF_KERAS = {("Transformed Adam", "bfloat16")}


def all_checks():
    cases = []
    for name, make in ALL.items():
        for check in checks(make, **known(name), strict=True):
            needs = CHECKS[check.name].needs
            if "neutral" in needs or ("twin" in needs and name not in ROWS):
                continue
            fast = name in FAMILIES or check.name in QUICK
            marks = [pytest.mark.slow] if check.name in COMPILING or not fast else []
            if check.name in QUICK:
                marks.append(pytest.mark.quick)
            if (name, check.name) in FAULTS_OF_KERAS:
                marks.append(pytest.mark.xfail(strict=True))
            cases.append(
                pytest.param(name, check, marks=marks, id=f"{name}-{check.name}")
            )
    return cases


@pytest.mark.parametrize(("name", "check"), all_checks())
def test_conforms(name, check):
    check()


def one_check(name, make, **known):
    return next(c for c in checks(make, **known, strict=True) if c.name == name)


VARIATIONS = [
    (name, keywords) for name, row in ROWS.items() for keywords in row.variations
]


@pytest.mark.quick
@pytest.mark.parametrize(("name", "keywords"), VARIATIONS, ids=case_id)
def test_equals_twin_with_other_settings(name, keywords):
    row = ROWS[name]
    one_check(
        "equals_twin",
        lambda: row.make(**keywords),
        twin=twin(row, keywords),
        rtol=row.rtol,
    )()


@pytest.mark.quick
@pytest.mark.parametrize("name", ROWS)
def test_becomes_base(name):
    row = ROWS[name]
    rtol = row.base_rtol or row.rtol
    one_check("becomes_base", row.make, neutral=row.neutral, rtol=rtol)()


def test_nadam_fails_in_half_precision():
    """When this fails, Keras has mended it: tell so in docs/keras-notes.md."""
    outcome = one_check("bfloat16", keras.optimizers.Nadam).outcome()
    assert outcome.status == "failed"


def test_gradients_of_the_kit_are_where_methods_differ():
    """Else `is_not_base` and `alive` would say little; all of it is within float64."""
    from keras_gradopt.testing import bench

    for stream in bench.gradients(20):
        assert (np.sign(stream[1:]) != np.sign(stream[:-1])).mean() > 0.2
