"""Types of command-line flags, for argparse: what is not allowed becomes a sentence.

Without Keras, which some programs must not import before they have read their flags.
"""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def number(kind: type, allowed: str, accepts: Callable[[float], bool]) -> Callable:
    """The type of a flag that is a number.

    Args:
        kind: `int` or `float`.
        allowed: which ones are, in words.
        accepts: whether one is.
    """

    def parse(text: str) -> float:
        value = kind(text)
        if not accepts(value):
            raise ArgumentTypeError(f"must be {allowed}, not {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it for text that is no number
    return parse


COUNT = number(int, "at least 1 and below 2**31", lambda n: 1 <= n < 2**31)
SEED = number(int, "at least 0 and below 2**32", lambda n: 0 <= n < 2**32)
POSITIVE = number(float, "above 0", lambda x: 0 < x < float("inf"))
NOT_NEGATIVE = number(float, "at least 0", lambda x: 0 <= x < float("inf"))
SHARE = number(float, "at least 0 and below 1", lambda x: 0 <= x < 1)


def folder(text: str) -> Path:
    """The type of a flag that names a folder."""
    if not text:
        raise ArgumentTypeError("must be the name of a folder, not empty")
    return Path(text)
