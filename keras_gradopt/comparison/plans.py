"""What is declared before the first run, and how it may change afterwards.

`declaration.json` has two parts. What makes the rows (tasks, data, optimizers, search)
stays as it is, or a comparison is refused. What is asked of them (families, seeds,
margin, level) can be changed, and every change is told with the results.
"""

import datetime
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_gradopt.arguments import number, refuse
from keras_gradopt.comparison import statistics
from keras_gradopt.comparison.files import ComparisonError, read_json, write_json
from keras_gradopt.comparison.tasks import whole_number

HIGHER = r"acc|auc|precision|recall|f1|fbeta|f_beta|iou|r2|sensitivity|specificity"
LOWER = r"loss|error|mae|mse|mape|msle|entropy|hinge|divergence|poisson|perplexity"
MAIN, CONTROLS = "primary", "controls"
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """What is asked, and how it is answered.

    Attributes:
        measure: A column of the rows: `"test_loss"` or `"test_"` and a metric.
        higher_is_better: Whether more of it is better.
        margin: Up to which a difference does not matter.
        margin_is_share: Whether the margin is a share of the other's mean.
        level: Of the tests, after Holm's correction within each family.
        test: `"sign-flip"`, `"t"` or `"corrected-t"`.
        families: Pairs (optimizer, other) by the family's name.
        seeds: That are reported on.
        tuning_seeds: Of the search.
        grid: First and last rate of the coarse grid.
        refine: Whether quarter-decades around the best are tried.
    """

    measure: str
    higher_is_better: bool
    margin: float
    margin_is_share: bool
    level: float
    test: str
    families: dict[str, list[tuple[str, str]]]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    grid: tuple[float, float]
    refine: bool

    @property
    def tuned_by(self) -> str:
        """The column that the search goes by."""
        return "validation_" + self.measure.removeprefix("test_")

    @property
    def margin_text(self) -> str:
        """The margin, for people."""
        if not self.margin_is_share:
            return f"{self.margin:g}"
        return f"{100 * self.margin:g} % of the other's mean"

    def detectable(self, family: str, ratio: float) -> float:
        """The smallest effect this design sees, in standard deviations.

        Args:
            family: Its name.
            ratio: Of test examples to training examples, if seeds draw both anew.
        """
        level = self.level / max(1, len(self.families[family]))
        return statistics.detectable(len(self.seeds), self.test, level, ratio)


def seeds_of(name: str, value: Any, least: int) -> tuple[int, ...]:
    """Checks a list of seeds."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise refuse(name, value, "a list of integers")
    found = tuple(whole_number(name, seed, 0) for seed in value)
    if len(set(found)) < len(found):
        raise refuse(name, list(found), "seeds, each once")
    if len(found) < least or max(found, default=0) >= 2**31:
        raise refuse(name, list(found), f"at least {least} integers below 2**31")
    return found


def margin_of(value: Any) -> tuple[float, bool]:
    """A margin, and whether it is a share."""
    if isinstance(value, str):
        percent = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*%\s*", value)
        if not percent or not 0 < float(percent[1]) < 100:
            raise refuse("margin", value, 'a number above 0, or per cent: "2%"')
        return float(percent[1]) / 100, True
    return number("margin", value, 0, exclude_low=True), False


def higher_is_better(measure: Any, mode: Any) -> bool:
    """Whether more of a measure is better."""
    if not isinstance(measure, str) or not measure.startswith("test_"):
        raise refuse("measure", measure, 'text that begins with "test_"')
    if mode not in ("auto", "min", "max"):
        raise refuse("mode", mode, '"auto", "min" or "max"')
    if mode != "auto":
        return bool(mode == "max")
    for pattern, answer in ((LOWER, False), (HIGHER, True)):
        if re.search(pattern, measure.lower()):
            return answer
    raise refuse("mode", mode, f'"min" or "max" for the measure {measure!r}')


def families_of(
    comparisons: Any, names: Sequence[str], baseline: str, pairs: Pairs, again: str
) -> dict[str, list[tuple[str, str]]]:
    """The families of comparisons, checked.

    Args:
        comparisons: As given by the user.
        names: Of the user's arms.
        baseline: What they are compared with, unless told otherwise.
        pairs: Arms and their controls.
        again: The control that is the baseline; empty if there is none.
    """
    if comparisons is None:
        main = [(name, baseline) for name in names if name != baseline]
        found = {MAIN: [*main, *pairs]}
        found |= {CONTROLS: [(again, baseline)]} if again else {}
        return {name: family for name, family in found.items() if family}
    if not isinstance(comparisons, Mapping) or not comparisons:
        raise refuse("comparisons", comparisons, "pairs of optimizers, by family")
    known = {*names, *(control for _, control in pairs), again} - {""}
    for family, members in comparisons.items():
        shown = f"comparisons: {family}"
        if isinstance(members, str) or not isinstance(members, Sequence):
            raise refuse(shown, members, "a list of pairs of optimizers")
        for pair in members:
            if isinstance(pair, str) or len(pair) != 2 or not {*pair} <= known:
                raise refuse(shown, pair, f"two of {', '.join(sorted(known))}")
    given = {
        str(family): [(str(a), str(b)) for a, b in members]
        for family, members in comparisons.items()
        if members
    }
    return {CONTROLS: [*pairs, (again, baseline)], **given} if again else given


def test_of(test: Any, resplit: Iterable[bool]) -> str:
    """The test, checked: whether it can reject anything, and fits the data."""
    overlapping = any(resplit)
    if test is None:
        test = "corrected-t" if overlapping else "sign-flip"
    if test not in statistics.TESTS:
        allowed = ", ".join(map(repr, statistics.TESTS))
        raise refuse("test", test, f"one of {allowed}")
    if (test == "corrected-t") != overlapping:
        raise ValueError(
            "`test` must be 'corrected-t' where a task has resplit=True (test parts of "
            f"different seeds overlap then), and only there. Received: test={test!r}"
        )
    return str(test)


def check_reach(plan: Plan) -> None:
    """Refuses a design that could not find anything.

    Raises:
        ValueError: If no result could be significant after Holm's correction.
    """
    for family, members in plan.families.items():
        least = statistics.smallest_p(len(plan.seeds), plan.test) * len(members)
        if least >= plan.level:
            more = math.floor(1 - math.log2(plan.level / len(members))) + 1
            lowest = statistics.smallest_p(len(plan.seeds), plan.test)
            raise ValueError(
                f"`seeds` must be at least {more}: the sign-flip test of "
                f"{len(plan.seeds)} seeds has a p of at least {lowest:.2g}, which "
                f"Holm's correction for the {len(members)} comparisons of family "
                f"{family!r} raises above level={plan.level:g}; or give test='t'"
            )


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


class Declaration:
    """The file `declaration.json`.

    Args:
        path: Of the file, which need not exist yet.

    Raises:
        ComparisonError: If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"made": {}, "plans": [], "sessions": []}
        if path.exists():
            found = read_json(path)
            if set(self.content) - set(found):
                raise ComparisonError(f"{path} is damaged: put it right, or away")
            self.content = found

    @property
    def made(self) -> dict[str, Any]:
        """What makes the rows: facts of tasks, of optimizers, of the backend."""
        return dict(self.content["made"])

    @property
    def plan(self) -> Plan:
        """The plan that holds now.

        Raises:
            ComparisonError: If there is none.
        """
        try:
            found = dict(self.content["plans"][-1]["plan"])
            for name in ("seeds", "tuning_seeds", "grid"):
                found[name] = tuple(found[name])
            found["families"] = {
                name: [(a, b) for a, b in family]
                for name, family in found["families"].items()
            }
            return Plan(**found)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ComparisonError(f"{self.path} holds no plan: {error!r}") from error

    @property
    def chosen(self) -> dict[tuple[str, str], tuple[str, str]]:
        """What searches came to: rate and arguments, as rows have them."""
        return {
            (task, arm): (choice["learning_rate"], choice["arguments"])
            for task, arms in self.content.get("chosen", {}).items()
            for arm, choice in arms.items()
        }

    def choose(self, chosen: Mapping[tuple[str, str], Any]) -> None:
        """Writes what searches came to, if it is new."""
        found: dict[str, Any] = plain(self.content.get("chosen", {}))
        for (task, arm), choice in chosen.items():
            found.setdefault(task, {})[arm] = {
                "learning_rate": f"{choice.rate:g}", "arguments": choice.arguments,
            }  # fmt: skip
        if found != self.content.get("chosen", {}):
            self.content["chosen"] = found
            write_json(self.path, self.content)

    @property
    def changes(self) -> list[str]:
        """What was changed after the first run, one sentence each."""
        sentences, plans = [], self.content["plans"]
        for before, after in itertools.pairwise(plans):
            if after["runs_before"]:
                names = different(before["plan"], after["plan"])
                sentences.append(
                    f"After {after['runs_before']} runs the plan was changed: "
                    + "; ".join(names)
                )
        return sentences

    def declare(
        self, plan: Plan, made: dict[str, Any], session: dict[str, Any], runs: int
    ) -> None:
        """Writes what will be done, before it is done.

        Args:
            plan: What is asked.
            made: What makes the rows.
            session: Versions of this start.
            runs: How many there are already.

        Raises:
            ComparisonError: If the rows that exist were made otherwise.
        """
        made, session = plain(made), plain(session)
        for kind in ("tasks", "optimizers"):  # others may have been here before
            known = self.content["made"].get(kind, {})
            made[kind] = {**known, **made[kind]}
        if runs and self.content["made"]:
            there = self.content["made"]
            names = different({**made, **there}, made)
            for kind in ("tasks", "optimizers"):
                for name, old in there[kind].items():
                    changed = different(old, made[kind][name])
                    names += [f"{name}: {change}" for change in changed]
                names = [n for n in names if not n.startswith(f"{kind}:")]
            if names:
                raise ComparisonError(
                    f"the runs in {self.path.parent} were made otherwise ("
                    + "; ".join(names)
                    + "): make these the same, or begin another folder"
                )
        if not runs:
            self.content["plans"] = []
        asked = plain(asdict(plan))
        self.content["made"] = made
        if not self.content["plans"] or self.content["plans"][-1]["plan"] != asked:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            entry = {"declared": now, "runs_before": runs, "plan": asked}
            self.content["plans"].append(entry)
        if session not in self.content["sessions"]:
            self.content["sessions"].append(session)
        write_json(self.path, self.content)


def different(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, with both values."""
    return [
        f"{name}: {old.get(name)!r} then, {new.get(name)!r} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
