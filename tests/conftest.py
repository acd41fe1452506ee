"""Settings that must come before Keras is imported, and shared fixtures."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 twins on JAX

import keras
import pytest

if keras.backend.backend() != "tensorflow":  # these do not depend on the backend
    collect_ignore = ["test_arguments.py", "test_examples.py", "test_package.py"]


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
