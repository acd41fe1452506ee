"""The page of the study on optimizers: statistics of its rows, and tables.

It judges by the rules of its first runs: the sign-flip test, Holm's correction in two
families a task, and a percentile bootstrap interval that excludes 0.
"""

import math
from typing import Any

import numpy as np
from optimizers_entries import ENTRIES
from optimizers_tasks import TASKS, TITLES, classifies, has_kernels

from keras_gradopt.comparison import statistics

"""
## Statistics
"""


def paired(ours: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Mean difference, bootstrap interval, and p of the sign-flip test.

    Args:
        ours: One value for each seed.
        others: The same for another optimizer.
    """
    difference = np.asarray(ours) - np.asarray(others)
    if not np.isfinite(difference).all():
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "p": 1.0}
    low, high = statistics.bootstrap_interval(difference)
    return {
        "mean": float(difference.mean()), "low": low, "high": high,
        "p": statistics.flipped(difference),
    }  # fmt: skip


def verdict(found: dict[str, float], p: float, lower_is_better: bool = True) -> str:
    """In words, by the rule above."""
    if math.isnan(found["mean"]):
        return "diverged"
    if p >= 0.05 or found["low"] <= 0 <= found["high"]:
        return "no detectable difference"
    return "better" if (found["mean"] < 0) == lower_is_better else "worse"


class Results:
    """All rows of a comparison.

    Args:
        rows: As dictionaries of text, from one or more CSV files.
    """

    def __init__(self, rows: list[dict[str, str]]):
        self.rows = rows
        self.workloads = [w for w in TASKS if any(r["workload"] == w for r in rows)]

    def optimizers(self, workload: str) -> list[str]:
        """Those with a report on this workload."""
        there = {
            r["optimizer"]
            for r in self.rows
            if (r["workload"], r["stage"]) == (workload, "report")
        }
        return [name for name in ENTRIES if name in there]

    def runs(self, workload, optimizer, stage="report") -> list[dict[str, str]]:
        """The rows of an optimizer, in the order of seeds."""
        wanted = (workload, optimizer, stage)
        keys = ("workload", "optimizer", "stage")
        found = [r for r in self.rows if tuple(r[key] for key in keys) == wanted]
        return sorted(found, key=lambda r: int(r["seed"]))

    def column(self, workload, optimizer, name, stage="report") -> np.ndarray:
        """One value for each run, in the order of seeds."""
        return np.array([float(r[name]) for r in self.runs(workload, optimizer, stage)])

    def rate(self, workload, optimizer) -> float:
        """The learning rate that was reported on."""
        return self.column(workload, optimizer, "learning_rate")[0]

    def sensitivity(self, workload, optimizer) -> tuple[list[float], list[float]]:
        """Learning rates, and the mean validation loss at each."""
        found: dict[float, list[float]] = {}
        for r in self.runs(workload, optimizer, "tuning"):
            rate = float(r["learning_rate"])
            found.setdefault(rate, []).append(float(r["validation_loss"]))
        rates = sorted(found)
        return rates, [float(np.mean(found[rate])) for rate in rates]

    def target(self, workload) -> float:
        """The validation loss that tuned Adam ends at in the search, plus 5 %."""
        _, losses = self.sensitivity(workload, "Adam")
        return 1.05 * min(losses) if losses else math.nan

    def epochs_to_target(self, workload, optimizer) -> np.ndarray:
        """Epochs until the target, for each run; infinite if it was missed."""
        target, found = self.target(workload), []
        for r in self.runs(workload, optimizer):
            losses = np.array(r["validation_losses"].split(), float)
            reached = np.flatnonzero(losses <= target)
            found.append(reached[0] + 1 if len(reached) else math.inf)
        return np.array(found)

    def rising(self, workload, optimizer) -> np.ndarray:
        """The share of epochs that raise the validation loss, for each run."""
        rises = []
        for r in self.runs(workload, optimizer):
            losses = np.array(r["validation_losses"].split(), float)
            rises.append(np.mean(np.diff(losses) > 0))
        return np.array(rises)

    def spread(self, workload, optimizer, other) -> tuple[float, float]:
        """Ratio of the standard deviations of test losses, and its p.

        Of the permutation test that swaps the two within pairs, each about its median.
        """
        from scipy import stats

        def log_ratio(a, b, axis=-1):
            return np.log(a.std(ddof=1, axis=axis) / b.std(ddof=1, axis=axis))

        a, b = (self.column(workload, o, "test_loss") for o in (optimizer, other))
        if not np.isfinite([*a, *b]).all() or np.ptp(a - b) == 0:
            return math.nan, 1.0
        a, b = a - np.median(a), b - np.median(b)
        test = stats.permutation_test(
            (a, b), log_ratio, permutation_type="samples", n_resamples=np.inf
        )
        return float(np.exp(test.statistic)), float(test.pvalue)

    def comparisons(self, workload, measure="test_loss") -> list[dict[str, Any]]:
        """With Adam, and with others; Holm's correction within each of the two."""
        names, found = self.optimizers(workload), []
        for with_adam in (True, False):
            family = []
            for name in names:
                for other in ENTRIES[name].against:
                    if other not in names or (other == "Adam") != with_adam:
                        continue
                    mine = self.column(workload, name, measure)
                    theirs = self.column(workload, other, measure)
                    if len(mine) == len(theirs):
                        pair = {"optimizer": name, "against": other}
                        family.append(pair | paired(mine, theirs))
            for row, p in zip(family, statistics.holm([row["p"] for row in family])):
                words = verdict(row, p, measure != "test_accuracy")
                found.append(row | {"corrected_p": p, "verdict": words})
        return found


def number(value: float) -> str:
    """With what digits matter."""
    return f"{value:.4g}"


def table(results: Results, workload: str) -> str:
    """One workload in Markdown."""
    with_accuracy = classifies(workload)
    header = ["optimizer", "rate", "test loss, mean ± std", "median"]
    header += ["accuracy"] * with_accuracy
    header += ["epochs to target", "rising", "diverged", "ms/step"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in results.optimizers(workload):

        def column(field, name=name):
            return results.column(workload, name, field)

        loss, epochs = column("test_loss"), results.epochs_to_target(workload, name)
        tuning = results.column(workload, name, "diverged", "tuning")
        runs = np.concatenate([column("diverged"), tuning])
        accuracy = f" {column('test_accuracy').mean():.2%} |" if with_accuracy else ""
        reached = int(np.isfinite(epochs).sum())
        lines.append(
            f"| {name} | {results.rate(workload, name):g} | {number(loss.mean())} ± "
            f"{number(loss.std(ddof=1))} | {number(np.median(loss))} |{accuracy} "
            f"{np.median(epochs):g} ({reached} of {len(epochs)}) | "
            f"{results.rising(workload, name).mean():.0%} | "
            f"{int(runs.sum())} of {len(runs)} | "
            f"{np.median(column('ms_per_step')):.2f} |"
        )
    return "\n".join(lines)


def comparison_table(results: Results, workload: str, measure="test_loss") -> str:
    """The differences of one workload in Markdown."""
    lines = [
        "| optimizer | against | difference | 95 % interval | p | Holm | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results.comparisons(workload, measure):
        lines.append(
            f"| {row['optimizer']} | {row['against']} | {row['mean']:+.3g} | "
            f"{row['low']:+.3g} to {row['high']:+.3g} | {row['p']:.3f} | "
            f"{row['corrected_p']:.3f} | {row['verdict']} |"
        )
    return "\n".join(lines)


def overview(results: Results, measure="test_loss") -> str:
    """All comparisons in one table: the difference in per cent, bold if detected."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    for workload in results.workloads:
        for row in results.comparisons(workload, measure):
            other = results.column(workload, row["against"], measure).mean()
            text = f"{100 * row['mean'] / other:+.1f}"
            if row["verdict"] == "diverged":
                text = "diverged"
            elif row["verdict"] != "no detectable difference":
                text = f"**{text} {row['verdict']}**"
            cells = columns.setdefault((row["optimizer"], row["against"]), {})
            cells[workload] = text
    titles = [TITLES[workload] for workload in results.workloads]
    lines = [f"| optimizer | against | {' | '.join(titles)} |"]
    lines.append("|---" * (2 + len(titles)) + "|")
    for names, cells in columns.items():
        found = [cells.get(workload, "") for workload in results.workloads]
        lines.append(f"| {' | '.join([*names, *found])} |")
    return "\n".join(lines)


CLAIM_SMALL_SPREAD = ("AngularGrad", "AngularGrad tan")


def spreads(results: Results) -> str:
    """The spread over seeds of the methods that claim a smaller one."""
    rows = []
    for workload in results.workloads:
        for name in (*CLAIM_SMALL_SPREAD, "Adam again"):
            if name in results.optimizers(workload):
                ratio, p = results.spread(workload, name, "Adam")
                rows.append((TITLES[workload], name, ratio, p))
    lines = ["| workload | optimizer | std / Adam's | p | Holm |", "|---" * 5 + "|"]
    for (title, name, ratio, p), holm in zip(
        rows, statistics.holm([r[-1] for r in rows])
    ):
        lines.append(f"| {title} | {name} | {ratio:.2f} | {p:.3f} | {holm:.3f} |")
    return "\n".join(lines)


def smoothness(results: Results) -> str:
    """How often the validation loss rises, of methods that claim smoother curves."""
    lines = ["| workload | optimizer | base | rising | of base | interval | p |"]
    lines.append("|---" * 7 + "|")
    for workload in results.workloads:
        for name in results.optimizers(workload):
            if ENTRIES[name].needs_kernels or name in CLAIM_SMALL_SPREAD:
                base = ENTRIES[name].against[-1]
                mine, theirs = (results.rising(workload, o) for o in (name, base))
                found = paired(mine, theirs)
                lines.append(
                    f"| {TITLES[workload]} | {name} | {base} | "
                    f"{mine.mean():.1%} | {theirs.mean():.1%} | {found['low']:+.1%} "
                    f"to {found['high']:+.1%} | {found['p']:.3f} |"
                )
    return "\n".join(lines)


def unfinished(results: Results, workloads, optimizers, seeds) -> str:
    """Which optimizers have not all of their reports, by workload."""
    lines = []
    for workload in workloads:
        names = [
            name
            for name in optimizers
            if (has_kernels(workload) or not ENTRIES[name].needs_kernels)
            and len(results.column(workload, name, "seed")) < len(seeds)
        ]
        if names:
            lines.append(f"- {TITLES[workload]}: {'; '.join(names)}")
    return "\n".join(["**Unfinished.** Still to be run:\n", *lines]) if lines else ""


def report(results: Results, still: str = "") -> str:
    """All tables, as a page.

    Args:
        results: All rows.
        still: What is still to be run.
    """
    count = len(results.rows)
    page = [
        "# The comparison in numbers",
        "Written by `examples/studies/optimizers.py` from the "
        f"{count:,} runs in `runs.csv`. The protocol is in its first lines; what "
        "follows from the numbers is in the "
        "[study](../../study.md).",
        *([still] if still else []),
        "Test losses, paired differences in per cent of the other's; bold where Holm's "
        "p is below 0.05 and the interval excludes 0 (a percentile bootstrap; of ten "
        "normal values it covers 90 %, not 95, in simulation). No cell: not run, as "
        "the network has no convolution kernels.",
        overview(results),
        "![Differences with intervals](differences.png)",
        "The same of test accuracies:",
        overview(
            Results([r for r in results.rows if r["test_accuracy"] != ""]),
            "test_accuracy",
        ),
        "## Learning rates",
        "![Validation loss over learning rates](sensitivity.png)",
        "## Spread over seeds",
        "Standard deviation of test losses to Adam's, p of the permutation test within "
        "pairs, and Holm's over the table. A seed also draws who is in the test part.",
        spreads(results),
        "## Smoothness of curves",
        "The share of epochs that raise the validation loss, with that of the base; "
        "interval and p of the difference, not corrected.",
        smoothness(results),
    ]
    for workload in results.workloads:
        page += [
            f"## {TITLES[workload]}",
            f"Target: a validation loss of {number(results.target(workload))}. "
            "`rising`: the share of epochs that raise the validation loss.",
            table(results, workload),
            comparison_table(results, workload),
        ]
        if classifies(workload):
            page += ["Of test accuracy:"]
            page += [comparison_table(results, workload, "test_accuracy")]
    return "\n\n".join(page) + "\n"
