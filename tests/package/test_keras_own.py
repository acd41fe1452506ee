"""Keras' own optimizer tests, read from the installed Keras, with ours swapped in.

Nothing is changed in them but the optimizers' names; `CHANGES` lists how.
"""

import itertools
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import keras
import pytest
from table import ALL, OPTIMIZERS
from trajectories import BACKEND

pytest.importorskip("absl", reason="Keras' tests need absl-py")
from keras_suite import swapped

pytestmark = pytest.mark.slow

KERAS = Path(keras.__file__).parent / "src"
NAMES = re.compile(r'\[\s*\("adam",\),.*?\]', re.S)
CASES = re.compile(r"^TEST_CASES = \[.*?^\]", re.S | re.M)

# file: substitutions (pattern, replacement); `ours` is made by `stand_ins`
OWN_CASES = "TEST_CASES = " + repr(
    [
        {"testcase_name": name.replace(" ", "_"), "optimizer_class": f"ALL[{name!r}]"}
        for name in ALL
    ]
)
OWN_CASES = re.sub(r'"(ALL\[.*?\])"', r"\1", OWN_CASES)
IMPORTED = (r"from keras\.src\.optimizers\.sgd import SGD", "SGD = ours.SGD")
CHANGES = {
    "optimizers/optimizer_test.py": [
        (r"optimizers\.(SGD|Adam|AdamW)\b", r"ours.\1"),
        (r'optimizers\.get\("sgd"\)', 'optimizers.get(ours.package + ">SGD")'),
        (r'optimizers\.get\("adamw"\)', 'optimizers.get(ours.package + ">AdamW")'),
        (NAMES, "NAMES"),
    ],
    "optimizers/optimizer_sparse_test.py": [(CASES, OWN_CASES)],
    "optimizers/loss_scale_optimizer_test.py": [IMPORTED],
    "backend/tensorflow/optimizer_distribute_test.py": [IMPORTED],
    "backend/tensorflow/distribute_test.py": [
        ('optimizer="sgd"', "optimizer=ours.SGD()")
    ],
}

HEADER = """
from keras_suite.swapped import stand_ins
from table import ALL
ours = stand_ins({sgd!r}, {adam!r})
NAMES = {names!r}
"""


def adapted(file, sgd, adam):
    source = (KERAS / file).read_text()
    for pattern, replacement in CHANGES[file]:
        source, count = re.subn(pattern, replacement, source)
        assert count, f"{file} of this Keras has nothing like {pattern!r}"
    ours = [name for name in (sgd, adam) if name in OPTIMIZERS] or ["AdamCore"]
    names = [(f"keras_gradopt>{name}",) for name in ours]
    return HEADER.format(sgd=sgd, adam=adam, names=names) + source


def outcomes(folder):
    """Runs the tests in a folder in a process of their own; {test: outcome}."""
    here = Path(__file__).parents[1]
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    report = folder / "report.xml"
    quiet = ["-q", "-n0", "-p", "no:cacheprovider", "--rootdir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, f"--junitxml={report}", folder],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_ENABLE_X64": "0",  # Keras' own fail some tests with 1
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert report.exists(), done.stdout[-3000:]
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((child for child in case if child.tag != "properties"), None)
        name = f"{case.get('classname').split('.')[-2]}::{case.get('name')}"
        found[name] = (
            "passed" if problem is None else f"{problem.tag}: {problem.get('message')}"
        )
    return found


# Tests of SGD and of Adam stand in the same file; in the others there is SGD only, or
# (sparse) a table of all optimizers.
PAIRS = list(zip(itertools.cycle(swapped.SGD), swapped.ADAM))
HOW_MANY = dict.fromkeys((Path(file).stem for file in CHANGES), len(swapped.SGD))
HOW_MANY["optimizer_test"] = len(PAIRS) if BACKEND == "tensorflow" else 4
HOW_MANY["optimizer_sparse_test"] = 1


@pytest.mark.parametrize("file", CHANGES)
def test_keras_own_tests_pass(file, tmp_path, record_property):
    if "tensorflow" in file and BACKEND != "tensorflow":
        pytest.skip("a test of Keras' TensorFlow backend")
    pairs = PAIRS[: HOW_MANY[Path(file).stem]]
    for sgd, adam in pairs:
        name = f"test_{sgd}_{adam}".replace(" ", "_") if len(pairs) > 1 else "test_all"
        (tmp_path / f"{name}.py").write_text(adapted(file, sgd, adam))
    found = outcomes(tmp_path)
    by_test = {}
    for name, outcome in found.items():
        test = f"{Path(file).stem}::{name.partition('::')[2].rstrip('0123456789')}"
        by_test.setdefault(test, []).append(outcome)
    record_property("keras_tests", by_test)
    bad = {k: v for k, v in found.items() if not v.startswith(("passed", "skipped"))}
    assert not bad
    assert found
