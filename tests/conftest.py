"""Settings that must come before Keras is imported, and shared fixtures."""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 twins on JAX

import keras
import pytest
from trajectories import BACKEND, module_marks

from keras_gradopt.testing import split_cpu

split_cpu()  # before TensorFlow starts, for the check `two_devices`


def pytest_ignore_collect(collection_path):
    """What does not depend on the backend is not even imported on the others."""
    if BACKEND != "tensorflow" and collection_path.match("test_*.py"):
        return "backend_independent" in module_marks(collection_path) or None


@pytest.fixture
def float64():
    """Runs a test with Keras' default dtype (and learning rates) in float64."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.fixture(autouse=True)
def seeded():
    """Fixes every random seed, so that a failure repeats."""
    keras.utils.set_random_seed(20260101)


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items):
    from table import ALL

    for item in items:
        if BACKEND == "jax" and item.get_closest_marker("slow_on_jax"):
            item.add_marker("slow")
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        name = parameters.get("name")
        item.user_properties.append(("optimizer", name if name in ALL else None))
        check = getattr(parameters.get("check"), "name", None)
        item.user_properties.append(("check", check if name in ALL else None))


# for tests/support_matrix.py, if SUPPORT_RESULTS names a folder
OUTCOMES = []


def name_of(nodeid):
    """The test's, without its parameters."""
    return nodeid.partition("::")[2].partition("[")[0]


def pytest_runtest_logreport(report):
    if report.when == "call" or (report.when == "setup" and not report.passed):
        properties = dict(report.user_properties)
        for optimizer in properties.get("optimizers", [properties["optimizer"]]):
            OUTCOMES.append(
                {
                    "test": properties.get("check") or name_of(report.nodeid),
                    "optimizer": optimizer,
                    "outcome": report.outcome,
                    "keras_tests": properties.get("keras_tests"),
                }
            )


def pytest_sessionfinish(session):
    folder = os.environ.get("SUPPORT_RESULTS")
    if not folder or hasattr(session.config, "workerinput"):
        return
    from table import ALL

    number = len(list(Path(folder).glob(f"{BACKEND}-*.json")))
    run = {"backend": BACKEND, "optimizers": list(ALL), "tests": OUTCOMES}
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, f"{BACKEND}-{number}.json").write_text(json.dumps(run, indent=1))
