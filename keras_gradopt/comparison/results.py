"""What came out: values by seed, verdicts, tables."""

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from keras_gradopt.comparison import statistics
from keras_gradopt.comparison.files import (
    DECLARATION,
    RUNS,
    ComparisonError,
    Row,
    read_rows,
)
from keras_gradopt.comparison.plans import Declaration
from keras_gradopt.comparison.scheduling import arguments_text


@dataclass(frozen=True)
class Verdict:
    """What a comparison of two optimizers says.

    Attributes:
        task: Its name.
        family: That Holm's correction is made in.
        optimizer: The one that the verdict is on.
        other: What it is compared with.
        verdict: `"better"`, `"worse"`, `"equivalent"` or `"undecided"`; or the first or
            second and `"but equivalent"`: there is a difference, within the margin.
        mean: Of the paired differences; NaN if a run diverged.
        low: Of their 95 % interval.
        high: Of the same.
        share: The mean as a share of the other's mean.
        p: Of no difference, after Holm's correction.
        p_equivalent: Of a difference not within the margin, after Holm's correction.
        margin: In units of the measure.
        detectable: The smallest effect that this many seeds with these differences find
            four times of five.
        count: Seeds.
        diverged: Seeds in which one of the two diverged.
    """

    task: str
    family: str
    optimizer: str
    other: str
    verdict: str
    mean: float
    low: float
    high: float
    share: float
    p: float
    p_equivalent: float
    margin: float
    detectable: float
    count: int
    diverged: int


class Results:
    """All runs of a comparison, and what follows from them.

    Args:
        rows: Of `runs.csv`.
        declaration: What was declared before the first of them.

    Attributes:
        plan: What is asked: measure, margin, families, seeds.
        rows: All runs.
    """

    def __init__(self, rows: list[Row], declaration: Declaration) -> None:
        self.declaration, self.plan = declaration, declaration.plan
        self.rows = rows
        self._runs: dict[tuple[str, str, str], list[Row]] = {}
        order = sorted(rows, key=lambda row: int(row["seed"]))
        seeds = {"report": self.plan.seeds, "tuning": self.plan.tuning_seeds}
        chosen = self.declaration.chosen
        for row in order:
            choice = row["learning_rate"], row["arguments"]
            is_of_another = row["stage"] == "report" and (  # before a change of plan
                chosen.get((row["task"], row["optimizer"]), choice) != choice
            )
            if int(row["seed"]) in seeds[row["stage"]] and not is_of_another:
                at = (row["task"], row["optimizer"], row["stage"])
                self._runs.setdefault(at, []).append(row)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Results":
        """Reads a folder that `compare` has written to.

        Args:
            folder: The one given to `compare`.

        Raises:
            ComparisonError: If there is no comparison in it, or it is damaged.
        """
        path = Path(folder)
        if not (path / DECLARATION).exists():
            raise ComparisonError(f"there is no comparison in {path}")
        runs = path / RUNS
        rows = read_rows(runs) if runs.exists() else []
        return cls(rows, Declaration(path / DECLARATION))

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the declaration."""
        return list(self.declaration.made["tasks"])

    def optimizers(self, task: str) -> list[str]:
        """Those that have been reported on."""
        known = self.declaration.made["optimizers"]
        return [name for name in known if (task, name, "report") in self._runs]

    def runs(self, task: str, optimizer: str, stage: str = "report") -> list[Row]:
        """The runs of an optimizer, in the order of seeds.

        Args:
            task: Its name.
            optimizer: Its name.
            stage: `"report"` or `"tuning"`. Defaults to `"report"`.
        """
        return self._runs.get((task, optimizer, stage), [])

    def values(
        self, task: str, optimizer: str, column: str = "", stage: str = "report"
    ) -> np.ndarray:
        """One value for each run, in the order of seeds.

        Args:
            task: Its name.
            optimizer: Its name.
            column: Of the rows. Defaults to `""`: what is compared.
            stage: `"report"` or `"tuning"`. Defaults to `"report"`.
        """
        name = column or self.plan.measure
        return np.array([float(r[name]) for r in self.runs(task, optimizer, stage)])

    def judged(self, task: str, optimizer: str) -> np.ndarray:
        """What is compared; of runs that diverged, the worst that there is.

        Args:
            task: Its name.
            optimizer: Its name.
        """
        values = self.values(task, optimizer)
        diverged = [row["diverged"] == "1" for row in self.runs(task, optimizer)]
        worst = -np.inf if self.plan.higher_is_better else np.inf
        return np.where(np.isnan(values) | np.array(diverged, bool), worst, values)

    def rate(self, task: str, optimizer: str) -> float:
        """The learning rate that was reported on.

        Args:
            task: Its name.
            optimizer: Its name.
        """
        return float(self.runs(task, optimizer)[0]["learning_rate"])

    def sensitivity(
        self, task: str, optimizer: str
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Learning rates, and the mean of what the search went by, by arguments.

        Args:
            task: Its name.
            optimizer: Its name.
        """
        found: dict[str, dict[float, list[float]]] = {}
        for row in self.runs(task, optimizer, "tuning"):
            rates = found.setdefault(arguments_text(row["arguments"]), {})
            value = np.inf if row["diverged"] == "1" else row[self.plan.tuned_by]
            rates.setdefault(float(row["learning_rate"]), []).append(float(value))
        return {
            arguments: (
                sorted(rates),
                [float(np.mean(rates[rate])) for rate in sorted(rates)],
            )
            for arguments, rates in found.items()
        }

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """A verdict for each comparison that was declared and whose runs are there."""
        found = []
        for task in self.tasks:
            for family, pairs in self.plan.families.items():
                found += self._family(task, family, pairs)
        return found

    def _family(
        self, task: str, family: str, pairs: list[tuple[str, str]]
    ) -> list[Verdict]:
        rows = []
        for ours, other in pairs:
            mine, theirs = self.judged(task, ours), self.judged(task, other)
            if len(mine) == len(theirs) == len(self.plan.seeds):
                rows.append(self._compare(task, family, (ours, other), mine, theirs))
        for name in ("p", "p_equivalent"):
            # those that are still to be run count, too: as if nothing came of them
            values = [getattr(row, name) for row in rows]
            values += [1.0] * (len(pairs) - len(rows))
            corrected = statistics.holm(values)
            for row, p in zip(rows, corrected):
                object.__setattr__(row, name, p)
        return [replace(row, verdict=self.word(row)) for row in rows]

    def _compare(
        self,
        task: str,
        family: str,
        names: tuple[str, str],
        mine: np.ndarray,
        theirs: np.ndarray,
    ) -> Verdict:
        scale = abs(float(theirs.mean()))
        margin = self.plan.margin * (scale if self.plan.margin_is_share else 1.0)
        if not np.isfinite(margin):
            margin = 0.0
        found = statistics.paired(
            mine.tolist(), theirs.tolist(), test=self.plan.test, margin=margin,
            level=self.plan.level / len(self.plan.families[family]),
            ratio=self.ratio(task),
        )  # fmt: skip
        about = asdict(found)
        del about["std"]
        share = found.mean / scale if scale else np.nan
        return Verdict(
            task, family, *names, verdict="", share=share, margin=margin, **about
        )

    def ratio(self, task: str) -> float:
        """Of test examples to training examples, if seeds draw both anew; else 0.

        Args:
            task: Its name.
        """
        facts = self.declaration.made["tasks"][task]
        if not facts["resplit"]:
            return 0.0
        return float(facts["test"]["examples"] / facts["train"]["examples"])

    def word(self, row: Verdict) -> str:
        """The verdict, from both corrected p."""
        words = []
        if row.p < self.plan.level:
            mean = row.mean if not row.diverged else self._sign(row)
            better = (mean > 0) == self.plan.higher_is_better
            words.append("better" if better else "worse")
        if row.p_equivalent < self.plan.level:
            words.append("equivalent")
        return ", but ".join(words) or "undecided"

    def _sign(self, row: Verdict) -> float:
        mine, theirs = (self.judged(row.task, o) for o in (row.optimizer, row.other))
        return float((mine > theirs).sum() - (mine < theirs).sum())

    def protocol(self) -> str:
        """What was declared, in sentences."""
        from keras_gradopt.comparison.tables import protocol

        return protocol(self)

    def table(self) -> str:
        """Everything in Markdown: protocol, optimizers, verdicts."""
        from keras_gradopt.comparison.tables import page

        return page(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws learning rates and differences.

        Args:
            path: Of the picture.

        Raises:
            ImportError: If matplotlib is not installed; the message names the extra.
        """
        from keras_gradopt.comparison.pictures import draw

        draw(self, path)

    def __repr__(self) -> str:
        names: Mapping[str, None] = dict.fromkeys(row["optimizer"] for row in self.rows)
        return f"<Results: {len(self.rows)} runs of {', '.join(names) or 'nothing'}>"
