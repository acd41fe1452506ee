"""A comparison that is killed (-9) at random moments ends as one that was not."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("statsmodels")
pytest.importorskip("cloudpickle")

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
# Dask gives up a lost worker that is not back in 15 s, as on a busy machine
PATIENCE = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "300s"}
ENVIRONMENT = {
    **os.environ, **dict.fromkeys(THREADS, "1"), **PATIENCE, "PYTHONPATH": str(ROOT)
}  # fmt: skip


def start(folder, how):
    command = [sys.executable, ROOT / "tests" / "workers" / "compared.py", folder, how]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip


def finish(process):
    shown, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return shown


def rows(folder):
    """All runs, but for their times."""
    with open(folder / "runs.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["ms_per_step"]
    return sorted(tuple(row.items()) for row in found)


def verdicts(text):
    return [line for line in text.splitlines() if line.endswith("** |")]


def wait_for_runs(process, folder, count):
    """Waits until so many rows are there, or the process has ended."""
    path = folder / "runs.csv"
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.05)


def workers(process):
    """The processes below this one that run Python code of ours."""
    found, left = [], [process.pid]
    while left:
        parent = left.pop()
        threads = Path("/proc").glob(f"{parent}/task/*/children")  # each has its own
        children = " ".join(thread.read_text() for thread in threads)
        for child in map(int, children.split()):
            left.append(child)
            try:
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, verdicts(finish(start(folder, "here")))


def seeded_by_chance():
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"kills drawn with seed {seed}")
    random.seed(seed)


@pytest.mark.slow
def test_killed_is_not_killed(undisturbed, tmp_path):
    """Once, where one process does all."""
    seeded_by_chance()
    process = start(tmp_path, "here")
    wait_for_runs(process, tmp_path, random.randint(1, 15))
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    assert verdicts(finish(start(tmp_path, "here"))) == undisturbed[1]
    assert rows(tmp_path) == rows(undisturbed[0])
    assert not list((tmp_path / "unfinished").iterdir())
    assert not list(tmp_path.rglob("new.*"))


def count(folder):
    path = folder / "runs.csv"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


@pytest.mark.slow
def test_killed_twenty_times(undisturbed, tmp_path):
    """Ten times the process that runs everything, then a local process ten times."""
    seeded_by_chance()
    for _ in range(10):
        process = start(tmp_path, "here")
        wait_for_runs(process, tmp_path, count(tmp_path) + random.randint(0, 1))
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
    process, kills = start(tmp_path, "local"), 0
    while kills < 10 and process.poll() is None:
        wait_for_runs(process, tmp_path, count(tmp_path) + 1)
        time.sleep(random.uniform(0, 0.3))
        for worker in workers(process)[:1]:
            os.kill(worker, signal.SIGKILL)
            kills += 1
    assert kills == 10
    assert verdicts(finish(process)) == undisturbed[1]
    assert rows(tmp_path) == rows(undisturbed[0])


@pytest.mark.slow
def test_a_dask_worker_is_killed(undisturbed, tmp_path):
    """Two workers on the loopback address; one of them dies, twice."""
    pytest.importorskip("distributed")
    seeded_by_chance()
    process = start(tmp_path, "dask")
    for count in (5, 20):
        wait_for_runs(process, tmp_path, count)
        time.sleep(random.uniform(0, 0.5))
        assert process.poll() is None, process.stderr.read()[-3000:]
        os.kill(random.choice(workers(process)), signal.SIGKILL)
    assert verdicts(finish(process)) == undisturbed[1]
    assert rows(tmp_path) == rows(undisturbed[0])


@pytest.mark.slow
def test_two_starters_refuse_each_other(tmp_path):
    first = start(tmp_path, "here")
    while not (tmp_path / "declaration.json").exists() and first.poll() is None:
        time.sleep(0.05)
    second = start(tmp_path, "here")
    _, errors = second.communicate(timeout=200)
    first.kill()
    first.wait()
    assert second.returncode != 0
    assert f"another comparison is running in {tmp_path}" in errors
