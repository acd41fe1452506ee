"""Which runs are still to be made: a pure function of the rows that there are."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_gradopt.comparison import searching
from keras_gradopt.comparison.arms import Arm
from keras_gradopt.comparison.files import KEY, Key, Row
from keras_gradopt.comparison.plans import Plan


class Run(NamedTuple):
    """One training."""

    task: str
    optimizer: str
    stage: str
    rate: float
    arguments: str
    seed: int

    @property
    def key(self) -> Key:
        """As in the rows."""
        rate = f"{self.rate:g}"
        return (*self[:3], rate, self.arguments, str(self.seed))

    def columns(self) -> dict[str, Any]:
        """The columns that tell it from others."""
        return dict(zip(KEY, self.key))

    def described(self) -> dict[str, Any]:
        """For the process that makes it."""
        name = hashlib.sha256(repr(self.key).encode()).hexdigest()[:20]
        return {**self._asdict(), "file": name}


class Choice(NamedTuple):
    """What a search came to."""

    rate: float
    arguments: str


class Schedule:
    """The runs that a plan needs.

    Args:
        plan: What is asked.
        arms: By name.
        tasks: Names.
        left_out: Pairs (task, arm) that are not run.
    """

    def __init__(
        self,
        plan: Plan,
        arms: Mapping[str, Arm],
        tasks: list[str],
        left_out: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.plan, self.arms = plan, arms
        self.jobs = [
            (task, name)
            for task in tasks
            for name in arms
            if (task, name) not in left_out
        ]
        self.low, self.high = (searching.quarter_of("grid", r) for r in plan.grid)
        # what the report goes by, of searches that have ended
        self.chosen: dict[tuple[str, str], Choice] = {}

    def missing(self, rows: Mapping[Key, Row]) -> list[Run]:
        """The runs that can be made now, in order."""
        while True:
            before, found = len(self.chosen), []
            for task, name in self.jobs:
                runs = self._of(task, name, rows)
                found += [run for run in runs if run.key not in rows]
            if len(self.chosen) == before:  # else an arm before may go by this choice
                return found

    def expected(self, rows: Mapping[Key, Row]) -> int:
        """About how many runs are still to be made, after those that are known."""
        grid = (self.high - self.low) // 2 + 1 + 2 * self.plan.refine
        count = 0
        for task, name in self.jobs:
            if (task, name) in self.chosen:
                continue
            count += len(self.plan.seeds)
            if self.arms[name].rate is None and self.arms[name].rate_of is None:
                there = len(self._losses(task, name, None, rows))
                count += max(0, grid - there) * len(self.plan.tuning_seeds)
        return count

    def _of(self, task: str, name: str, rows: Mapping[Key, Row]) -> Iterator[Run]:
        choice = self.chosen.get((task, name)) or self._choose(task, name, rows)
        if isinstance(choice, list):
            yield from choice
            return
        if choice is None:
            return
        self.chosen[task, name] = choice
        for seed in self.plan.seeds:
            yield Run(task, name, "report", *choice, seed)

    def _choose(
        self, task: str, name: str, rows: Mapping[Key, Row]
    ) -> Choice | list[Run] | None:
        """What is reported on; or the runs that it needs; or None: another's search."""
        arm = self.arms[name]
        arguments = arm.combinations()
        if arm.arguments_of is not None:
            of = self._other(task, name, arm.arguments_of, rows)
            if of is None:
                return None
            arguments = [of.arguments]
        if arm.rate_of is not None:
            of = self._other(task, name, arm.rate_of, rows)
            rate = of and float(f"{arm.factor * of.rate:g}")
            return Choice(rate, arguments[0]) if rate else None
        if arm.rate is not None and len(arguments) == 1:
            return Choice(float(f"{arm.rate:g}"), arguments[0])
        return self._search(task, name, arguments, rows)

    def _other(
        self, task: str, name: str, other: str, rows: Mapping[Key, Row]
    ) -> Choice | None:
        """What was chosen for another arm; `None` while it is searched for.

        Raises:
            ValueError: If the other is left out, and no search for it has ended.
        """
        if (task, other) in self.jobs:
            return self.chosen.get((task, other))
        choice = self._choose(task, other, rows)
        if not isinstance(choice, Choice):
            raise ValueError(
                f"optimizers: {name}: it goes by {other!r}, which is left out for task "
                f"{task!r} before its search has ended: run that first, or both"
            )
        return choice

    def _search(
        self, task: str, name: str, arguments: list[str], rows: Mapping[Key, Row]
    ) -> Choice | list[Run]:
        runs, ends = [], []
        for given in arguments:
            if self.arms[name].rate is not None:
                rates = [float(f"{self.arms[name].rate:g}")]
            else:
                losses = self._losses(task, name, given, rows)
                wanted = searching.missing(
                    losses, self.low, self.high, self.plan.refine
                )
                best = searching.best(losses) if losses else self.low
                rates = [searching.rate_at(q) for q in wanted or [best]]
            more = [
                Run(task, name, "tuning", rate, given, seed)
                for rate in rates
                for seed in self.plan.tuning_seeds
            ]
            values = [self.score(rows[run.key]) for run in more if run.key in rows]
            if len(values) < len(more):
                runs += more
            else:
                ends.append((float(np.mean(values)), Choice(rates[0], given)))
        return runs or min(ends, key=lambda end: end[0])[1]

    def _losses(
        self, task: str, name: str, given: str | None, rows: Mapping[Key, Row]
    ) -> dict[int, float]:
        """Mean scores by quarter, of rates for which all seeds are there."""
        found: dict[int, float] = {}
        for quarter in range(searching.EDGES[0], searching.EDGES[1] + 1):
            rate = searching.rate_at(quarter)
            of = self.arms[name].combinations()[0] if given is None else given
            keys = [
                Run(task, name, "tuning", rate, of, seed).key
                for seed in self.plan.tuning_seeds
            ]
            if all(key in rows for key in keys):
                found[quarter] = float(np.mean([self.score(rows[k]) for k in keys]))
        return found

    def score(self, row: Row) -> float:
        """What the search goes by; lower is better, infinite if training diverged."""
        value = float(row[self.plan.tuned_by])
        value = -value if self.plan.higher_is_better else value
        return math.inf if row["diverged"] == "1" or math.isnan(value) else value


def arguments_text(arguments: str) -> str:
    """Searched arguments, for tables."""
    found = json.loads(arguments) if arguments else {}
    return ", ".join(f"{name}={value}" for name, value in found.items())
