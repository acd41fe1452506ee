"""Nothing is lost: processes killed (-9) at random steps end where others end.

`k` steps, a kill, a restore and `N - k` steps are `N` steps, bit by bit.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from table import ALL
from trajectories import BACKEND

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "workers" / "killed.py"
STEPS = 24

# TensorFlow kills every optimizer, in one of the ways of keeping it, in turns.
NAMES = list(ALL) if BACKEND == "tensorflow" else list(ALL)[::4]
KINDS = ["backup", "keras", "own"]
if BACKEND == "tensorflow":
    KINDS.append("checkpoint")
WAYS = {kind: NAMES[i :: len(KINDS)] for i, kind in enumerate(KINDS)}


def run(folder, way, names, kill_at=None):
    """Runs the worker to its end; kills it once per name, at the step given.

    Returns:
        The kills, as (name, step at which the process had to be killed).
    """
    kill_at, kills = dict(kill_at or {}), []
    while True:
        process = subprocess.Popen(
            [sys.executable, WORKER, folder, way, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # cut off by the kill
            name, _, step = line.rpartition(" ")
            if kill_at.get(name) == int(step):
                time.sleep(random.uniform(0, 0.005))
                process.send_signal(signal.SIGKILL)
                kills.append((name, kill_at.pop(name)))
        errors = process.communicate()[1]
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL, errors[-3000:]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(folder, "none", NAMES) == []
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_killed_and_restored_is_never_killed(
    way, uninterrupted, tmp_path, record_property
):
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"kills drawn with seed {seed}")
    random.seed(seed)
    names = WAYS[way]
    record_property("optimizers", names)
    # Keras' backup must not be hit while it writes, at the end of an epoch
    steps = [s for s in range(1, STEPS) if way != "backup" or s % 4]
    kill_at = {name: random.choice(steps) for name in names}
    assert dict(run(tmp_path, way, names, kill_at)) == kill_at
    for name in names:
        with (
            np.load(tmp_path / f"{name}.npz") as ours,
            np.load(uninterrupted / f"{name}.npz") as theirs,
        ):
            assert ours.files == theirs.files
            for key in ours.files:
                np.testing.assert_array_equal(
                    ours[key], theirs[key], err_msg=f"{name}, killed at {kill_at[name]}"
                )
