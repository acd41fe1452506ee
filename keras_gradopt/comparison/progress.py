"""How far a comparison is, and how long it will take."""

import sys
import time
from typing import TextIO


class Progress:
    """One line: runs made, runs to come, time left.

    On a terminal the line is written anew; elsewhere, a line at most every minute.

    Args:
        workers: Runs at the same time.
        shown: Whether to write anything.
        stream: Where to. Defaults to `None`: the standard error output.
    """

    def __init__(
        self, workers: int, shown: bool = True, stream: TextIO | None = None
    ) -> None:
        self.workers, self.shown = workers, shown
        self.stream = stream or sys.stderr
        self.count, self.left, self.start = 0, 0, time.monotonic()
        self.last = self.start
        self.terminal = self.stream.isatty()

    def expect(self, left: int) -> None:
        """Says how many runs are still to be made, about."""
        self.left = left

    def done(self, seconds: float) -> None:
        """Counts a run."""
        self.count += 1
        self.left = max(0, self.left - 1)
        now = time.monotonic()
        if not self.shown or not (self.terminal or now - self.last >= 60):
            return
        self.last = now
        end = "" if self.terminal else "\n"
        begin = "\r\x1b[K" if self.terminal else ""
        self.stream.write(f"{begin}{self.text()}{end}")
        self.stream.flush()

    def text(self) -> str:
        """The line."""
        text = f"{self.count} runs made, about {self.left} to come"
        if self.count < min(2 * self.workers, 4):  # the first ones compile
            return text
        each = (time.monotonic() - self.start) / self.count
        return f"{text}, {duration(each * self.left)} left"

    def close(self) -> None:
        """Ends the line."""
        if self.shown and self.terminal and self.count:
            self.stream.write("\n")


def duration(seconds: float) -> str:
    """A time, for people.

    Example:

    >>> duration(40), duration(170), duration(9000)
    ('40 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
