"""What the checks of an optimizer came to."""

from dataclasses import dataclass
from typing import Literal

from keras_gradopt.testing.registry import Check

STATUSES = ("passed", "failed", "failed as Keras", "skipped")


@dataclass(frozen=True)
class Outcome:
    """What one check came to.

    Attributes:
        check: its name, sentence and function.
        status: `"passed"`, `"failed"` or `"skipped"`.
        saw: what it saw, or why it was skipped.
        seconds: how long it took.
        excused: whether it failed as Keras' own Adam does, which counts as a failure
            only if `strict`.
    """

    check: Check
    status: Literal["passed", "failed", "skipped"]
    saw: str
    seconds: float = 0.0
    excused: bool = False

    @property
    def _fault(self) -> str:
        return (self.check.keras_fault or "").replace("-", " ")

    def __str__(self) -> str:
        text = f"{self.check.name}: {self.status}. {self.check.sentence} {self.saw}"
        if self.status == "failed" and self.check.keras_fault:
            text += f" (so does Keras' own Adam: notes on Keras, {self._fault})"
        return text


class ConformanceError(AssertionError):
    """Checks failed; the message names each, and what it saw."""


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks of one optimizer. Printed, it is a table.

    Attributes:
        name: of the optimizer.
        outcomes: one `Outcome` for each check: `check`, `status`, `saw`, `seconds`.
    """

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> list[Outcome]:
        """Those that failed; without those that Keras' own Adam fails, if excused."""
        return [o for o in self.outcomes if o.status == "failed" and not o.excused]

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed

    @property
    def seconds(self) -> float:
        """How long all of them took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def table(self) -> str:
        """A table in text: status, name, what was seen."""
        rows = [(_status(o), o.check.name, o.saw) for o in self.outcomes]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{s:{widths[0]}}  {n:{widths[1]}}  {saw}" for s, n, saw in rows]
        return "\n".join([f"{self.name}: {self.summary()}", *lines])

    def markdown(self, notes: str = "") -> str:
        """The same as a table in Markdown.

        Args:
            notes: the address of the notes on Keras, to which failures link that
                Keras' own Adam has, too. Defaults to no links.
        """
        lines = ["| check | outcome | what it saw |", "|---|---|---|"]
        for o in self.outcomes:
            status, fault = _status(o), o.check.keras_fault
            if o.status == "failed" and fault and notes:
                status = f"[{status}]({notes}#{fault})"
            saw = o.saw.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| `{o.check.name}` | {status} | {saw} |")
        return "\n".join([f"**{self.name}**: {self.summary()}", "", *lines])

    def summary(self) -> str:
        """How many checks passed, failed and were skipped."""
        found = [_status(outcome) for outcome in self.outcomes]
        counts = [f"{found.count(s)} {s}" for s in STATUSES if s in found]
        return f"{', '.join(counts)} ({self.seconds:.0f} s)"

    def raise_for_failures(self) -> None:
        """Raises `ConformanceError` if a check failed."""
        if self.failed:
            lines = "\n".join(f"- {outcome}" for outcome in self.failed)
            raise ConformanceError(f"{self.name} fails\n{lines}")

    def __str__(self) -> str:
        return self.table()


def _status(outcome: Outcome) -> str:
    return "failed as Keras" if outcome.excused else outcome.status
