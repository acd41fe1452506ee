"""The conformance kit over optimizers of others; writes docs/conformance.csv and .md.

Keras' own need nothing more. The others:

    pip install --no-deps zengrad-tensorflow==0.1.1 tf-extra==1.2.2
    git clone https://github.com/NoteDance/optimizers notedance
    git -C notedance checkout 68c03d09
    PYTHONPATH=notedance python benchmarks/conformance.py

An optimizer that cannot be imported is left out, and said. `--page` writes the page
again from the CSV file.
"""

import argparse
import csv
import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_gradopt.testing import CHECKS, checks

DOCS = Path(__file__).parent.parent / "docs"
CSV, PAGE = DOCS / "conformance.csv", DOCS / "conformance.md"
COLUMNS = ["source", "optimizer", "check", "status", "saw", "seconds"]
NOT_MADE = "constructor"  # in the place of a check
k = keras.optimizers
KERAS = f"Keras {keras.__version__}"
NOTEDANCE = "NoteDance/optimizers 68c03d0"
OWN = ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"]
OWN += ["Nadam", "Ftrl", "Lion", "Lamb", "Muon"]


def momentum() -> keras.optimizers.Optimizer:
    """SGD with momentum."""
    return k.SGD(0.01, momentum=0.9)


def made_of(module: str, name: str, *arguments: Callable, **keywords: Any) -> Callable:
    """A factory of a class that is imported when it is called."""

    def make() -> Any:
        cls = getattr(importlib.import_module(module), name)
        return cls(*(argument() for argument in arguments), **keywords)

    return make


def multi() -> Any:
    """tf-extra's wrapper: one optimizer for a layer, another for all else."""
    cls = importlib.import_module("tf_extra.optimizers").MultiOptimizer
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    return cls([(k.Adam(0.01), layer)], fallback_optimizer=k.Adam(0.001))


def lookahead() -> Any:
    """As its own `apply_gradients` leaves it; without, `fit` and `apply` raise."""
    made = made_of("optimizers.lookahead", "Lookahead", momentum)()
    made.tape = made.loss = None
    return made


def optimizers() -> list[tuple[str, str, Callable, Callable | None]]:
    """Source, name, factory, base."""
    rows: list[tuple[str, str, Callable, Callable | None]] = [
        (KERAS, name, getattr(k, name), None) for name in OWN if hasattr(k, name)
    ]
    rows += [
        ("zengrad-tensorflow 0.1.1", "ZenGrad",
         made_of("zengrad_tensorflow", "ZenGrad", weight_decay=0.0), momentum),
        ("tf-extra 1.2.2", "MultiOptimizer", multi, None),
    ]  # fmt: skip
    for name, base in {
        "AdaBelief": k.Adam,
        "AdaNorm": k.Adam,
        "DiffGrad": k.Adam,
        "RAdam": k.Adam,
        "AdEMAMix": k.Adam,
    }.items():
        rows.append(
            (NOTEDANCE, name, made_of(f"optimizers.{name.lower()}", name), base)
        )
    return [*rows, (NOTEDANCE, "Lookahead", lookahead, momentum)]


def run(writer: Any, file: Any) -> None:
    """All checks of all optimizers, a row each, as they come."""
    rows = optimizers()
    for number, (source, name, make, base) in enumerate(rows, 1):
        print(f"{number}/{len(rows)} {source}: {name}", end=" ", flush=True)
        made = checks(make, base=base, strict=True)
        try:
            make()
        except ImportError as error:
            print(f"left out: {error}")
            continue
        except Exception as error:  # an outcome, too
            saw = f"{type(error).__name__}: {error}"
            writer.writerow([source, name, NOT_MADE, "failed", saw, ""])
            print(f"cannot be made: {error}")
            continue
        seconds, failed = 0.0, []
        for check in made:
            o = check.outcome()
            seconds += o.seconds
            failed += [check.name] * (o.status == "failed")
            saw = " ".join(o.saw.split()).partition(" Detected at node")[0]
            writer.writerow(
                [source, name, check.name, o.status, saw, f"{o.seconds:.1f}"]
            )
            file.flush()
        print(f"{seconds:.0f} s, failed: {', '.join(failed) or 'nothing'}")


HEAD = """# The kit on optimizers of others

[The conformance kit](guide/check.md) on all of Keras' own optimizers and on some that
others have published, as they come and with their defaults (but for what the kit sets).
Not a ranking: a check that fails says what a user cannot rely on. All numbers are in
[conformance.csv](conformance.csv).

Failures that are linked are Keras' own ([notes on Keras](keras-notes.md), each with ten
lines that show it); every optimizer inherits them that does not do better. The others
follow their table, with what the check saw. Some are properties and no faults: Ftrl
computes weights from sums of gradients and not from the weights before, Muon has a
weight decay of its own for some variables, Adafactor has slots that it needs for
matrices only.

The worst is the last: a Lookahead that differs from its inner optimizer by nothing, in
any step. Checks that the loss falls pass.
"""


def page() -> None:
    """docs/conformance.md, from docs/conformance.csv."""
    with CSV.open() as file:
        note = file.readline().strip("# \n")
        rows = list(csv.DictReader(file))
    lines = [HEAD, note, ""]
    for source in dict.fromkeys(row["source"] for row in rows):
        lines += [
            f"## {source}",
            "",
            "| optimizer | passed | failed |",
            "|---|---|---|",
        ]
        of_source = [row for row in rows if row["source"] == source]
        for name in dict.fromkeys(row["optimizer"] for row in of_source):
            own = [row for row in of_source if row["optimizer"] == name]
            tried = [row for row in own if row["status"] != "skipped"]
            failed = [row for row in tried if row["status"] == "failed"]
            passed = f"{len(tried) - len(failed)} of {len(tried)}"
            links = ", ".join(map(linked, failed)) or "-"
            lines.append(f"| {name} | {passed} | {links} |")
        lines.append("")
        lines += reasons(of_source)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def fault_of_keras(row: dict[str, str]) -> str | None:
    """The section of the notes on Keras, of a check that Keras' Adam fails, too."""
    if row["check"] == NOT_MADE or row["saw"].startswith("raised"):
        return None
    return CHECKS[row["check"]].keras_fault


def linked(row: dict[str, str]) -> str:
    """A check's name, with a link to the fault of Keras if it is one."""
    name, fault = row["check"], fault_of_keras(row)
    return f"[`{name}`](keras-notes.md#{fault})" if fault else f"`{name}`"


def reasons(rows: list[dict[str, str]]) -> list[str]:
    """What was seen where a check failed that Keras' Adam passes, each once."""
    checks_of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] == "failed" and not fault_of_keras(row):
            saw = row["saw"].replace("|", "/").replace("\x1b[1m", "")[:200]
            checks_of.setdefault((row["optimizer"], saw), []).append(row["check"])
    lines = [
        f"- {optimizer}, {', '.join(f'`{name}`' for name in names)}: {saw}"
        for (optimizer, saw), names in checks_of.items()
    ]
    return [*lines, ""] if lines else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    if not args.page:
        with CSV.open("w", newline="") as file:
            backend = keras.backend.backend()
            versions = f"{KERAS}, {backend} {version(backend)}"
            python = ".".join(map(str, sys.version_info[:3]))
            command = "python benchmarks/conformance.py"
            file.write(f"# {versions}, Python {python}, CPU; `{command}`\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            run(writer, file)
    page()


if __name__ == "__main__":
    main()
