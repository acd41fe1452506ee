"""The page of the study on optimizers: verdicts, and tables."""

import functools
import math
from typing import Any

import numpy as np
from optimizers_entries import CONTROL, ENTRIES, EXPLORATORY, left_out
from optimizers_tasks import TITLES

from keras_gradopt.comparison import Results, Verdict, statistics, tables

NEVER_RUN = set(left_out(max(entry.turn for entry in ENTRIES.values())))
TARGET = 1.05  # times the validation loss that tuned Adam ends at


class Study:
    """The rows of the study, and a verdict for each comparison.

    Other than a comparison's own, families go over all tasks.

    Args:
        results: Of the comparison.

    Attributes:
        results: The same.
        tasks: Names of the tasks that something was reported on.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.plan = results, results.plan
        self.tasks = [task for task in results.tasks if results.optimizers(task)]

    def wanted(self, family: str) -> list[tuple[str, str, str]]:
        """What is compared: task, optimizer, other."""
        return [
            (task, ours, other)
            for ours, other in self.plan.families[family]
            for task in self.results.tasks
            if (task, ours) not in NEVER_RUN
        ]

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """Of all families, of what was run; Holm's correction but in exploratory."""
        found = []
        for family in self.plan.families:
            found += self._family(family)
        return found

    def _family(self, family: str) -> list[Verdict]:
        wanted = self.wanted(family)
        explores = family == EXPLORATORY
        tests = 1 if explores else len(wanted)
        rows = []
        for task, *pair in wanted:
            mine, theirs = (self.results.values(task, name) for name in pair)
            if len(mine) == len(theirs) == len(self.plan.seeds):
                rows.append(self._compare(family, task, pair, mine, theirs, tests))
        if explores:
            return rows
        missing = [1.0] * (len(wanted) - len(rows))  # as if nothing came of them
        p, p_equivalent = (
            statistics.holm([getattr(row, name) for row in rows] + missing)
            for name in ("p", "p_equivalent")
        )
        corrected = [
            Verdict(**{**vars(row), "p": a, "p_equivalent": b})
            for row, a, b in zip(rows, p, p_equivalent)
        ]
        return [
            Verdict(**{**vars(row), "verdict": self.results.word(row)})
            for row in corrected
        ]

    def _compare(self, family, task, pair, mine, theirs, tests) -> Verdict:
        scale = float(theirs.mean())
        margin = self.plan.margin * scale if math.isfinite(scale) else 0.0
        found = statistics.paired(
            mine.tolist(), theirs.tolist(), test=self.plan.test, margin=margin,
            level=self.plan.level / tests,
        )  # fmt: skip
        about = {k: v for k, v in vars(found).items() if k != "std"}
        share = found.mean / scale
        return Verdict(
            task, family, *pair, verdict="", share=share, margin=margin, **about
        )

    def missing(self) -> list[tuple[str, str, str]]:
        """Comparisons whose runs are not all there: task, optimizer, other."""
        there = {(v.task, v.optimizer, v.other) for v in self.verdicts}
        wanted = [row for family in self.plan.families for row in self.wanted(family)]
        return [row for row in wanted if row not in there]


def overview(study: Study) -> str:
    """The primary families, in per cent of the other's loss."""
    parts = []
    for family in study.plan.families:
        if family != EXPLORATORY:
            parts.append(family_table(study, family))
    return "\n\n".join(parts)


def family_table(study: Study, family: str) -> str:
    """A line a comparison, a column a task."""
    header = ["difference, %", *(TITLES[task] for task in study.tasks)]
    found = {(v.task, v.optimizer, v.other): v for v in study.verdicts}
    lines = []
    for ours, other in study.plan.families[family]:
        cells = [
            cell(found.get((task, ours, other)), (task, ours)) for task in study.tasks
        ]
        lines.append([f"{ours} - {other}", *cells])
    return tables.table(header, lines)


def cell(verdict: Verdict | None, run: tuple[str, str]) -> str:
    """A comparison in a few signs."""
    if verdict is None:
        return "" if run in NEVER_RUN else "not run"
    if verdict.diverged:
        text = f"{verdict.diverged} of {verdict.count} diverged"
    else:
        text = f"{100 * verdict.share:+.1f}"
    words = verdict.verdict
    return f"**{text} {words}**" if words not in ("", "undecided") else text


def report(study: Study, sessions: list[dict[str, Any]]) -> str:
    """All tables, as a page."""
    return overview(study)
