"""docs/upstream.md: every fault on it is still there, as it is shown."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.backend_independent, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ISSUE = re.compile(
    r"(?ms)^## (?P<title>[^\n]+)\n\n```python\n(?P<code>.*?)^```\n.*?"
    r"^Seen.*?\n\n```text\n(?P<seen>.*?)^```$"
)


def issues():
    """{title: (backend, code, what it printed)}."""
    page = (ROOT / "docs" / "upstream.md").read_text()
    found = {}
    for title, code, seen in ISSUE.findall(page):
        said = re.match(r"# KERAS_BACKEND=(\w+)\n", code)
        found[title] = (said[1] if said else "tensorflow", code, seen)
    assert len(found) == page.count("\n## ")
    return found


def test_each_is_ready_to_be_posted():
    """A title, few lines, what is expected and what was seen."""
    page = (ROOT / "docs" / "upstream.md").read_text()
    assert page.count("\nExpected: ") == page.count("\nSeen") == len(issues())
    for title, (_, code, _) in issues().items():
        assert len(code.splitlines()) <= 25, title
        assert "keras_gradopt" not in code, title


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_faults_are_still_there(backend, tmp_path):
    pytest.importorskip(backend)
    chosen = {
        title: (code, seen)
        for title, (name, code, seen) in issues().items()
        if name == backend
    }
    path = tmp_path / "pieces.json"
    path.write_text(json.dumps([code for code, _ in chosen.values()]))
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "workers" / "reproductions.py", path],
        capture_output=True, text=True,
        env={**environment, "KERAS_BACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = json.loads(done.stdout.splitlines()[-1])
    mended = [
        f"{title}: printed {output!r}, was {seen!r}"
        for (title, (_, seen)), output in zip(chosen.items(), outputs)
        if output != seen
    ]
    assert not mended, "mended: remove it from docs/upstream.md:\n" + "\n".join(mended)
