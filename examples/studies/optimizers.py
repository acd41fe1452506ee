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
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # the data of Fashion-MNIST

import commits
import optimizers_pages
from optimizers_entries import COMPARISONS, ENTRIES, LAST_TURN, left_out
from optimizers_pictures import plot_differences, plot_sensitivity
from optimizers_report import Study, overview, report
from optimizers_tasks import TASKS

from keras_gradopt import comparison

TUNING_SEEDS = (1, 2, 3)
REPORT_SEEDS = tuple(range(11, 23))
FOLDER = Path(__file__).resolve().parents[2] / "docs/studies/optimizers"


def run(args) -> None:
    """Makes the runs that are missing."""
    commits.note_session(args.folder, args.allow_dirty)
    for turn in [args.turn] if args.turn else range(1, LAST_TURN + 1):
        comparison.compare(
            list(TASKS.values()),
            {name: entry.arm for name, entry in ENTRIES.items()},
            folder=args.folder,
            seeds=REPORT_SEEDS,
            tuning_seeds=TUNING_SEEDS,
            comparisons=COMPARISONS,
            controls=False,
            leave_out=left_out(turn, args.tasks, args.optimizers),
            workers=args.workers,
            progress=not args.quiet,
        )


def collect(args) -> None:
    """Writes tables, pictures, and what pages of the site say from the rows."""
    study = Study(comparison.Results.load(args.folder))
    plot_sensitivity(study, args.folder / "sensitivity.png")
    plot_differences(study, args.folder / "differences.png")
    made_at = commits.made_at(args.folder, len(study.results.rows))
    (args.folder / "README.md").write_text(report(study, made_at))
    if args.folder.resolve() == FOLDER:
        optimizers_pages.write(study)
    print(f"\n{overview(study)}\n\nEverything else is in {args.folder}")


def parse(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--turn", type=int, choices=range(1, LAST_TURN + 1),
                      help="entries up to this turn only, task by task")  # fmt: skip
    make.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS),
                      metavar="TASK", help="run no others")  # fmt: skip
    make.add_argument("--optimizers", nargs="+", choices=ENTRIES, metavar="NAME",
                      default=list(ENTRIES), help="run no others")  # fmt: skip
    make.add_argument("--workers", type=int, help="processes; as many as processors")
    make.add_argument("--folder", type=Path, default=FOLDER)
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
