"""Files of runs: written whole or not at all, by one program at a time, and checked.

A file is written under another name and renamed, so a kill leaves the old one or the
new one.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_gradopt.comparison import files


class RunError(RuntimeError):
    """A run cannot go on; the message says why and what to do."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path, path.with_name(f"new.{path.name}")) as new:
        yield new


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, in which a number that is NaN or infinite is null."""

    def finite(value):
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        unknown = isinstance(value, float) and not math.isfinite(value)
        return None if unknown else value

    with replacing(path) as new:
        new.write_text(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type = dict) -> Any:
    """Reads JSON.

    Raises:
        RunError: if the file is damaged, or holds something else than a `kind`.
    """
    return files.read_json(path, kind, RunError)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder; one program at a time is in it, for a kill ends its turn too.

    Raises:
        RunError: if another program is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            files.take(lock)
        except OSError:
            raise RunError(f"another run is writing to {folder}") from None
        yield
