"""Which commit made the rows of a study."""

import subprocess
from pathlib import Path
from typing import Any

from keras_gradopt.comparison import ComparisonError, files

ROOT = Path(__file__).parents[2]
CODE = ("keras_gradopt", "examples")  # what a row's commit stands for
SESSIONS = "sessions.json"


def note_session(folder: Path, allow_dirty: bool = False) -> None:
    """Writes down which commit makes the rows that follow.

    Args:
        folder: of a comparison.
        allow_dirty: whether the code may have changes that are in no commit.

    Raises:
        ComparisonError: if it has some, and may not.
    """
    git = ["git", "-C", str(ROOT)]
    kept: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], **kept).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *CODE]
        changed = subprocess.run(status, **kept).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        head, changed = "unknown", ["this is no checkout"]
    if changed and not allow_dirty:
        raise ComparisonError(
            "rows name the commit that made them, and this code is at none: "
            + ", ".join(line.strip() for line in changed[:3])
            + "; commit first, or pass --allow-dirty for a trial"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows, path = folder / files.RUNS, folder / SESSIONS
    count = len(files.read_rows(rows)) if rows.exists() else 0
    known = _sessions(path) if path.exists() else []
    known = [session for session in known if session["first_row"] <= count]
    now = {"first_row": count + 1, "commit": head + "-dirty" * bool(changed)}
    files.write_json(path, [*known, now])


def _sessions(path: Path) -> list[dict[str, Any]]:
    found = files.read_json(path, list)
    for session in found:
        try:
            int(session["first_row"]), str(session["commit"])
        except (TypeError, KeyError, ValueError):
            raise ComparisonError(f"{path} is damaged: {session!r}") from None
    return found


def made_at(folder: Path, rows: int) -> str:
    """Which commit made which rows, for people."""
    found = _sessions(folder / SESSIONS)
    parts = []
    for session, after in zip(found, [*found[1:], {"first_row": rows + 1}]):
        first, last = session["first_row"], after["first_row"] - 1
        if first <= last:
            parts.append(f"{first:,} to {last:,} at commit {session['commit'][:10]}")
    return "; ".join(parts)
