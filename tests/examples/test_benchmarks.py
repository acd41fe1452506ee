"""The benchmarks' tables follow from their rows, and rows can be added to."""

import csv
import importlib
import re
import statistics
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the benchmarks are TensorFlow's"
)
ROOT = Path(__file__).parents[2]


def run(monkeypatch, script, *arguments):
    """Runs a benchmark here; the module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
    return module


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("monitor", "monitor"),
        ("tracing", "tracing"),
        ("training_step", "training_step"),
        ("training_step", "training_step_sgd"),
        ("step_time", "step_time"),
        ("step_time", "small_variables"),
    ],
)
def test_the_page_has_what_the_rows_say(script, name, monkeypatch, capsys):
    pytest.importorskip("scipy")
    path = ROOT / f"docs/performance/{name}.csv"
    before = path.read_bytes()
    run(monkeypatch, script, "--csv", path, "--rounds", 0).main()
    shown = capsys.readouterr().out.splitlines()
    lines = [line for line in shown if line.startswith("| ")]
    page = (ROOT / "docs/performance.md").read_text().splitlines()
    assert len(lines) > 2
    assert [line for line in lines if line not in page] == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("claim", "ours", "base"),
    [
        ("It needs fewer resources", "AngularGrad", "AdamCore"),
        ("An epoch takes 3 % more time", "GAFSGD", "keras SGD, momentum"),
        ("No added time", "WGDAdam", "AdamCore"),
        ("No added time", "WGDSGD", "keras SGD, momentum"),
    ],
)
def test_claims_have_the_ratios_of_the_same_medians(claim, ours, base):
    with open(ROOT / "docs/performance/step_time.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    page = (ROOT / "docs/claims.md").read_text().splitlines()
    (line,) = [line for line in page if line.startswith(f"| {claim} ")]
    for how in ("graph", "XLA"):
        mine, theirs = (
            statistics.median(
                float(row["ms"])
                for row in rows
                if (row["optimizer"], row["how"]) == (name, how)
            )
            for name in (ours, base)
        )
        assert re.search(rf"\b{mine / theirs:.2f}\b", line)


def test_rounds_are_added_to_those_that_there_are(monkeypatch, tmp_path, capsys):
    """As the page's two commands for monitor.csv do, with commits of the new ones."""
    pytest.importorskip("scipy")
    path = tmp_path / "monitor.csv"
    old = (ROOT / "docs/performance/monitor.csv").read_text().splitlines()[:11]
    path.write_text("\n".join(old) + "\n")

    def measured(args, first):
        return [
            {"monitored": m, "round": first + i, "first_steps_s": 1.0, "step_ms": 300.0}
            for i in range(args.rounds)
            for m in (0, 1)
        ]

    flags = ("--csv", path, "--append", "--rounds", 7)
    module = run(monkeypatch, "monitor", *flags)
    monkeypatch.setattr(module, "measured", measured)
    module.main()
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["round"]) for row in rows] == [i for i in range(12) for _ in "01"]
    assert {row["commit"] for row in rows[:10]} == {""}
    (made,) = {row["commit"].partition("-")[0] for row in rows[10:]}
    assert made == "unknown" or len(made) == 10
    assert "range of 12" in capsys.readouterr().out
    run(monkeypatch, "monitor", "--csv", path, "--rounds", 2).main()  # not appended
    with open(path, newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
