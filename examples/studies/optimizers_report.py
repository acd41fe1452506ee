"""The page of the study on optimizers: verdicts, and tables."""

import functools
import math

import numpy as np
from optimizers_entries import CONTROL, EXPLORATORY, LAST_TURN, left_out
from optimizers_tasks import TITLES

from keras_gradopt.comparison import (
    Results,
    Verdict,
    scheduling,
    statistics,
    tables,
)

NEVER_RUN = set(left_out(LAST_TURN))
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

    def missing(self) -> dict[str, list[str]]:
        """The tasks on which runs of a comparison are still to be made."""
        there = {(v.task, v.optimizer, v.other) for v in self.verdicts}
        found: dict[str, list[str]] = {}
        for family in self.plan.families:
            for task, ours, other in self.wanted(family):
                if (task, ours, other) not in there:
                    found.setdefault(f"{ours} - {other}", []).append(TITLES[task])
        return found


def overview(study: Study) -> str:
    """The primary families, in per cent of the other's loss."""
    families = [f for f in study.plan.families if f != EXPLORATORY]
    return "\n\n".join(family_table(study, family) for family in families)


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


def in_short(study: Study, family: str) -> str:
    """A sentence a comparison: on which tasks it has which verdict."""
    found = {(v.task, v.optimizer, v.other): v.verdict for v in study.verdicts}
    lines = []
    for ours, other in study.plan.families[family]:
        words: dict[str, list[str]] = {}
        for row in study.wanted(family):
            if row[1:] == (ours, other):
                words.setdefault(found.get(row, "not run"), []).append(TITLES[row[0]])
        parts = [f"{word} on {', '.join(tasks)}" for word, tasks in words.items()]
        lines.append(f"- **{ours} - {other}**: {'; '.join(parts)}.")
    return "\n".join(lines)


def cell(verdict: Verdict | None, run: tuple[str, str]) -> str:
    """A comparison in a few signs."""
    if verdict is None:
        return "" if run in NEVER_RUN else "not run"
    text = percent(verdict, verdict.mean)
    words = verdict.verdict
    return f"**{text} {words}**" if words not in ("", "undecided") else text


def percent(verdict: Verdict, value: float) -> str:
    """A difference in per cent of the other's mean."""
    if verdict.diverged:
        return f"{verdict.diverged} of {verdict.count} diverged"
    return f"{100 * value * verdict.share / verdict.mean:+.1f}" if value else "0.0"


def details(study: Study, family: str) -> str:
    """A line a comparison of a task: interval, p, what could have been seen."""
    header = ["task", "comparison", "difference, %", "95 % interval", "p"]
    if family != EXPLORATORY:
        header += ["p of equivalence", "detectable, %", "verdict"]
    rows = []
    for row in (v for v in study.verdicts if v.family == family):
        cells = [TITLES[row.task], f"{row.optimizer} - {row.other}"]
        if row.diverged:
            cells += [percent(row, row.mean), ""]
        else:
            low, high = percent(row, row.low), percent(row, row.high)
            cells += [percent(row, row.mean), f"{low} to {high}"]
        cells.append(f"{row.p:.4f}")
        if family != EXPLORATORY:
            seen = "" if row.diverged else percent(row, row.detectable).strip("+-")
            cells += [f"{row.p_equivalent:.4f}", seen, f"**{row.verdict}**"]
        rows.append(cells)
    return tables.table(header, rows)


def target(study: Study, task: str) -> float:
    """The validation loss that tuned Adam ends at in the search, plus 5 %."""
    ((_, losses),) = study.results.sensitivity(task, "Adam").values()
    return TARGET * min(losses)


def epochs_to_target(study: Study, task: str, name: str) -> np.ndarray:
    """Epochs until the target, for each run; infinite if it was missed."""
    limit, found = target(study, task), []
    for losses in curves(study, task, name):
        reached = np.flatnonzero(losses <= limit)
        found.append(reached[0] + 1 if len(reached) else math.inf)
    return np.array(found)


def rising(study: Study, task: str, name: str) -> float:
    """The share of epochs that raise the validation loss."""
    return float(np.mean([np.diff(c) > 0 for c in curves(study, task, name)]))


def curves(study: Study, task: str, name: str) -> list[np.ndarray]:
    """The validation losses of each run, by epoch."""
    runs = study.results.runs(task, name)
    return [np.array(run["validation_losses"].split(), float) for run in runs]


def outcomes(study: Study, task: str) -> str:
    """A line an optimizer: its rate, and what came out."""
    results, digits = study.results, tables.digits
    classifies = bool(results.declaration.made["tasks"][task]["metrics"])
    header = ["optimizer", "rate", "test loss, mean ± std", "train loss"]
    header += ["accuracy, %"] * classifies
    rows = []
    for name in results.optimizers(task):
        loss, train = (
            results.values(task, name, f"{part}_loss") for part in ("test", "train")
        )
        run = results.runs(task, name)[0]
        rate = f"{float(run['learning_rate']):g}"
        if run["arguments"]:
            rate += f", {scheduling.arguments_text(run['arguments'])}"
        spread = digits(loss.std(ddof=1)) if len(loss) > 1 else ""
        cells = [name, rate, f"{digits(loss.mean())} ± {spread}", digits(train.mean())]
        if classifies:
            accuracy = 100 * results.values(task, name, "test_accuracy")
            cells.append(f"{accuracy.mean():.2f}")
        epochs = epochs_to_target(study, task, name)
        reached = int(np.isfinite(epochs).sum())
        flags = [
            flag
            for stage in ("report", "tuning")
            for flag in results.values(task, name, "diverged", stage)
        ]
        cells += [
            f"{np.median(epochs):g} ({reached} of {len(epochs)})",
            f"{rising(study, task, name):.0%}",
            f"{int(sum(flags))} of {len(flags)}",
        ]
        rows.append(cells)
    return tables.table([*header, "epochs to target", "rising", "diverged"], rows)


def report(study: Study, made_at: str) -> str:
    """All tables, as a page.

    Args:
        study: With all rows.
        made_at: Which commit made which rows.
    """
    count, plan = len(study.results.rows), study.plan
    made = study.results.declaration.made
    page = [
        "# The comparison in numbers",
        f"Written by `examples/studies/optimizers.py --collect` from the {count:,} "
        "rows of `runs.csv`, as the [plan](plan.md) declares; what follows from the "
        "numbers is in the [study](../../study.md). Rows of the file: "
        f"{made_at} ({made['backend']}, {made['device']}).",
        "Test losses, paired differences in per cent of the other's. Primary families "
        "first: **better**, **worse** and **equivalent** (within 2 %) after Holm's "
        "correction over the tasks of the family; no word: undecided. No cell: the "
        "network has no convolution kernels.",
    ]
    missing = study.missing()
    if missing:
        lines = [f"- {names}: {'; '.join(tasks)}" for names, tasks in missing.items()]
        page.append("\n".join(["**Still to be run**:", "", *lines]))
    page.append("![Differences with intervals](differences.png)")
    for family in plan.families:
        if family == EXPLORATORY:
            page += [
                "## Exploratory",
                "No verdicts: p is not corrected, and of "
                f"{len(study.wanted(family))} comparisons one in twenty is below 0.05 "
                "by chance.",
            ]
        else:
            page += [
                f"## {family.capitalize() if family == CONTROL else family}",
                f"Holm's correction for {len(study.wanted(family))} comparisons. "
                "*Detectable* is found four times of five at Holm's first step, with "
                "differences as scattered as these.",
            ]
            page.append(in_short(study, family))
        page += [family_table(study, family), details(study, family)]
    page += [
        "## Learning rates",
        "![Validation loss over learning rates](sensitivity.png)",
    ]
    for task in study.tasks:
        page += [
            f"## {TITLES[task]}",
            f"{tables.about(study.results, task)} "
            f"Target: a validation loss of {tables.digits(target(study, task))}, what "
            "Adam ends at in the search and 5 % more. `rising`: the share of epochs "
            "that raise the validation loss.",
            outcomes(study, task),
        ]
    return "\n\n".join(page) + "\n"
