"""The study on optimizers: its rows, tables and pictures; a small run of it."""

import csv
import dataclasses
import itertools
import math
import re
import sys

import numpy as np
import pytest

pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Text
from studies import optimizers as study

import keras_gradopt
from keras_gradopt import comparison

report = sys.modules["optimizers_report"]
pictures = sys.modules["optimizers_pictures"]
tasks = sys.modules["optimizers_tasks"]

pytestmark = pytest.mark.backend_independent


def test_paired_statistics():
    """Exact p of the sign-flip test, and intervals that cover what they should."""
    random = np.random.default_rng(0)
    shift = report.paired(np.arange(10) + 1.0, np.zeros(10))
    assert shift["p"] == pytest.approx(2 / 2**10)
    assert shift["low"] < shift["mean"] == 5.5 < shift["high"]
    covered = detected = 0
    for _ in range(100):
        a, b = random.normal(size=(2, 10))
        found = report.paired(a, b)
        covered += found["low"] <= 0 <= found["high"]
        detected += found["p"] < 0.05
    assert covered > 80
    assert detected < 15
    same = report.paired(np.ones(10), np.ones(10))
    assert same["p"] == 1 and same["mean"] == 0
    assert math.isnan(report.paired(np.array([1, np.inf]), np.ones(2))["mean"])


def test_verdict():
    lower = {"mean": -1.0, "low": -2.0, "high": -0.5}
    assert report.verdict(lower, 0.01) == "better"
    assert report.verdict(lower, 0.01, lower_is_better=False) == "worse"
    assert report.verdict(lower, 0.06) == "no detectable difference"
    across = {"mean": -1.0, "low": -2.0, "high": 0.5}
    assert report.verdict(across, 0.01) == "no detectable difference"
    nan = {"mean": math.nan, "low": math.nan, "high": math.nan}
    assert report.verdict(nan, 1.0) == "diverged"


def test_families_are_small_enough_to_detect_anything():
    """Ten seeds give p = 2 / 1024 at best, which Holm multiplies by their number."""
    for with_adam in (True, False):
        family = [
            other
            for name in study.ENTRIES
            for other in study.ENTRIES[name].against
            if (other == "Adam") == with_adam
        ]
        assert len(family) * 2 / 2 ** len(study.REPORT_SEEDS) < 0.05


def test_spread_of_pairs():
    """A test for pairs sees a spread that one for independent samples would not."""
    random = np.random.default_rng(0)
    adam = random.normal(size=10)
    narrow = 0.8 * adam + random.normal(size=10) / 100
    rows = rows_of("Adam", adam) + rows_of("AngularGrad", narrow)
    ratio, p = report.Results(rows).spread("digits-cnn", "AngularGrad", "Adam")
    assert ratio == pytest.approx(0.8, abs=0.02)
    assert p < 0.01
    narrow[3] += 100  # one run that did not arrive says nothing of the spread
    rows = rows_of("Adam", adam) + rows_of("AngularGrad", narrow)
    ratio, p = report.Results(rows).spread("digits-cnn", "AngularGrad", "Adam")
    assert ratio > 10 and p > 0.5


def rows_of(optimizer, losses, rate=0.01, stage="report"):
    rows = []
    for seed, loss in enumerate(losses):
        row = dict.fromkeys(study.FIELDS, "0")
        row |= {"workload": "digits-cnn", "optimizer": optimizer, "stage": stage}
        row |= {"learning_rate": str(rate), "seed": str(seed), "test_accuracy": "0.9"}
        row |= {"test_loss": str(loss), "validation_loss": str(loss)}
        rows.append(row | {"validation_losses": f"3 {loss}"})
    return rows


def test_tables_and_pictures(tmp_path):
    """Known numbers come out: a method that is better, and one that is not."""
    random = np.random.default_rng(0)
    noise = random.normal(size=10)
    rows = rows_of("Adam", adam := 2 + noise / 10)
    rows += rows_of("AngularGrad", 1 + noise / 10 + random.normal(size=10) / 50)
    rows += rows_of("AdamNorm", adamnorm := adam + random.normal(size=10) / 10)
    for name in ("Adam", "AngularGrad", "AdamNorm"):
        for rate, loss in ((0.001, 2.5), (0.01, 2.0), (0.1, 4.0)):
            rows += rows_of(name, [loss] * 3, rate, "tuning")
    results = report.Results(rows)
    found = {r["optimizer"]: r for r in results.comparisons("digits-cnn")}
    assert found["AngularGrad"]["verdict"] == "better"
    assert found["AngularGrad"]["mean"] == pytest.approx(-1, abs=0.05)
    assert found["AdamNorm"]["verdict"] == "no detectable difference"
    assert results.target("digits-cnn") == pytest.approx(2.1)
    assert (results.epochs_to_target("digits-cnn", "AngularGrad") == 2).all()
    assert results.sensitivity("digits-cnn", "Adam")[1] == [2.5, 2.0, 4.0]
    text = report.table(results, "digits-cnn")
    assert "| AngularGrad | 0.01 | " in text and "2 (10 of 10)" in text
    assert "| better |" in report.comparison_table(results, "digits-cnn")
    assert re.search(
        r"AngularGrad \| Adam \| \*\*-5\d\.\d better", report.overview(results)
    )
    page = report.report(results)
    assert "## CNN on digits" in page and "from the 57 runs" in page
    assert (results.rising("digits-cnn", "Adam") == 0).all()
    still = report.unfinished(
        results, ["digits-cnn", "quadratic"], ["Adam", "WGDAdam"], range(10)
    )
    assert still.splitlines()[2:] == [
        "- CNN on digits: WGDAdam",
        "- noisy quadratic: Adam",
    ]
    ratio, p = results.spread("digits-cnn", "AdamNorm", "Adam")
    assert ratio == pytest.approx(adamnorm.std() / adam.std())
    assert 0.05 < p <= 1
    assert "| AngularGrad |" in report.spreads(results)
    pictures.plot_sensitivity(results, tmp_path / "s.png")
    pictures.plot_differences(results, tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 10_000


class EveryComparison(report.Results):
    """Made up: all optimizers against all that they are compared with."""

    def __init__(self):
        self.workloads = list(tasks.TASKS)

    def comparisons(self, workload, measure="test_loss"):
        far = 50.0 if workload == "quadratic" else 0.3
        return [
            {
                "optimizer": name, "against": against, "verdict": "better",
                "mean": 0.0, "low": -0.01, "high": far,
            }
            for name, entry in study.ENTRIES.items()
            for against in entry.against
        ]  # fmt: skip

    def column(self, workload, optimizer, name, stage="report"):
        return np.ones(10)


def test_differences_can_be_read_on_a_phone(tmp_path, monkeypatch):
    """368 pixels wide, letters of at least 8, nothing cut and nothing on another."""
    figures = []
    save = Figure.savefig

    def keep(figure, path, **keywords):
        figures.append(figure)
        save(figure, path, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    pictures.plot_differences(EveryComparison(), tmp_path / "d.png")
    (figure,) = figures
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    width = figure.get_size_inches()[0]
    smallest = min(text.get_fontsize() for text in texts) * 368 / (72 * width)
    assert smallest >= 7
    labels = [t for t in texts if t.get_text() in study.ENTRIES]
    assert min(t.get_fontsize() for t in labels) * 368 / (72 * width) >= 8
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes):
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1), text
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1), text
    shrunk = [box.shrunk(1, 0.7) for box in boxes]  # boxes have room for accents
    on_another = [
        (texts[i].get_text(), texts[j].get_text())
        for i, j in itertools.combinations(range(len(texts)), 2)
        if shrunk[i].overlaps(shrunk[j])
    ]
    assert not on_another


def test_smoothness():
    """SGD rises in every second epoch, WGDSGD in one run of ten only."""
    rows = rows_of("SGD", range(10)) + rows_of("WGDSGD", range(10))
    for row in rows[:11]:
        row["validation_losses"] = "3 4 2"
    for row in rows[11:]:
        row["validation_losses"] = "3 2 1"
    text = report.smoothness(report.Results(rows))
    assert "| WGDSGD | SGD | 5.0% | 50.0% | -50.0% to -35.0% | 0.004 |" in text


def test_parse():
    args = study.parse(["--optimizers", "DiffGradNorm"])
    assert args.optimizers == ["Adam", "DiffGrad", "DiffGradNorm", "Adam again"]
    args = study.parse(["--optimizers", "AngularGrad", "--no-controls"])
    assert args.optimizers == ["Adam", "AngularGrad"]
    for flags in (
        ["--seeds", "1", "2"], ["--seeds", "11", "11"], ["--workers", "some"],
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            study.parse(flags)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_workloads(name, monkeypatch):
    """Parts are disjoint, drawn by the seed; the network fits them."""
    if name == "words":
        pytest.importorskip("wordfreq")
    if "fashion" in name:
        random = np.random.default_rng(0)
        fake = {}
        for part, size in (("train", 6100), ("test", 5100)):
            fake[f"{part}_x"] = random.integers(0, 256, (size, 28, 28, 1), "uint8")
            fake[f"{part}_y"] = random.integers(0, 10, size)
        monkeypatch.setattr(tasks, "fashion", lambda: fake)
    workload = tasks.TASKS[name]
    parts = workload.parts(1)
    again, other = workload.parts(1), workload.parts(2)
    assert (parts.train[0] == again.train[0]).all()
    assert (parts.train[0] != other.train[0]).any()
    if name != "quadratic":
        images = [
            {row.tobytes() for row in x[:500]} for x, _ in (parts.train, parts.test)
        ]
        assert len(images[0] & images[1]) < 5
    few = comparison.Parts(*((x[:64], y[:64]) for x, y in parts))
    trainer = comparison.training.Trainer(workload, study.ENTRIES["Adam"].make(1), few)
    found = comparison.data.evaluate(trainer.model, few.validation, None)
    assert np.isfinite(list(found.values())).all()
    assert tasks.has_kernels(name) == (name in ("digits-cnn", "fashion-cnn", "words"))


def test_committed_rows_are_taken_over_and_written_as_they_were(tmp_path, monkeypatch):
    """Nothing is run for them; one that is missing is, with its columns."""
    committed = study.Path(__file__).parents[2] / "docs/studies/optimizers/runs.csv"
    with open(committed, newline="") as file:
        lines = file.readlines()
    chosen = [line for line in lines if line.startswith("quadratic,Adam,")]
    results = tmp_path / "results"
    results.mkdir()
    text = lines[0] + "".join(chosen)
    (results / "runs.csv").write_text(text)
    flags = ["--workloads", "quadratic", "--optimizers", "Adam", "--no-controls"]
    flags += ["--runs", str(tmp_path / "runs"), "--results", str(results), "--quiet"]
    study.main([*flags, "--collect"])
    assert (results / "runs.csv").read_text() == text
    assert "noisy quadratic" in (results / "README.md").read_text()
    again = [*flags[:3], "Adam", "Adam again", *flags[4:], "--workers", "0"]
    (task,) = [t for t in tasks.TASKS.values() if t.name == "quadratic"]

    def few(seed):
        train, *others = tasks.quadratic_parts(seed)
        return ((train[0][:64], train[1][:64]), *others)

    monkeypatch.setitem(tasks.TASKS, task.name, dataclasses.replace(task, data=few))
    study.main(again)
    with open(results / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(chosen) + 10
    assert {r["optimizer"] for r in rows[len(chosen) :]} == {"Adam again"}
    folder = comparison.Results.load(tmp_path / "runs")
    assert folder.verdicts[0].optimizer == "Adam again"
    assert (results / "sessions.json").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its columns must be workload"),
        (",".join(study.FIELDS) + "\nquadratic,Adam\n", "is damaged"),
        (
            ",".join(study.FIELDS) + "\n../..,Adam,report,1,1,0,1,1,1,,1,1\n",
            "unknown workload '../..'",
        ),
        (
            ",".join(study.FIELDS) + "\nquadratic,Adam,report,x,1,0,1,1,1,,1,1\n",
            "could not convert",
        ),
    ],
)
def test_damaged_results_are_a_sentence(text, says, tmp_path, capsys):
    (tmp_path / "runs.csv").write_text(text)
    flags = ["--collect", "--runs", str(tmp_path / "r"), "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        study.main(flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_controls_start_from_other_weights():
    assert study.ENTRIES["Adam again"].arm.weights_shift == 1000
    assert study.ENTRIES["Adam, 0.88 rate"].arm.rate_of == "AngularGrad"
    assert study.ENTRIES["AngularGrad"].arm.make is keras_gradopt.AngularGrad
