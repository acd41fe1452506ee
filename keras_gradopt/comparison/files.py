"""Files of a comparison: rows that are only added, one writer at a time.

A kill at any moment leaves whole rows and, at most, a cut one at the end, which is
dropped when the file is read again.
"""

import contextlib
import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RUNS, DECLARATION, UNFINISHED = "runs.csv", "declaration.json", "unfinished"
KEY = ("task", "optimizer", "stage", "learning_rate", "arguments", "seed")
FIELDS = (
    *KEY, "diverged", "train_loss", "validation_loss", "test_loss", "ms_per_step",
    "validation_losses",
)  # fmt: skip
TEXTS = (*KEY[:3], "arguments", "validation_losses")
Key = tuple[str, ...]
Row = dict[str, str]


class ComparisonError(RuntimeError):
    """A comparison cannot go on; the message says why and what to do."""


@contextlib.contextmanager
def replacing(path: Path, new: Path | None = None) -> Iterator[Path]:
    """A file to write, which takes the place of `path` once it is complete.

    Args:
        path: to replace.
        new: where to write. Defaults to a name that no other process takes.
    """
    if new is None:
        handle, name = tempfile.mkstemp(prefix=f"new.{path.name}.", dir=path.parent)
        os.close(handle)
        new = Path(name)
    try:
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())  # else a power failure could leave it empty
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder; one process at a time is in it, for a kill ends its turn too.

    Raises:
        ComparisonError: if another one is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"`folder` must be a folder that can be made. Received: "
            f"folder={str(folder)!r} ({error.strerror})"
        ) from error
    with open(folder / ".lock", "a") as lock:
        try:
            take(lock)
        except OSError:
            raise ComparisonError(
                f"another comparison is running in {folder}: wait for it, or give this "
                "one another folder"
            ) from None
        for left in folder.glob("new.*"):  # by a process that was killed as it wrote
            left.unlink(missing_ok=True)
        yield


def take(file: Any) -> None:
    """Locks an open file until it is closed or the process is gone.

    Raises:
        OSError: if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # to mypy on other systems the module is empty
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def key(row: dict[str, Any]) -> Key:
    """What tells one run from another."""
    return tuple(str(row[name]) for name in KEY)


class Rows:
    """The runs in a file, each once.

    Args:
        path: of the file, which need not exist yet.

    Raises:
        ComparisonError: if the file has anything else in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: tuple[str, ...] = FIELDS
        self.known: dict[Key, Row] = {}
        content = path.read_bytes() if path.exists() else b""
        kept = whole(content)
        if kept != content:
            with replacing(path) as new:
                new.write_bytes(kept)
        if kept:
            read = read_rows(path)
            header = kept.decode().partition("\n")[0]
            self.fields = tuple(header.strip().split(","))
            self.known = {key(row): row for row in read}

    def widen(self, columns: Sequence[str]) -> None:
        """Adds columns, empty in the runs that there are."""
        self.fields = tuple(dict.fromkeys([*self.fields, *columns]))
        for row in self.known.values():
            row.update({name: row.get(name, "") for name in self.fields})
        with (
            replacing(self.path) as new,
            open(new, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.known.values())

    def add(self, row: dict[str, Any]) -> None:
        """Writes a run that ended: one write, at the end of the file."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.fields, restval="", lineterminator="\n")
        writer.writerow(row)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = os.open(self.path, flags, 0o644)
        try:
            content = text.getvalue().encode()
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(file)
        finally:
            os.close(file)
        self.known[key(row)] = {name: str(row.get(name, "")) for name in self.fields}


def whole(content: bytes) -> bytes:
    """The content without a last line that a kill cut off."""
    return content[: content.rfind(b"\n") + 1]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, checked; without one at the end that a kill cut off.

    Args:
        path: of the file.

    Raises:
        ComparisonError: if a row is none that a run can have written.
    """
    line = 1
    found: dict[Key, Row] = {}
    try:
        text = whole(path.read_bytes()).decode()
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = tuple(rows.fieldnames or ())
        if text and (names[: len(FIELDS)] != FIELDS or len({*names}) < len(names)):
            raise ValueError(f"its columns must be {', '.join(FIELDS)}, and more")
        for row in rows:
            line = rows.line_num
            _check(row)
            if found.setdefault(key(row), row) != row:
                raise ValueError("this run is there twice, with other results")
    except (ValueError, csv.Error) as error:
        where = f", line {line}" if line > 1 else ""
        raise ComparisonError(
            f"{path}{where} is damaged: {error}. Put it right, or away"
        ) from error
    return list(found.values())


def _check(row: dict[str, Any]) -> None:
    if None in row or None in row.values():
        raise ValueError("a row has more or fewer values than there are columns")
    for name, known in (("stage", ("tuning", "report")), ("diverged", ("0", "1"))):
        if row[name] not in known:
            raise ValueError(f"unknown {name} {row[name]!r}")
    int(row["seed"])
    for name, value in row.items():
        if name not in TEXTS and (name in FIELDS or value):
            float(value)
    if not [float(loss) for loss in row["validation_losses"].split()]:
        raise ValueError("no validation losses")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    with replacing(path) as new:
        new.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(
    path: Path, kind: type = dict, error_class: type[Exception] = ComparisonError
) -> Any:
    """Reads JSON.

    Raises:
        ComparisonError: or an `error_class`, if the file is damaged or holds something
            else than a `kind`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise error_class(
            f"{path} is damaged ({error}): put it right or away"
        ) from error
    return value
