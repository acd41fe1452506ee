"""What pages of the site say from the rows of the study on optimizers.

A page has such a sentence, or table, between two comments; `--collect` writes it anew:

    than Adam's <!--rows: difference AdaL - Adam-->worse on ...<!--/rows-->
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from optimizers_entries import EXPLORATORY
from optimizers_report import (
    Study,
    epochs_to_target,
    family_table,
    in_short,
    percent,
    rising,
)
from optimizers_tasks import TITLES

from keras_gradopt.comparison import Verdict, tables

DOCS = Path(__file__).parents[2] / "docs"
MARK = re.compile(r"(<!--rows: (\w+) (.*?)-->)(.*?)(<!--/rows-->)", re.S)


def of(study: Study, names: str) -> list[Verdict]:
    """The verdicts of a comparison, by task.

    Raises:
        KeyError: If none is declared.
    """
    declared = {f"{a} - {b}" for of in study.plan.families.values() for a, b in of}
    if names not in declared:
        raise KeyError(f"no comparison {names!r} is declared")
    return [v for v in study.verdicts if f"{v.optimizer} - {v.other}" == names]


def tasks_of(study: Study, *names: str) -> list[str]:
    """The tasks that all of these were reported on."""
    there = study.results.optimizers
    return [task for task in study.tasks if {*names} <= {*there(task)}]


def interval(verdict: Verdict) -> str:
    low, high = (percent(verdict, v) for v in (verdict.low, verdict.high))
    return f"{low} to {high} %"


def difference(study: Study, names: str) -> str:
    """Verdicts with differences; of exploratory comparisons, intervals."""
    found = of(study, names)
    if not found:
        return "not run"
    if found[0].family == EXPLORATORY:
        return "; ".join(
            f"{percent(v, v.mean)} % ({interval(v)}) on {TITLES[v.task]}" for v in found
        )
    words: dict[str, list[str]] = {}
    for v in found:
        shown = f"{TITLES[v.task]} ({percent(v, v.mean)} %)"
        words.setdefault(v.verdict, []).append(shown)
    return "; ".join(f"{word} on {', '.join(on)}" for word, on in words.items())


def intervals(study: Study, names: str) -> str:
    """Intervals alone."""
    return "; ".join(f"{interval(v)} on {TITLES[v.task]}" for v in of(study, names))


def training(study: Study, names: str) -> str:
    """Mean training losses of two."""
    mine, other = names.split(" - ")
    parts = []
    for task in tasks_of(study, mine, other):
        a, b = (
            tables.digits(study.results.values(task, name, "train_loss").mean())
            for name in (mine, other)
        )
        parts.append(f"{a} and {b} on {TITLES[task]}")
    return "; ".join(parts)


def spread(study: Study, names: str) -> str:
    """The ratios of two standard deviations of the test loss."""
    mine, other = names.split(" - ")
    ratios = [
        np.divide(*(study.results.values(t, n).std(ddof=1) for n in (mine, other)))
        for t in tasks_of(study, mine, other)
    ]
    return f"{min(ratios):.2f} to {max(ratios):.2f} of {other}'s"


def rises(study: Study, names: str) -> str:
    """Shares of epochs that raise the validation loss."""
    given = names.split(" - ")
    return "; ".join(
        f"{', '.join(f'{rising(study, task, n):.0%} with {n}' for n in given)} on "
        f"{TITLES[task]}"
        for task in tasks_of(study, *given)
    )


def epochs(study: Study, names: str) -> str:
    """Epochs to the target of two."""
    given, parts = names.split(" - "), []
    for task in tasks_of(study, *given):
        shown = []
        for name in given:
            taken = epochs_to_target(study, task, name)
            middle, reached = np.median(taken), np.isfinite(taken).sum()
            said = f"{middle:g}" if np.isfinite(middle) else "missed by half"
            shown.append(f"{name} {said} ({reached} of {len(taken)} runs)")
        parts.append(f"{', '.join(shown)} on {TITLES[task]}")
    return "; ".join(parts)


def block(make: Callable[[Study, str], str]) -> Callable[[Study, str], str]:
    return lambda study, names: f"\n\n{make(study, names)}\n\n"


KINDS: dict[str, Callable[[Study, str], str]] = {
    "difference": difference,
    "intervals": intervals,
    "training": training,
    "spread": spread,
    "rises": rises,
    "epochs": epochs,
    "table": block(family_table),
    "short": block(in_short),
}


def filled(text: str, study: Study) -> str:
    """A page's text with what the rows say now.

    Raises:
        KeyError: If the text asks for what there is not.
    """
    return MARK.sub(lambda m: m[1] + KINDS[m[2]](study, m[3]) + m[5], text)


def pages() -> list[Path]:
    """The pages that have such sentences."""
    return [
        path for path in sorted(DOCS.rglob("*.md")) if MARK.search(path.read_text())
    ]


def write(study: Study) -> None:
    """Writes them."""
    for path in pages():
        path.write_text(filled(path.read_text(), study))
