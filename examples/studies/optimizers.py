"""
Title: The optimizers of five papers on six tasks
Description: The comparison of docs/study.md: entries, tasks, and a page of tables.

    KERAS_BACKEND=jax python examples/studies/optimizers.py  # goes on where it stopped
    python examples/studies/optimizers.py --collect          # tables and pictures only

`keras_gradopt.comparison` runs it as docs/studies/optimizers/plan.md declares: the same
search of the learning rate for all, twelve paired seeds, one primary family of
comparisons a paper. Every run is a row of `runs.csv` in the folder of the results,
written when it ends; what is there is not run again, so delete the file (or give
another --folder) to run everything anew. `sessions.json` names the commit of each row.

Entries have turns: those of the primary families are run first, on all tasks.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # the data of Fashion-MNIST

from optimizers_entries import COMPARISONS, ENTRIES, LAST_TURN, left_out
from optimizers_pictures import plot_differences, plot_sensitivity
from optimizers_report import Study, overview, report
from optimizers_tasks import TASKS

from keras_gradopt import comparison
from keras_gradopt.comparison import files

TUNING_SEEDS = (1, 2, 3)
REPORT_SEEDS = tuple(range(11, 23))
METRICS = ("validation_accuracy", "test_accuracy")
ROOT = Path(__file__).parents[2]
CODE = ("keras_gradopt", "examples")  # what a row's commit stands for


def run(args) -> None:
    """Makes the runs that are missing."""
    note_session(args)
    for turn in range(1, args.turn + 1):
        comparison.compare(
            list(TASKS.values()),
            {name: entry.arm for name, entry in ENTRIES.items()},
            folder=args.folder,
            seeds=REPORT_SEEDS,
            tuning_seeds=TUNING_SEEDS,
            comparisons=COMPARISONS,
            controls=False,
            leave_out=left_out(turn),
            workers=args.workers,
            progress=not args.quiet,
        )


def note_session(args) -> None:
    """Writes down which commit makes the rows that follow.

    Raises:
        ComparisonError: if the code has changes that are in no commit.
    """
    git = ["git", "-C", str(ROOT)]
    kept = {"capture_output": True, "text": True, "check": True}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], **kept).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *CODE]
        changed = subprocess.run(status, **kept).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        head, changed = "unknown", ["this is no checkout"]
    if changed and not args.allow_dirty:
        raise comparison.ComparisonError(
            "rows name the commit that made them, and this code is at none: "
            + ", ".join(line.strip() for line in changed[:3])
            + "; commit first, or pass --allow-dirty for a trial"
        )
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, path = args.folder / files.RUNS, args.folder / "sessions.json"
    count = len(files.read_rows(rows)) if rows.exists() else 0
    sessions = files.read_json(path, list) if path.exists() else []
    sessions = [session for session in sessions if session["first_row"] <= count]
    now = {"first_row": count + 1, "commit": head + "-dirty" * bool(changed)}
    files.write_json(path, [*sessions, now])


def collect(args) -> None:
    """Writes tables and pictures."""
    study = Study(comparison.Results.load(args.folder))
    sessions = files.read_json(args.folder / "sessions.json", list)
    plot_sensitivity(study, args.folder / "sensitivity.png")
    plot_differences(study, args.folder / "differences.png")
    (args.folder / "README.md").write_text(report(study, sessions))
    print(f"\n{overview(study)}\n\nEverything else is in {args.folder}")


def parse(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--turn", type=int, choices=range(1, LAST_TURN + 1),
                      default=LAST_TURN, help="the last that is run")  # fmt: skip
    make.add_argument("--workers", type=int, help="processes; as many as processors")
    make.add_argument("--folder", type=Path, default=Path("docs/studies/optimizers"))
    make.add_argument("--collect", action="store_true", help="run nothing")
    make.add_argument("--allow-dirty", action="store_true", help="for a trial")
    make.add_argument("--quiet", action="store_true", help="no progress bar")
    return make.parse_args(arguments)


def main(arguments=None) -> None:
    args = parse(arguments)
    try:
        if not args.collect:
            run(args)
        collect(args)
    except (comparison.ComparisonError, ValueError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
