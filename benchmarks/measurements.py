"""What the benchmarks share: real networks, interleaving, tables, files."""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_gradopt

OURS = [name for name in keras_gradopt.optimizers.__all__ if name != "Transformed"]


def optimizers() -> dict[str, Callable[[], keras.optimizers.Optimizer]]:
    """For each name, what makes the optimizer: Keras' two, ours, a few pipelines."""
    k, t = keras.optimizers, keras_gradopt.transforms
    made = {
        "keras Adam": k.Adam,
        "keras SGD, momentum": lambda: k.SGD(momentum=0.9),
        **{name: getattr(keras_gradopt, name) for name in OURS},
    }
    made["AngularGrad, bfloat16 history"] = lambda: keras_gradopt.AngularGrad(
        history_dtype="bfloat16"
    )
    for transform in (t.AngularFriction, t.CorrectNorm, t.Whiten):
        made[f"Adam, {transform.__name__}"] = lambda transform=transform: (
            keras_gradopt.Transformed(k.Adam(), [transform()])
        )
    return made


def network(name: str) -> keras.Model:
    """A network of `keras.applications`, without weights from elsewhere."""
    return getattr(keras.applications, name)(weights=None)


def gradients_like(variables: Sequence[Any], seed: int = 0) -> list[np.ndarray]:
    """Normal noise, a thousandth in size, one array for each variable."""
    random = np.random.default_rng(seed)
    return [1e-3 * random.standard_normal(tuple(v.shape), "float32") for v in variables]


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call; a round is one of each, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            taken = time.perf_counter() - begin
            if number:
                found[name].append(taken)
        print(f"\rround {number} of {rounds}", end="", flush=True)
    print()
    return found


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and range."""
    middle = statistics.median(seconds)
    return f"{1e3 * middle:.1f} ({1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f})"


def environment(*packages: str) -> str:
    """One line: versions and machine."""

    def known(package):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"{package} not installed"

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    parts = [f"Python {platform.python_version()}", *map(known, ("keras", *packages))]
    return ", ".join([*parts, f"{os.cpu_count()} CPUs ({cpu})"])


def commit() -> str:
    """The commit that the package is at, marked if it has changes that are in none."""
    # the package may be of another checkout than this file
    here = Path(keras_gradopt.__file__).parents[1]

    def git(*arguments):
        run = ["git", "-C", str(here), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", "keras_gradopt", "benchmarks")
        return git("rev-parse", "--short=10", "HEAD").strip() + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_csv(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same fields, if there is a path; each names its commit."""
    if path:
        here = commit()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            fields = list(dict.fromkeys([*rows[0], "commit"]))
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows({"commit": here, **row} for row in rows)


def add_rounds(make: argparse.ArgumentParser, rounds: int) -> None:
    """Adds the arguments of a benchmark in rounds."""
    make.add_argument(
        "--rounds", type=int, default=rounds, help="0: only print what --csv has"
    )
    make.add_argument("--csv", type=Path)
    make.add_argument(
        "--append", action="store_true", help="keep the rounds that are in --csv"
    )


def known_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that are kept, with numbers for what are numbers."""
    if not args.csv or not args.csv.exists() or not (args.append or not args.rounds):
        return []
    with open(args.csv, newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row.setdefault("commit", "")
        for name, value in row.items():
            if name != "commit" and value.replace(".", "", 1).isdecimal():
                row[name] = float(value) if "." in value else int(value)
    return rows


def next_round(rows: Sequence[Mapping[str, Any]]) -> int:
    """The number of the first round after these rows."""
    return 1 + max((row["round"] for row in rows), default=-1)
