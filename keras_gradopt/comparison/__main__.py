"""`python -m keras_gradopt.comparison my_task.py:task --optimizers AdamNorm`."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

import keras_gradopt
from keras_gradopt.comparison import ComparisonError, Results, Task, compare

PAGE, PICTURE = "results.md", "results.png"


def found(where: str) -> Any:
    """What `file.py:name` or `package.module:name` names.

    Raises:
        ValueError: If there is no such thing.
    """
    source, colon, name = where.rpartition(":")
    if not colon or not source or not name:
        raise ValueError(f"{where!r} must be FILE.py:NAME or MODULE:NAME")
    path = None
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"{where!r}: there is no file {source}")
        sys.path.insert(0, str(path.parent.absolute()))
        source = path.stem
    try:
        module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where!r}: {error}") from error
    loaded = getattr(module, "__file__", None)
    if path and (loaded is None or Path(loaded).resolve() != path.resolve()):
        raise ValueError(
            f"{where!r}: another module is named {source!r} ({loaded}): rename the file"
        )
    if not hasattr(module, name):
        raise ValueError(f"{where!r}: there is no {name!r} in {source}")
    return getattr(module, name)


def optimizer(name: str) -> Any:
    """An optimizer of this package or of Keras by its name, or `MODULE:NAME`."""
    if ":" in name:
        return found(name)
    for place in (keras_gradopt.optimizers, keras.optimizers):
        if hasattr(place, name):
            return getattr(place, name)
    known = [*keras_gradopt.optimizers.__all__]
    raise ValueError(
        f"unknown optimizer {name!r}: one of keras.optimizers, or {', '.join(known)}, "
        "or MODULE:NAME"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    make = argparse.ArgumentParser(
        prog="python -m keras_gradopt.comparison",
        description="Compares optimizers on a task of yours. Goes on where it was.",
    )
    make.add_argument("task", help="FILE.py:NAME or MODULE:NAME of a Task")
    make.add_argument(
        "--optimizers", nargs="+", required=True, metavar="O",
        help="of keras_gradopt, of keras.optimizers, or MODULE:NAME",
    )  # fmt: skip
    make.add_argument("--baseline", default="Adam", metavar="O")
    make.add_argument("--folder", type=Path, help="default: runs/ and the task's name")
    make.add_argument("--seeds", nargs="+", type=int, default=list(range(11, 21)))
    make.add_argument("--tuning-seeds", nargs="+", type=int, default=[1, 2, 3])
    make.add_argument("--measure", default="test_loss")
    make.add_argument("--mode", default="auto", choices=["auto", "min", "max"])
    make.add_argument("--margin", default="2%", help='a number, or per cent: "2%%"')
    make.add_argument("--test", choices=["sign-flip", "t", "corrected-t"])
    make.add_argument("--grid", nargs=2, type=float, default=[3e-4, 1e-1])
    make.add_argument("--coarse", action="store_true", help="no quarter-decades")
    make.add_argument("--no-controls", action="store_true")
    make.add_argument("--workers", type=int, help="local processes; 0: this one")
    make.add_argument("--quiet", action="store_true", help="no progress")
    make.add_argument("--collect", action="store_true", help="run nothing")
    return make


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, compares, prints the table."""
    make = parser()
    args = make.parse_args(arguments)
    try:
        task = found(args.task)
        if not isinstance(task, Task):
            raise ValueError(f"{args.task!r} is a {type(task).__name__}, not a Task")
        folder = args.folder or Path("runs") / task.name.replace(" ", "-")
        if args.collect:
            results = Results.load(folder)
        else:
            names = list(dict.fromkeys([args.baseline, *args.optimizers]))
            ends = [name.rpartition(":")[2] for name in names]
            if len({*ends}) < len(ends):
                raise ValueError(
                    f"two of {', '.join(names)} have the same name: rename one"
                )
            margin = args.margin if "%" in args.margin else float(args.margin)
            results = compare(
                task,
                dict(zip(ends, map(optimizer, names))),
                baseline=ends[0],
                folder=folder,
                seeds=args.seeds,
                tuning_seeds=args.tuning_seeds,
                measure=args.measure,
                mode=args.mode,
                margin=margin,
                test=args.test,
                grid=tuple(args.grid),
                refine=not args.coarse,
                controls=not args.no_controls,
                workers=args.workers,
                progress=not args.quiet,
            )
        text = results.table()
        (folder / PAGE).write_text(text, encoding="utf-8")
        results.plot(folder / PICTURE)
    except (ValueError, ComparisonError, ImportError) as error:
        make.exit(2, f"{make.prog}: error: {error}\n")
    print(f"{text}\nIn {folder}: {PAGE}, {PICTURE}, runs.csv, declaration.json")


if __name__ == "__main__":
    main()
