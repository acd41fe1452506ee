"""The conformance kit: each check turns red for what it is about, and for that only."""

import re
import subprocess
import sys
import types
import unittest
from pathlib import Path

import broken
import keras
import numpy as np
import pytest
from broken import BROKEN, Sound

import keras_gradopt as kg
from keras_gradopt.testing import (
    CHECKS,
    ConformanceError,
    bench,
    check_optimizer,
    checks,
)
from keras_gradopt.testing.__main__ import main

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]

SLOW = {"modes_agree", "resume", "two_devices"}


def failures(names, factory, **known):
    """Which of these checks fail, with what they saw; Keras' own faults, too."""
    report = check_optimizer(
        factory, skip={*CHECKS} - {*names}, strict=True, raise_on_failure=False, **known
    )
    return {outcome.check.name: outcome.saw for outcome in report.failed}


class NaNInBiases(keras.optimizers.SGD):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        if len(variable.shape) == 1:
            variable.assign(variable * float("nan"))


def test_a_variable_that_becomes_nan_is_no_agreement():
    """Of whichever variable; Python's `max` passes over a NaN that is not the first."""
    found = failures(
        {"accumulation", "becomes_base"},
        lambda: NaNInBiases(0.1),
        base=lambda: keras.optimizers.SGD(0.1),
        neutral=lambda: NaNInBiases(0.1),
    )
    assert set(found) == {"accumulation", "becomes_base"}
    ours, theirs = [np.zeros((3, 2)), np.ones((3, 2))], [np.zeros((3, 2))] * 2
    ours[1][2, 0] = np.nan
    assert np.isnan(bench.difference(ours, theirs))


def test_every_check_has_a_broken_optimizer():
    assert [*BROKEN] == [*CHECKS]


KERAS_FAULTS = {"exclusions_reload", "foreign_state"}  # what Sound inherits


def test_sound_optimizer_passes_all():
    report = check_optimizer(
        Sound,
        base=broken.base,
        twin=broken.twin,
        neutral=broken.neutral,
        strict=True,
        raise_on_failure=False,
    )
    assert {o.check.name for o in report.failed} == KERAS_FAULTS, report
    assert {o.status for o in report.outcomes} == {"passed", "failed"}, report


@pytest.mark.parametrize("name", BROKEN)
def test_broken_optimizer_turns_its_check_red(name):
    row = BROKEN[name]
    assert name in failures([name], row.factory, **row.known)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_broken_optimizer_turns_no_other_check_red(name):
    row = BROKEN[name]
    failed = failures({*CHECKS} - SLOW | {name}, row.factory, **row.known)
    expected = {name, *row.implied} - KERAS_FAULTS
    assert {*failed} - KERAS_FAULTS == expected, "\n".join(map(str, failed.items()))


@pytest.mark.parametrize("name", broken.INERT)
def test_inert_copies_fail_by_name(name):
    """Its base, its base at another rate, and slots that nothing uses."""
    factory, base, expected = broken.INERT[name]
    with pytest.raises(ConformanceError) as error:
        check_optimizer(factory, base=base, skip={*CHECKS} - {*expected})
    assert str(error.value).startswith(f"{name} fails\n")
    for check in expected:
        assert f"- {check}: failed." in str(error.value)
    right = getattr(kg, name.removesuffix("Inert"))
    check_optimizer(right, base=base, skip={*CHECKS} - {*expected})


@pytest.mark.parametrize(
    ("make", "excused"),
    [
        (keras.optimizers.Adam, {"bfloat16", "sparse_gradients"}),
        (keras.optimizers.SGD, set()),
    ],
)
def test_keras_own_pass_but_for_faults_of_keras(make, excused):
    report = check_optimizer(make)
    assert report.passed
    found = {o.check.name for o in report.outcomes if o.excused}
    assert found == KERAS_FAULTS | excused
    assert all(f"failed as Keras  {name} " in report.table() for name in found)
    notes = "docs/keras-notes.md"
    page = (ROOT / notes).read_text()
    anchors = [
        line.lower()
        .translate({ord(c): None for c in "#`'.,*"})
        .strip()
        .replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("##")
    ]
    for outcome in report.outcomes:
        if outcome.excused:
            assert outcome.check.keras_fault in anchors
            assert f"({notes}#{outcome.check.keras_fault})" in report.markdown(notes)


def test_failure_raises_and_names_what_it_saw():
    only = {"zero_gradients", "clipping", "slots_move"}
    factory = BROKEN["slots_move"].factory
    with pytest.raises(ConformanceError, match=r"slots_move: failed.*4 of 8 slots"):
        check_optimizer(factory, skip={*CHECKS} - only)
    report = check_optimizer(factory, skip={*CHECKS} - only, raise_on_failure=False)
    assert not report.passed
    (failed,) = report.failed
    assert failed.check.name == "slots_move"
    assert str(report) == report.table()
    for text in (report.table(), report.markdown()):
        assert f"{len(CHECKS) - 3} skipped" in text and "2 passed, 1 failed" in text
        assert all(name in text for name in CHECKS)
    assert check_optimizer(Sound, skip={*CHECKS} - only).passed


def test_an_exception_in_the_optimizer_is_a_failure():
    class Raises(Sound):
        def update_step(self, gradient, variable, learning_rate):
            raise RuntimeError("no step")

    assert failures(["clipping"], Raises) == {
        "clipping": "raised RuntimeError: no step"
    }


def test_checks_are_tests():
    made = {check.name: check for check in checks(BROKEN["slots_move"].factory)}
    assert [*made] == [*CHECKS]
    assert [check.__name__ for check in made.values()] == [*CHECKS]
    made["clipping"]()
    with pytest.raises(ConformanceError, match="slots_move"):
        made["slots_move"]()
    for name in ("equals_twin", "foreign_state"):  # nothing to compare; excused
        with pytest.raises(unittest.SkipTest, match=name):
            made[name]()
    (strict,) = (c for c in checks(Sound, strict=True) if c.name == "foreign_state")
    with pytest.raises(ConformanceError, match="so does Keras' own Adam"):
        strict()


@pytest.mark.parametrize("check", checks(Sound, skip=SLOW), ids=lambda c: c.name)
def test_ids_are_names_of_checks(check, request):
    assert request.node.name == f"test_ids_are_names_of_checks[{check.name}]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"factory": keras.optimizers.SGD()},
        {"factory": Sound, "base": "SGD"},
        {"factory": Sound, "twin": np.zeros(3)},
        {"factory": Sound, "skip": ["clip"]},
        {"factory": Sound, "skip": "clipping"},
        {"factory": Sound, "rtol": 0.0},
        {"factory": dict},
    ],
    ids=",".join,
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=r"is not possible|no Keras optimizer"):
        check_optimizer(**wrong)


def test_command_line(capsys):
    only = ["clipping", "slots_move"]
    skip = ["--skip", *({*CHECKS} - {*only})]
    assert main(["broken:Sound", *skip]) == 0
    printed = capsys.readouterr().out
    assert "passed   clipping" in printed and "Sound: " in printed
    module = types.ModuleType("idle")
    module.Idle = BROKEN["slots_move"].factory
    sys.modules["idle"] = module
    assert main(["idle:Idle", "--markdown", *skip]) == 1
    assert "| `slots_move` | failed |" in capsys.readouterr().out
    for wrong in (["broken"], ["broken:Nothing"], ["broken:Sound", "--skip", "clip"]):
        with pytest.raises(SystemExit) as error:
            main(wrong)
        assert error.value.code == 2


@pytest.mark.slow
def test_command_line_of_a_process():
    """With two devices, as the kit is the first to start TensorFlow."""
    skip = {*CHECKS} - {"two_devices"}
    command = ["-m", "keras_gradopt.testing", "keras_gradopt:AngularGrad"]
    done = subprocess.run(
        [sys.executable, *command, "--skip", *skip], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "passed   two_devices" in done.stdout


def test_guide_lists_every_check():
    page = (ROOT / "docs" / "guide" / "check.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)`( \*)? \| (.+?)(?: Needs `(\w+)`\.)? \|$", page)
    assert [row[0] for row in rows] == [*CHECKS]
    for name, star, sentence, need in rows:
        check = CHECKS[name]
        assert (bool(star), sentence) == (bool(check.keras_fault), check.sentence)
        assert (need,) == (check.needs or ("",))
