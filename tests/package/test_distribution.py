"""Several devices or processes give the weights of one on the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import finish, free_addresses
from table import FAMILIES
from trajectories import BACKEND

WORKERS = Path(__file__).parents[1] / "workers"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND != "tensorflow", reason="starts its own backends"),
]


def start(script, *arguments, backend="tensorflow"):
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "0"}
    environment.pop("TF_CONFIG", None)
    command = [sys.executable, WORKERS / script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(folder, name):
    with np.load(folder / f"{name}.npz") as arrays:
        return [arrays[key] for key in arrays.files]


def assert_same(folder, other, names=FAMILIES):
    """To the rounding of sums in another order; weights move by 1e-2 and more."""
    for name in names:
        for ours, one in zip(weights(folder, name), weights(other, name)):
            np.testing.assert_allclose(ours, one, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_device")
    finish(start("one_device.py", folder))
    return folder


@pytest.fixture(scope="module")
def one_device_jax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_device_jax")
    finish(start("one_device.py", folder, backend="jax"))
    return folder


def test_multi_worker_mirrored_strategy(one_device, tmp_path, record_property):
    record_property("optimizers", FAMILIES)
    addresses = free_addresses(2)
    finish(*(start("multiworker.py", tmp_path, i, *addresses) for i in range(2)))
    assert_same(tmp_path, one_device)


def test_data_parallel_over_processes(one_device_jax, tmp_path, record_property):
    record_property("optimizers", FAMILIES)
    (coordinator,) = free_addresses(1)
    flags = [(tmp_path, index, 2, coordinator) for index in range(2)]
    finish(*(start("jax_processes.py", *f, backend="jax") for f in flags))
    assert_same(tmp_path, one_device_jax)


def test_model_parallel(one_device_jax, tmp_path, record_property):
    record_property("optimizers", FAMILIES)
    finish(start("jax_model_parallel.py", tmp_path, backend="jax"))
    assert_same(tmp_path, one_device_jax)
