"""compare.py: its search, its statistics, its controls; small runs resumed."""

import csv
import itertools
import json
import math
import re

import numpy as np
import pytest

pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

import compare
import workloads
from matplotlib.figure import Figure
from matplotlib.text import Text
from training.run_files import alone_in

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("best", "tried"), [(1e-2, 6), (3e-4, 7), (1e-4, 8), (1e-1, 7), (1.0, 9)]
)
def test_search_is_extended_while_the_best_is_at_an_edge(best, tried):
    asked = []

    def run(index):
        asked.append(index)
        rate = compare.half_decade(index)
        return math.inf if rate > 20 * best else abs(math.log(rate / best))

    losses = compare.search(run)
    assert compare.half_decade(compare.best_index(losses)) == best
    assert len(asked) == len(set(asked)) == tried


def test_search_ends_when_everything_diverges():
    losses = compare.search(lambda index: math.inf)
    assert min(losses) == compare.EDGES[0]


def test_paired_statistics():
    """Exact p of the sign-flip test, and intervals that cover what they should."""
    random = np.random.default_rng(0)
    shift = compare.paired(np.arange(10) + 1.0, np.zeros(10))
    assert shift["p"] == pytest.approx(2 / 2**10)
    assert shift["low"] < shift["mean"] == 5.5 < shift["high"]
    covered = detected = 0
    for _ in range(100):
        a, b = random.normal(size=(2, 10))
        found = compare.paired(a, b)
        covered += found["low"] <= 0 <= found["high"]
        detected += found["p"] < 0.05
    assert covered > 80
    assert detected < 15
    same = compare.paired(np.ones(10), np.ones(10))
    assert same["p"] == 1 and same["mean"] == 0
    assert math.isnan(compare.paired(np.array([1, np.inf]), np.ones(2))["mean"])


def test_holm_and_verdict():
    assert compare.corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    lower = {"mean": -1.0, "low": -2.0, "high": -0.5}
    assert compare.verdict(lower, 0.01) == "better"
    assert compare.verdict(lower, 0.01, lower_is_better=False) == "worse"
    assert compare.verdict(lower, 0.06) == "no detectable difference"
    across = {"mean": -1.0, "low": -2.0, "high": 0.5}
    assert compare.verdict(across, 0.01) == "no detectable difference"
    nan = {"mean": math.nan, "low": math.nan, "high": math.nan}
    assert compare.verdict(nan, 1.0) == "diverged"


def test_families_are_small_enough_to_detect_anything():
    """Ten seeds give p = 2 / 1024 at best, which Holm multiplies by their number."""
    for with_adam in (True, False):
        family = [
            other
            for name in compare.ENTRIES
            for other in compare.ENTRIES[name].against
            if (other == "Adam") == with_adam
        ]
        assert len(family) * 2 / 2 ** len(compare.REPORT_SEEDS) < 0.05


@pytest.fixture
def small(monkeypatch):
    """The quadratic, for a few steps."""
    workload = workloads.WORKLOADS["quadratic"]
    parts = workload.parts

    def few(seed):
        train, validation, test = parts(seed)
        return workloads.Parts((train[0][:64], train[1][:64]), validation, test)

    changed = workloads.Workload("small", few, workload.network, workload.loss, 2, 16)
    changed = workloads.Workload(**{**vars(changed), "classifies": False})
    monkeypatch.setitem(workloads.WORKLOADS, "quadratic", changed)
    return changed


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("Adam", "Nadam", "AngularGrad", "WGDSGD")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in compare.ENTRIES
    ],
)
def test_runs_do_not_know_of_each_other(small, name):
    """The same seed gives the same, whatever ran before in the same process."""
    trainer = compare.Trainer(small, compare.ENTRIES[name].make(1e-3))
    first = trainer.run(0.01, 1)
    trainer.run(0.1, 2)
    again = trainer.run(0.01, 1)
    first["ms_per_step"] = again["ms_per_step"] = 0
    assert first == again
    assert first["test_loss"] != trainer.run(0.01, 2)["test_loss"]


def test_a_job_is_resumed(small, tmp_path, monkeypatch):
    """A row that a kill cut off is run again, and no other; order does not matter."""
    rate = compare.run_job(tmp_path, "quadratic", "AngularGrad", (1, 2), (11, 12))
    path = tmp_path / "quadratic" / "AngularGrad.csv"
    whole = path.read_text()
    rows = list(csv.DictReader(whole.splitlines()))
    assert {r["stage"] for r in rows} == {"tuning", "report"}
    assert {float(r["learning_rate"]) for r in rows if r["stage"] == "report"} == {rate}
    assert sum(r["stage"] == "report" for r in rows) == 2
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:20])
    runs, run = [], compare.Trainer.run
    monkeypatch.setattr(
        compare.Trainer,
        "run",
        lambda self, *args: runs.append(args) or run(self, *args),
    )
    assert (
        compare.run_job(tmp_path, "quadratic", "AngularGrad", (1, 2), (11, 12)) == rate
    )
    assert runs == [(rate, 11, 0), (rate, 12, 0)]
    again = list(csv.DictReader(path.read_text().splitlines()))
    for a, b in zip(rows, again, strict=True):
        assert {**a, "ms_per_step": 0} == {**b, "ms_per_step": 0}


@pytest.mark.slow
def test_collected_results_are_taken_over(small, tmp_path, monkeypatch):
    """Runs that are lost, but were collected, are not run again."""
    flags = ["--workloads", "quadratic", "--optimizers", "AdamNorm", "--tuning-seeds"]
    flags += ["1", "--seeds", "11", "12", "--quiet", "--no-controls"]
    flags += ["--results", str(tmp_path / "results"), "--runs"]
    for name in ("Adam", "AdamNorm"):
        compare.run_job(tmp_path / "runs", "quadratic", name, (1,), (11, 12))
    compare.main([*flags, str(tmp_path / "runs"), "--collect"])
    first = (tmp_path / "results" / "runs.csv").read_text()
    monkeypatch.setattr(compare, "run_all", lambda args: None)
    compare.main([*flags, str(tmp_path / "new")])
    assert (tmp_path / "results" / "runs.csv").read_text() == first
    (session,) = json.loads((tmp_path / "results" / "sessions.json").read_text())
    assert session["optimizers"] == ["Adam", "AdamNorm"]
    monkeypatch.setattr(compare, "Trainer", None)  # nothing is left to be run
    compare.run_job(tmp_path / "new", "quadratic", "AdamNorm", (1,), (11, 12))


def row_text(**changes):
    """A header and a row that a run could have written."""
    row = {
        "workload": "quadratic", "optimizer": "Adam", "stage": "report",
        "learning_rate": "0.01", "seed": "11", "diverged": "0", "train_loss": "1.5",
        "validation_loss": "1.5", "test_loss": "1.5", "test_accuracy": "",
        "ms_per_step": "1", "validation_losses": "2 1.5",
    } | changes  # fmt: skip
    return ",".join(row) + "\n" + ",".join(row.values()) + "\n"


DAMAGED_ROWS = {
    "a way out": (row_text(optimizer="../../escaped"), "unknown optimizer"),
    "a workload's way out": (row_text(workload="../.."), "unknown workload"),
    "a stage": (row_text(stage="training"), "unknown stage 'training'"),
    "a seed": (row_text(seed="x"), "invalid literal"),
    "a loss": (row_text(test_loss=""), "could not convert"),
    "a rate": (row_text(learning_rate="fast"), "could not convert"),
    "losses": (row_text(validation_losses=""), "no validation losses"),
    "a column": (row_text(more="1"), "its columns are others"),
    "too few": (row_text() + "quadratic,Adam\n", "line 3 is damaged: a row has"),
    "another result": (
        row_text() + row_text(test_loss="9").splitlines()[1],
        "line 3 is damaged: this run is there twice",
    ),
    "empty": ("", "its columns are others"),
    "bytes": (b"\xff\xfe\x00", "can't decode"),
}


@pytest.mark.parametrize("damage", DAMAGED_ROWS)
def test_damaged_results_are_a_sentence(damage, tmp_path, capsys):
    content, says = DAMAGED_ROWS[damage]
    content = content if isinstance(content, bytes) else content.encode()
    flags = ["--workloads", "quadratic", "--optimizers", "Adam", "--collect"]
    flags += ["--no-controls", "--runs", str(tmp_path / "a" / "runs")]
    flags += ["--results", str(tmp_path / "results")]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        compare.main(flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/results/runs.csv" in error and says in error
    assert error.count("\n") == 1
    found = {path.name for path in tmp_path.rglob("*")}
    assert found == {"a", "runs", ".lock", "results", "runs.csv"}


def test_a_row_that_is_there_twice_counts_once(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(row_text() + row_text().splitlines()[1] + "\n")
    assert len(compare.read_rows(path)) == 1


@pytest.mark.parametrize("content", ["", "{}", "[", "\x00"])
def test_damaged_sessions_are_a_sentence(content, tmp_path, capsys):
    (tmp_path / "sessions.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        compare.main(["--runs", str(tmp_path), "--results", str(tmp_path / "results")])
    assert stop.value.code == 2
    assert f"{tmp_path}/sessions.json is damaged" in capsys.readouterr().err


def test_two_comparisons_in_one_folder(tmp_path, capsys):
    with alone_in(tmp_path), pytest.raises(SystemExit):
        compare.main(["--runs", str(tmp_path)])
    assert f"another run is writing to {tmp_path}" in capsys.readouterr().err


def test_a_diverged_run_is_infinite(small):
    row = compare.Trainer(small, compare.momentum(1e-3)).run(1e6, 1)
    assert row["diverged"] == 1
    assert row["validation_loss"] == row["test_loss"] == math.inf


def test_adam_again_has_other_initial_weights_only(small, tmp_path, monkeypatch):
    """The control is paired as all others are: same data, in the same order."""
    seeds, batches = [], []

    class Spy(compare.Trainer):
        def reset(self, seed):
            seeds.append(seed)
            super().reset(seed)
            batches.append([])
            train = self.model.train_on_batch
            self.model.train_on_batch = lambda x, y: (
                batches[-1].append(x) or train(x, y)
            )

    monkeypatch.setattr(compare, "Trainer", Spy)
    for name in ("Adam", "Adam again"):
        compare.run_job(tmp_path, "quadratic", name, (), (11,), rate=0.01)
    assert seeds == [11, 1011]
    np.testing.assert_array_equal(*batches)
    one, two = (
        compare.Rows(tmp_path, "quadratic", name).find("report", 0.01, 11)
        for name in ("Adam", "Adam again")
    )
    assert one["test_loss"] != two["test_loss"]


def test_spread_of_pairs():
    """A test for pairs sees a spread that one for independent samples would not."""
    random = np.random.default_rng(0)
    adam = random.normal(size=10)
    narrow = 0.8 * adam + random.normal(size=10) / 100
    rows = rows_of("Adam", adam) + rows_of("AngularGrad", narrow)
    ratio, p = compare.Results(rows).spread("digits-cnn", "AngularGrad", "Adam")
    assert ratio == pytest.approx(0.8, abs=0.02)
    assert p < 0.01
    narrow[3] += 100  # one run that did not arrive says nothing of the spread
    rows = rows_of("Adam", adam) + rows_of("AngularGrad", narrow)
    ratio, p = compare.Results(rows).spread("digits-cnn", "AngularGrad", "Adam")
    assert ratio > 10 and p > 0.5


def rows_of(optimizer, losses, rate=0.01, stage="report"):
    rows = []
    for seed, loss in enumerate(losses):
        row = dict.fromkeys(compare.FIELDS, "0")
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
    results = compare.Results(rows)
    found = {r["optimizer"]: r for r in results.comparisons("digits-cnn")}
    assert found["AngularGrad"]["verdict"] == "better"
    assert found["AngularGrad"]["mean"] == pytest.approx(-1, abs=0.05)
    assert found["AdamNorm"]["verdict"] == "no detectable difference"
    assert results.target("digits-cnn") == pytest.approx(2.1)
    assert (results.epochs_to_target("digits-cnn", "AngularGrad") == 2).all()
    assert results.sensitivity("digits-cnn", "Adam")[1] == [2.5, 2.0, 4.0]
    text = compare.table(results, "digits-cnn")
    assert "| AngularGrad | 0.01 | " in text and "2 (10 of 10)" in text
    assert "| better |" in compare.comparison_table(results, "digits-cnn")
    assert re.search(
        r"AngularGrad \| Adam \| \*\*-5\d\.\d better", compare.overview(results)
    )
    page = compare.report(results)
    assert "## CNN on digits" in page and "from the 57 runs" in page
    assert (results.rising("digits-cnn", "Adam") == 0).all()
    still = compare.unfinished(
        results, ["digits-cnn", "quadratic"], ["Adam", "WGDAdam"], range(10)
    )
    assert still.splitlines()[2:] == [
        "- CNN on digits: WGDAdam",
        "- noisy quadratic: Adam",
    ]
    ratio, p = results.spread("digits-cnn", "AdamNorm", "Adam")
    assert ratio == pytest.approx(adamnorm.std() / adam.std())
    assert 0.05 < p <= 1
    assert "| AngularGrad |" in compare.spreads(results)
    compare.plot_sensitivity(results, tmp_path / "s.png")
    compare.plot_differences(results, tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 10_000


class EveryComparison(compare.Results):
    """Made up: all optimizers against all that they are compared with."""

    def __init__(self):
        self.workloads = list(compare.WORKLOADS)

    def comparisons(self, workload, measure="test_loss"):
        far = 50.0 if workload == "quadratic" else 0.3
        return [
            {
                "optimizer": name, "against": against, "verdict": "better",
                "mean": 0.0, "low": -0.01, "high": far,
            }
            for name, entry in compare.ENTRIES.items()
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
    compare.plot_differences(EveryComparison(), tmp_path / "d.png")
    (figure,) = figures
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    width = figure.get_size_inches()[0]
    smallest = min(text.get_fontsize() for text in texts) * 368 / (72 * width)
    assert smallest >= 7
    labels = [t for t in texts if t.get_text() in compare.ENTRIES]
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
    text = compare.smoothness(compare.Results(rows))
    assert "| WGDSGD | SGD | 5.0% | 50.0% | -50.0% to -35.0% | 0.004 |" in text


def test_parse():
    args = compare.parse(["--optimizers", "DiffGradNorm"])
    assert args.optimizers == ["Adam", "DiffGrad", "DiffGradNorm", "Adam again"]
    args = compare.parse(["--optimizers", "AngularGrad", "--no-controls"])
    assert args.optimizers == ["Adam", "AngularGrad"]
    for flags in (
        ["--seeds", "1", "2"], ["--seeds", "-1"], ["--seeds", "11", "11"],
        ["--workers", "0"], ["--runs", ""],
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            compare.parse(flags)


@pytest.mark.parametrize("name", workloads.WORKLOADS)
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
        monkeypatch.setattr(workloads, "fashion", lambda: fake)
    workload = workloads.WORKLOADS[name]
    parts = workload.parts(1)
    again, other = workload.parts(1), workload.parts(2)
    assert (parts.train[0] == again.train[0]).all()
    assert (parts.train[0] != other.train[0]).any()
    if name != "quadratic":
        images = [
            {row.tobytes() for row in x[:500]} for x, _ in (parts.train, parts.test)
        ]
        assert len(images[0] & images[1]) < 5
    trainer = compare.Trainer(workload, compare.ENTRIES["Adam"].make(1e-3))
    assert np.isfinite(trainer.measure([p[:64] for p in parts.validation])).all()
    assert compare.has_kernels(name) == (name in ("digits-cnn", "fashion-cnn", "words"))
