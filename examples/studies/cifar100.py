"""
Title: ResNet-20 on CIFAR-100, a registered experiment
Description: AdamNorm and AngularGrad against Adam, by docs/studies/cifar100/plan.md.

    python examples/studies/cifar100.py pack FOLDER  # once: the data as one file
    python examples/studies/cifar100.py scout        # the control's rate
    python examples/studies/cifar100.py run          # begin, or go on
    python examples/studies/cifar100.py status
    python examples/studies/cifar100.py report       # docs/studies/cifar100/README.md

`scout` and `run` may be killed at any time and go on from the last epoch; started
elsewhere, without the state folder, they begin unfinished runs again and skip finished
ones. A started one occupies its slot until it ends: a second in the same slot is
refused, one with `--slot 2` shares the work. Each computes with one thread unless told
otherwise, so two slots use two cores.

Every finished run is a row of `docs/studies/cifar100/runs.csv`.
"""

import argparse
import contextlib
import csv
import fcntl
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cifar100_data import load, pack, replace

ROOT = Path(__file__).parents[2]
CODE = ("keras_gradopt", "examples")  # what a row's commit stands for
PAPERS_RATE = 1e-3
ARMS = ("adam", "adamnorm", "angulargrad", "adam_control", "adam_again")
SEEDS = tuple(range(1, 11))
FEWEST_SEEDS = 7
SCOUT_SEEDS = (101, 102)
COLUMNS = (
    "stage", "arm", "seed", "rate", "accuracy", "loss", "train_accuracy", "train_loss",
    "train_losses", "train_accuracies", "epochs", "batch_size", "network", "precision",
    "backend", "threads", "device", "keras", "backend_version", "numpy", "data",
    "commit", "seconds", "cpu_seconds",
)  # fmt: skip
SAME = (  # in all rows that may be compared
    "epochs", "batch_size", "network", "precision", "backend", "threads", "device",
    "data",
)  # fmt: skip


"""
## Which runs
"""


@dataclass(frozen=True)
class Run:
    """One training: where its images come from, optimizer, seed and learning rate."""

    stage: str  # "scout" or "final"
    arm: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """For files and people."""
        return f"{self.stage}-{self.arm}-{self.seed}-{self.rate:g}"


def rate_at(quarters: int) -> float:
    """10 to the power of `quarters` / 4, with three digits."""
    return float(f"{10 ** (quarters / 4):.3g}")


def scouting(accuracy: dict[tuple[int, float], float]) -> tuple[list[Run], float]:
    """The control's learning rate, or what must still be run to know it.

    Half-decades with one seed, more as long as the best is at an edge; quarter-decades
    on both sides of the best; then the best rate (other than the paper's, which is
    another arm's) and 1.25 times the paper's with a second seed: the control's is the
    one with the higher mean.

    Args:
        accuracy: on the held out images, by seed and rate.

    Returns:
        The runs to make before asking again, and the rate once there are none.
    """
    first, second = SCOUT_SEEDS

    def missing(rates, seeds=(first,)):
        return [
            Run("scout", "adam", seed, rate)
            for seed in seeds
            for rate in rates
            if (seed, rate) not in accuracy
        ]

    def best(rates):
        return max(rates, key=lambda rate: (accuracy[first, rate], -rate))

    grid = [-14, -12, -10]
    while True:
        rates = [rate_at(quarters) for quarters in grid]
        if missing(rates):
            return missing(rates), 0.0
        if best(rates) == rates[0]:
            grid.insert(0, grid[0] - 2)
        elif best(rates) == rates[-1]:
            grid.append(grid[-1] + 2)
        else:
            break
    centre = grid[rates.index(best(rates))]
    factor = 1.25 * PAPERS_RATE
    rates += [rate_at(centre - 1), rate_at(centre + 1)]
    if missing([*rates, factor]):
        return missing([*rates, factor]), 0.0
    finalists = [best([rate for rate in rates if rate != PAPERS_RATE]), factor]
    if missing(finalists, SCOUT_SEEDS):
        return missing(finalists, SCOUT_SEEDS), 0.0
    return [], max(
        finalists, key=lambda rate: accuracy[first, rate] + accuracy[second, rate]
    )


def scouted(rows: list[dict[str, str]]) -> tuple[list[Run], float]:
    """`scouting` from the finished rows."""
    return scouting(
        {
            (int(row["seed"]), float(row["rate"])): float(row["accuracy"])
            for row in rows
            if row["stage"] == "scout"
        }
    )


def planned(control: float, seeds=SEEDS) -> list[Run]:
    """The final runs, seed by seed through all arms."""
    return [
        Run("final", arm, seed, control if arm == "adam_control" else PAPERS_RATE)
        for seed in seeds
        for arm in ARMS
    ]


"""
## Rows
"""


def read(results: Path) -> list[dict[str, str]]:
    """The finished runs."""
    path = results / "runs.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def key(row: dict[str, Any]) -> Run:
    """The run that a row is of."""
    return Run(row["stage"], row["arm"], int(row["seed"]), float(row["rate"]))


def append(results: Path, row: dict[str, Any]) -> bool:
    """Adds a row unless its run has one; whole or not at all, whenever it is killed."""
    results.mkdir(parents=True, exist_ok=True)
    rows = read(results)
    if key(row) in map(key, rows):
        return False
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    replace(results / "runs.csv", lambda file: file.write(text.getvalue().encode()))
    return True


def check_same(rows: list[dict[str, str]], facts: dict[str, Any]) -> None:
    """Refuses to mix rows that are made differently.

    Raises:
        SystemExit: with what differs.
    """
    for row in rows:
        differing = [
            f"{name}: there {row[name]!r}, here {str(facts[name])!r}"
            for name in SAME
            if row[name] != str(facts[name])
        ]
        if differing:
            sys.exit(
                "the rows that exist were made differently ("
                + "; ".join(differing)
                + "); make these the same, or begin another table with --results"
            )


def commit(allow_dirty: bool) -> str:
    """The commit that the code is at.

    Raises:
        SystemExit: if it has changes, unless they are allowed; then it is marked.
    """

    def git(*arguments):
        run = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    try:
        head = git("rev-parse", "--short=10", "HEAD").strip()
        changed = git("status", "--porcelain", "--", *CODE).split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        head, changed = "unknown", ["this is no checkout"]
    if changed and not allow_dirty:
        sys.exit(
            "a row names the commit that made it, and this code is at none: "
            + ", ".join(line.strip() for line in changed[:3])
            + "; commit first, or pass --allow-dirty for a trial"
        )
    return head + "-dirty" * bool(changed)


"""
## Running
"""


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the file's lock was free; held inside, gone with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def limit_threads(threads: int) -> None:
    """To be called before Keras is imported."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if os.environ.get("KERAS_BACKEND") == "torch":
        import torch

        torch.set_num_threads(threads)


def facts(recipe: Any, threads: int, data: str) -> dict[str, Any]:
    """What a row says beside its outcome."""
    import keras
    import numpy

    backend = keras.backend.backend()
    device = str(keras.ops.zeros(1).device).lower()
    return {
        "epochs": recipe.epochs, "batch_size": recipe.batch_size,
        "network": recipe.network, "precision": recipe.precision, "backend": backend,
        "threads": threads, "device": "cpu" if "cpu" in device else "gpu",
        "keras": keras.__version__, "backend_version": version(backend),
        "numpy": numpy.__version__, "data": data,
    }  # fmt: skip


def work(arguments: argparse.Namespace) -> None:
    """Makes the runs that are missing, one after the other."""
    with lock(arguments.state / f"slot-{arguments.slot}.lock") as free:
        if not free:
            sys.exit(
                f"slot {arguments.slot} of {arguments.state} is occupied by another "
                "process; --slot 2 shares its work"
            )
        at = commit(arguments.allow_dirty)
        limit_threads(arguments.threads)
        from cifar100_training import Recipe

        train_images, test_images, digest = load(arguments.data)
        recipe = Recipe(arguments.epochs, arguments.batch_size)
        same = facts(recipe, arguments.threads, digest)
        check_same(read(arguments.results), same)
        while todo := remaining(arguments):
            for run in todo:
                with lock(arguments.state / f"{run.name}.lock") as mine:
                    if mine and run not in map(key, read(arguments.results)):
                        images = (
                            train_images,
                            test_images if run.stage == "final" else None,
                        )
                        one(run, images, recipe, arguments, {**same, "commit": at})
                        break
            else:  # another slot makes what is left; it may stop, and scouting goes on
                time.sleep(30)
        print(f"nothing left to {arguments.command}")


def remaining(arguments: argparse.Namespace) -> list[Run]:
    """The runs without a row, in order."""
    rows = read(arguments.results)
    runs, control = scouted(rows)
    if arguments.command == "run":
        if runs:
            sys.exit(f"the control's rate is not known: scout first ({len(runs)} runs)")
        runs = planned(control, arguments.seeds)
    done = set(map(key, rows))
    return [run for run in runs if run not in done]


def one(run, images, recipe, arguments, row) -> None:
    """One run, and its row."""
    from cifar100_training import train

    # what is kept of a run that is made otherwise is another's
    made = hashlib.sha256(repr([row[name] for name in SAME]).encode()).hexdigest()[:8]
    state = arguments.state / f"{run.name}-{made}.npz"
    left = len(remaining(arguments)) - 1
    before = time.time()

    def progress(epoch, logs):
        nonlocal before
        seconds, before = time.time() - before, time.time()
        here = (recipe.epochs - epoch) * seconds
        print(
            f"{time.strftime('%H:%M')} {run.name} epoch {epoch}/{recipe.epochs}: loss "
            f"{logs['loss']:.3f}, accuracy {logs['accuracy']:.1%}, {seconds:.0f} s; "
            f"this run {here / 60:.0f} min, {left} more at this pace "
            f"{left * recipe.epochs * seconds / 3600:.1f} h",
            flush=True,
        )

    found = train(
        run.arm, run.seed, run.rate, *images, recipe, state, row["commit"], progress
    )
    losses, accuracies = found.pop("losses"), found.pop("accuracies")
    row = {
        "stage": run.stage, "arm": run.arm, "seed": run.seed, "rate": run.rate, **row,
        "accuracy": round(found["accuracy"], 6), "loss": round(found["loss"], 6),
        "train_accuracy": round(accuracies[-1], 6), "train_loss": round(losses[-1], 6),
        "train_losses": " ".join(f"{value:.5g}" for value in losses),
        "train_accuracies": " ".join(f"{value:.5g}" for value in accuracies),
        "seconds": round(found["seconds"]), "cpu_seconds": round(found["cpu_seconds"]),
        "commit": "+".join(found["commits"]),
    }  # fmt: skip
    with lock(arguments.state / "rows.lock", wait=True):
        append(arguments.results, row)
    state.unlink()
    print(f"{run.name}: {found['accuracy']:.2%}", flush=True)


def status(arguments: argparse.Namespace) -> None:
    """Prints what is done, begun and missing."""
    rows = read(arguments.results)
    runs, control = scouted(rows)
    if runs:
        print("to scout next:", ", ".join(run.name for run in runs))
    else:
        print(f"control: Adam at {control:g}")
    done = set(map(key, rows))
    for run in planned(control, arguments.seeds):
        begun = any(arguments.state.glob(f"{run.name}-*.npz"))
        state = "done" if run in done else "begun" if begun else "missing"
        print(f"{run.name}: {state}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("command", choices=["pack", "scout", "run", "status", "report"])
    parser.add_argument("source", type=Path, nargs="?", help="for pack")
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "cifar100")
    parser.add_argument("--data", type=Path, help="default: data.npz in --state")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/studies/cifar100")
    parser.add_argument("--slot", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument(
        "--final", action="store_true", help="report: no seed will be added any more"
    )
    arguments = parser.parse_args()
    arguments.data = arguments.data or arguments.state / "data.npz"
    # between two batches; the last epoch is on disk
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; start again to go on"))
    if arguments.command == "pack":
        if arguments.source is None:
            parser.error("pack needs the folder that holds the data set")
        print(f"{arguments.data}: {pack(arguments.source, arguments.data)}")
    elif arguments.command == "status":
        status(arguments)
    elif arguments.command == "report":
        from cifar100_report import write

        write(arguments.results, arguments.final)
    else:
        work(arguments)


if __name__ == "__main__":
    main()
