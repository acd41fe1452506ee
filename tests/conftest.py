"""Settings that must come before Keras is imported, and shared fixtures."""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # float64 twins on JAX

import keras
import pytest

if keras.backend.backend() != "tensorflow":  # these do not depend on the backend
    collect_ignore = [
        "test_arguments.py",
        "test_claims.py",
        "test_compare.py",
        "test_datasets.py",
        "test_examples.py",
        "test_figures.py",
        "test_models.py",
        "test_package.py",
        "test_results.py",
        "test_studies.py",
    ]


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


# Outcomes for the support matrix (tests/support.py), if SUPPORT_RESULTS names a folder


# On JAX each of these compiles for a second or more; they are slow tests there.
SLOW_ON_JAX = {
    "test_accumulation_measures_the_accumulated_gradient",
    "test_accumulation_over_epochs",
    "test_differs_on_every_tensor_it_acts_on",
    "test_examples_run",
    "test_extreme_gradients_give_nan_only_where_adam_has_it",
    "test_growth_decides_the_product",
    "test_history_csv_tensorboard_and_plot",
    "test_history_of_epochs_without_a_sample",
    "test_inert_copies_are_dead",
    "test_huge_and_zero_gradients",
    "test_opposite_gradients_go_the_opposite_way",
    "test_order_of_entries_does_not_matter",
    "test_reduces_to_base",
    "test_reloads_in_a_new_process_and_goes_on_bit_identically",
    "test_training_is_the_same_with_and_without",
    "test_what_transforms_did",
    "test_whitening_knows_the_layout_of_every_layer",
}


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items):
    from table import ALL

    on_jax = keras.backend.backend() == "jax"
    for item in items:
        if on_jax and item.originalname in SLOW_ON_JAX:
            item.add_marker("slow")
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        name = parameters.get("name")
        item.user_properties.append(("optimizer", name if name in ALL else None))


OUTCOMES = []


def pytest_runtest_logreport(report):
    if report.when == "call" or (report.when == "setup" and not report.passed):
        properties = dict(report.user_properties)
        for optimizer in properties.get("optimizers", [properties["optimizer"]]):
            OUTCOMES.append(
                {
                    "test": report.nodeid.partition("::")[2].partition("[")[0],
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

    backend = keras.backend.backend()
    number = len(list(Path(folder).glob(f"{backend}-*.json")))
    run = {"backend": backend, "optimizers": list(ALL), "tests": OUTCOMES}
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, f"{backend}-{number}.json").write_text(json.dumps(run, indent=1))
