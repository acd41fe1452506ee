"""What a check is, and the list of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gradopt.testing.bench import Bench


class Failed(AssertionError):
    """A check's statement is not true; the message has what was seen."""


class Skipped(Exception):
    """A check cannot be made here; the message says why."""


@dataclass(frozen=True)
class Check:
    """A statement about an optimizer, and the function that tries it.

    Attributes:
        name: of the check, as in `skip`.
        sentence: what is true of an optimizer that passes.
        function: tries it on a `Bench`; returns what it saw, or raises.
        needs: which of `base`, `twin` and `neutral` it needs.
        keras_fault: the section of docs/keras-notes.md, if Keras' own Adam fails.
    """

    name: str
    sentence: str
    function: Callable[["Bench"], str]
    needs: tuple[str, ...] = ()
    keras_fault: str | None = None


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they run."""


def check(
    sentence: str, needs: tuple[str, ...] = (), keras_fault: str | None = None
) -> Callable:
    """Makes a function of a `Bench` a check with its name."""

    def add(function: Callable[["Bench"], str]) -> Callable[["Bench"], str]:
        name = function.__name__
        CHECKS[name] = Check(name, sentence, function, needs, keras_fault)
        return function

    return add


def expect(condition: object, saw: str) -> str:
    """`saw`, or `Failed` with it."""
    if not condition:
        raise Failed(saw)
    return saw
