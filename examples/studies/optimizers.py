"""
Title: Sixteen optimizers on six tasks
Description: The comparison of docs/study.md: entries, tasks, and a page of tables.

    python examples/studies/optimizers.py --workloads digits-cnn --optimizers AdamNorm
    python examples/studies/optimizers.py              # everything, for hours
    python examples/studies/optimizers.py --collect    # tables and pictures only

`keras_gradopt.comparison` runs it. Every optimizer gets its learning rate by the same
search: half-decades from 3e-4 to 1e-1, three seeds, the lowest mean validation loss at
the end of training; more rates as long as the best is at an edge. Then it trains with
ten fresh seeds, and the loss on the test part is reported. A seed draws the initial
weights, the order of the batches and who is in which part, alike for all optimizers, so
differences are paired. The learning rate falls to zero along a cosine.

Each optimizer is compared with Adam and with its own base: mean paired difference with
a 95 % bootstrap interval, sign-flip test, Holm's correction over the comparisons with
Adam, and over the others, of a workload. "better" and "worse" are written where the
corrected p is below 0.05 and the interval excludes 0. Controls: Adam against itself
from other initial weights (which must show no difference), and Adam at 0.88 and at half
of AngularGrad's rate.

Every run is a row of a CSV file, written when it ends; what is there, or in the folder
of results, is not run again.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # the data of Fashion-MNIST

import keras
from optimizers_entries import ENTRIES
from optimizers_pictures import plot_differences, plot_sensitivity
from optimizers_report import Results, overview, report, unfinished
from optimizers_tasks import TASKS, has_kernels

from keras_gradopt import comparison
from keras_gradopt.comparison import files

TUNING_SEEDS = (1, 2, 3)
REPORT_SEEDS = tuple(range(11, 21))
FIELDS = [  # of the committed rows
    "workload", "optimizer", "stage", "learning_rate", "seed", "diverged",
    "train_loss", "validation_loss", "test_loss", "test_accuracy", "ms_per_step",
    "validation_losses",
]  # fmt: skip
METRICS = ("validation_accuracy", "test_accuracy")


"""
## Rows
"""


def committed(path: Path) -> list[dict[str, str]]:
    """The rows of a file of this study, as those of a comparison.

    Raises:
        ComparisonError: if the file has anything else in it.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != FIELDS:
                raise ValueError(f"its columns must be {', '.join(FIELDS)}")
            rows = list(reader)
    except (ValueError, csv.Error) as error:
        raise comparison.ComparisonError(f"{path} is damaged: {error}") from error
    for row in rows:
        if None in row or None in row.values():
            raise comparison.ComparisonError(f"{path} is damaged: {row}")
        for name, known in (("workload", TASKS), ("optimizer", ENTRIES)):
            if row[name] not in known:
                raise comparison.ComparisonError(
                    f"{path} is damaged: unknown {name} {row[name]!r}"
                )
        row["task"] = row.pop("workload")
        row |= {"arguments": "", "validation_accuracy": ""}
    return rows


def restore(args) -> None:
    """Takes over the results that are collected already, where there are no runs."""
    path = args.results / "runs.csv"
    if not path.exists():
        return
    with files.alone_in(args.runs):
        rows = files.Rows(args.runs / files.RUNS)
        rows.widen(METRICS)
        for row in committed(path):
            rows.known.setdefault(files.key(row), row)
        rows.widen(())
        files.read_rows(rows.path)


def collect(args) -> Results:
    """Reads all runs; writes them as one file, with environment and pictures."""
    path = args.runs / files.RUNS
    there = files.read_rows(path) if path.exists() else []
    rows = [
        {name: {"workload": row["task"], **row}[name] for name in FIELDS}
        for workload in args.workloads
        for optimizer in args.optimizers
        for row in there
        if (row["task"], row["optimizer"]) == (workload, optimizer)
    ]
    results = Results(rows)
    if not rows:
        return results
    args.results.mkdir(parents=True, exist_ok=True)
    with (
        files.replacing(args.results / "runs.csv") as new,
        open(new, "w", newline="") as file,
    ):
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot_sensitivity(results, args.results / "sensitivity.png")
    plot_differences(results, args.results / "differences.png")
    still = unfinished(results, args.workloads, args.optimizers, args.seeds)
    (args.results / "README.md").write_text(report(results, still))
    return results


"""
## The command
"""


def run(args) -> None:
    """Makes the runs that are missing."""
    os.environ["COMPARE_CACHE"] = str(args.runs)  # for the images of Fashion-MNIST
    pairs = [(name, o) for name in args.optimizers for o in ENTRIES[name].against]
    families = {
        "with Adam": [pair for pair in pairs if pair[1] == "Adam"],
        "with others": [pair for pair in pairs if pair[1] != "Adam"],
    }
    overlapping = any(TASKS[name].resplit for name in args.workloads)
    comparison.compare(
        [TASKS[name] for name in args.workloads],
        {name: ENTRIES[name].arm for name in args.optimizers},
        baseline="Adam",
        folder=args.runs,
        seeds=args.seeds,
        tuning_seeds=args.tuning_seeds,
        test="corrected-t" if overlapping else "t",
        comparisons={name: family for name, family in families.items() if family},
        controls=False,
        refine=False,
        leave_out=[
            (workload, name)
            for workload in args.workloads
            for name in args.optimizers
            if ENTRIES[name].needs_kernels and not has_kernels(workload)
        ],
        workers=args.workers,
        progress=not args.quiet,
    )
    note_session(args)


def note_session(args) -> None:
    """Adds to the list of sessions in which runs were made."""
    path = args.results / "sessions.json"
    sessions = files.json.loads(path.read_text()) if path.exists() else []
    now = environment(args)
    if now not in sessions:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.json.dumps([*sessions, now], indent=2) + "\n")


def environment(args) -> dict[str, Any]:
    """What the runs depend on beside the files of this repository."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    packages = ["keras", "tensorflow", "numpy", "scikit-learn", "scipy", "statsmodels"]
    if "words" in args.workloads:
        packages.append("wordfreq")
    return {
        "workloads": args.workloads,
        "optimizers": args.optimizers,
        "tuning_seeds": list(args.tuning_seeds),
        "seeds": list(args.seeds),
        "commit": commit,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "processors": os.cpu_count(),
        "workers": args.workers,
    }


def parse(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument(
        "--workloads",
        nargs="+",
        choices=TASKS,
        default=list(TASKS),
        metavar="W",
    )
    make.add_argument(
        "--optimizers", nargs="+", choices=ENTRIES, default=list(ENTRIES), metavar="O",
        help="entries; their bases and the controls are added",
    )  # fmt: skip
    make.add_argument("--no-controls", action="store_true")
    make.add_argument("--tuning-seeds", nargs="+", type=int, default=TUNING_SEEDS)
    make.add_argument("--seeds", nargs="+", type=int, default=REPORT_SEEDS)
    make.add_argument("--workers", type=int)
    make.add_argument("--runs", type=Path, default=Path("runs/optimizers"))
    make.add_argument("--results", type=Path, default=Path("docs/studies/optimizers"))
    make.add_argument("--collect", action="store_true", help="run nothing")
    make.add_argument("--quiet", action="store_true", help="no progress bar")
    args = make.parse_args(arguments)
    if set(args.seeds) & set(args.tuning_seeds):
        make.error("--seeds must be fresh: none of --tuning-seeds")
    for seeds in (args.seeds, args.tuning_seeds):
        if len(set(seeds)) < len(seeds):
            make.error("each seed of --seeds and --tuning-seeds can be there once")
    wanted = set(args.optimizers)
    if not args.no_controls:
        wanted |= {"Adam", "Adam again"}
        slower = {"Adam, half rate", "Adam, 0.88 rate"}
        wanted |= slower if "AngularGrad" in wanted else set()
    more = list(wanted)
    while more:
        entry = ENTRIES[more.pop()]
        needed = {*entry.against, entry.rate_of} - wanted - {None}
        wanted |= needed
        more += needed
    args.optimizers = [name for name in ENTRIES if name in wanted]
    return args


def main(arguments=None) -> None:
    args = parse(arguments)
    try:
        restore(args)
        if not args.collect:
            run(args)
        results = collect(args)
    except (comparison.ComparisonError, ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    if results.rows:
        print(f"\n{overview(results)}\n\nEverything else is in {args.results}")


if __name__ == "__main__":
    main()
