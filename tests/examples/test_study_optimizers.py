"""The study on optimizers: its plan, verdicts, tables and pictures; a small run."""

import dataclasses
import itertools
import re
import shutil
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
from keras_gradopt.comparison import files, plans, statistics

commits = sys.modules["commits"]
entries = sys.modules["optimizers_entries"]
report = sys.modules["optimizers_report"]
pages = sys.modules["optimizers_pages"]
pictures = sys.modules["optimizers_pictures"]
tasks = sys.modules["optimizers_tasks"]

pytestmark = pytest.mark.backend_independent
DOCS = commits.ROOT / "docs"
FOLDER = DOCS / "studies/optimizers"
SEEDS = study.REPORT_SEEDS


def plan_of_the_study(**changes):
    plan = plans.Plan(
        measure="test_loss", higher_is_better=False, margin=0.02, margin_is_share=True,
        level=0.05, test="sign-flip", families=dict(study.COMPARISONS), seeds=SEEDS,
        tuning_seeds=study.TUNING_SEEDS, grid=(3e-4, 1e-1), refine=True,
    )  # fmt: skip
    return dataclasses.replace(plan, **changes)


def results_of(folder, losses, **changes):
    """A comparison's results, of test losses by task and optimizer."""
    declaration = plans.Declaration(folder / files.DECLARATION)
    facts = {
        "metrics": ["accuracy"], "resplit": False, "batch_size": 64, "parameters": 10,
        "loss": "crossentropy", "epochs": 2, "steps_per_epoch": 3, "schedule": "cosine",
    }  # fmt: skip
    made = {
        "backend": "jax", "device": "cpu", "keras": {},
        "tasks": dict.fromkeys(tasks.TASKS, facts),
        "optimizers": {key: {} for key in entries.ENTRIES},
    }  # fmt: skip
    declaration.declare(plan_of_the_study(**changes), made, {}, 0)
    rows = files.Rows(folder / files.RUNS)
    rows.widen(("validation_accuracy", "test_accuracy"))
    for (task, name), values in losses.items():
        for stage, seeds in (("report", SEEDS), ("tuning", study.TUNING_SEEDS)):
            for seed, loss in zip(seeds, values):
                row = dict.fromkeys(files.FIELDS, 0)
                row |= {"task": task, "optimizer": name, "stage": stage, "seed": seed}
                row |= {"learning_rate": 0.01, "arguments": "", "test_loss": loss}
                row |= {"validation_loss": loss, "train_loss": loss}
                row |= {"validation_losses": f"3 {loss}", "test_accuracy": 0.9}
                rows.add(row)
    return report.Study(comparison.Results.load(folder))


def test_the_plan_says_what_the_code_does():
    """Families, their size, and what they find, as the committed plan has them."""
    text = (FOLDER / "plan.md").read_text()
    found = re.findall(r"^\| (\S+) \|.*\| (\d+) \| ([\d.]+) \|$", text, re.M)
    assert len(found) == len(study.COMPARISONS) - 1  # all but the exploratory one
    for family, count, detectable in found:
        wanted = [
            (task, ours)
            for ours, _ in study.COMPARISONS[family]
            for task in tasks.TASKS
            if (task, ours) not in report.NEVER_RUN
        ]
        assert len(wanted) == int(count)
        least = statistics.detectable(len(SEEDS), "sign-flip", 0.05 / len(wanted))
        assert least == pytest.approx(float(detectable), abs=0.01)
        assert statistics.smallest_p(len(SEEDS), "sign-flip") * len(wanted) < 0.05
    assert not {*SEEDS} & {*study.TUNING_SEEDS}


def test_families_and_turns():
    """Primary entries come first, and all that they are compared with."""
    for family, pairs in study.COMPARISONS.items():
        names = {name for pair in pairs for name in pair}
        assert names <= entries.ENTRIES.keys()
        if family != entries.EXPLORATORY:
            assert {entries.ENTRIES[name].turn for name in names} == {1}
    compared = {n for ps in study.COMPARISONS.values() for p in ps for n in p}
    assert compared == entries.ENTRIES.keys()
    turns = [set(entries.left_out(turn)) for turn in (1, 2, 3, 4)]
    assert turns[0] > turns[1] > turns[2] > turns[3] == report.NEVER_RUN
    assert ("autoencoder", "WGDAdam") in turns[3]
    assert ("words", "Adam") in entries.left_out(4, ["quadratic"])
    for name, other, factor in (
        ("Adam at 0.88 of AngularGrad", "AngularGrad", 0.88),
        ("Adam at 1.25 of AdamNorm", "AdamNorm", 1.25),
    ):
        arm = entries.ENTRIES[name].arm
        assert (arm.rate_of, arm.factor) == (other, factor)
        assert arm.make is keras_gradopt.AdamCore
    assert entries.ENTRIES["Adam again"].arm.weights_shift == 1000


def known_outcome():
    """AdamNorm is better everywhere; `cos` is Adam at 0.88; `tan`, once, by chance."""
    random = np.random.default_rng(0)
    losses = {}
    for task in tasks.TASKS:
        adam = 2 + random.normal(size=12) / 10
        losses[task, "Adam"] = adam
        losses[task, "AngularGrad"] = adam + random.normal(size=12) / 200
        losses[task, "Adam at 0.88 of AngularGrad"] = adam
        losses[task, "AdamNorm"] = 0.9 * adam
        losses[task, "Adam at 1.25 of AdamNorm"] = adam
        losses[task, "AngularGrad tan"] = adam + random.normal(size=12) / 10
    losses["words", "AngularGrad tan"] = losses["words", "Adam"] + np.append(
        np.linspace(0.05, 0.2, 10), [-0.06, -0.12]
    )
    return losses


@pytest.mark.slow
def test_verdicts_are_corrected_over_all_tasks(tmp_path):
    found = results_of(tmp_path, known_outcome())
    of = {(v.task, v.optimizer, v.other): v for v in found.verdicts}
    for task in tasks.TASKS:
        assert of[task, "AdamNorm", "Adam"].verdict == "better"
        assert of[task, "AdamNorm", "Adam"].p == pytest.approx(12 * 2 / 2**12)
        same = of[task, "AngularGrad", "Adam at 0.88 of AngularGrad"]
        assert same.verdict == "equivalent"
    chance = of["words", "AngularGrad tan", "Adam"]
    raw = statistics.flipped(
        np.subtract(*(found.results.values("words", n) for n in chance_names()))
    )
    assert raw < 0.05 / 3  # in a family of its task it would be worse
    assert chance.p > 0.05 and chance.verdict == "undecided"


def chance_names():
    return "AngularGrad tan", "Adam"


def test_missing_runs_count_and_are_told(tmp_path):
    losses = known_outcome()
    losses = {k: v for k, v in losses.items() if k[0] == "words"}
    found = results_of(tmp_path, losses)
    of = {(v.optimizer, v.other): v for v in found.verdicts}
    assert of["AdamNorm", "Adam"].p == pytest.approx(12 * 2 / 2**12)
    missing = found.missing()
    assert "CNN on digits" in missing["AdamNorm - Adam"]
    assert "language of words" not in missing["AdamNorm - Adam"]
    assert missing["WGDAdam - Adam"] == [
        "CNN on digits", "language of words", "CNN on Fashion-MNIST",
    ]  # fmt: skip
    page = report.report(found, "all at abc")
    assert "**Still to be run**" in page
    assert "- AdamNorm - Adam: CNN on digits; noisy quadratic; " in page


@pytest.mark.slow
def test_exploratory_comparisons_have_no_verdict(tmp_path):
    losses = known_outcome()
    for task in tasks.TASKS:
        losses[task, "DiffGrad"] = 2 * losses[task, "Adam"]
    found = results_of(tmp_path, losses)
    explored = [v for v in found.verdicts if v.family == entries.EXPLORATORY]
    assert len(explored) == 6
    assert {v.verdict for v in explored} == {""}
    assert explored[0].p == pytest.approx(2 / 2**12)  # and p is not corrected
    text = report.details(found, entries.EXPLORATORY)
    assert "| CNN on digits | DiffGrad - Adam | +100.0 |" in text
    assert "better" not in text and "worse" not in text


@pytest.mark.slow
def test_page_and_pictures(tmp_path):
    found = results_of(tmp_path, known_outcome())
    page = report.report(found, "all at abc")
    assert f"{6 * 6 * 15} rows" in page and "all at abc" in page
    assert page.count("**-10.0 better**") == 6 * 2  # with Adam and with its control
    mean = 2 + np.random.default_rng(0).normal(size=12).mean() / 10
    assert f"| Adam | 0.01 | {mean:.4g} ± " in page
    assert report.target(found, "words") == pytest.approx(
        1.05 * np.mean(found.results.values("words", "Adam", "test_loss", "tuning"))
    )
    assert (report.epochs_to_target(found, "words", "AdamNorm") == 2).all()
    assert report.rising(found, "words", "Adam") == 0
    pictures.plot_sensitivity(found, tmp_path / "s.png")
    pictures.plot_differences(found, tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 10_000


def test_no_run_with_a_divergence_is_a_mean(tmp_path):
    losses = known_outcome()
    losses["words", "AdamNorm"] = [np.inf, *losses["words", "AdamNorm"][1:]]
    found = results_of(tmp_path, losses)
    text = report.family_table(found, "AdaNorm")
    assert "1 of 12 diverged" in text and "nan" not in text
    assert "1 of 12 diverged" in report.details(found, "AdaNorm")


@pytest.mark.slow
def test_differences_can_be_read_on_a_phone(tmp_path, monkeypatch):
    """368 pixels wide, letters of at least 8, nothing cut and nothing on another."""
    losses = known_outcome()
    for pairs in study.COMPARISONS.values():
        for name in itertools.chain(*pairs):
            for task in tasks.TASKS:
                losses.setdefault((task, name), losses[task, "AngularGrad tan"] * 40)
    figures = []
    save = Figure.savefig

    def keep(figure, path, **keywords):
        figures.append(figure)
        save(figure, path, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    pictures.plot_differences(results_of(tmp_path, losses), tmp_path / "d.png")
    (figure,) = figures
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    width = figure.get_size_inches()[0]
    smallest = min(text.get_fontsize() for text in texts) * 368 / (72 * width)
    assert smallest >= 7
    labels = [t for t in texts if "\n- " in t.get_text()]
    assert len(labels) == 11
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


@pytest.mark.parametrize("name", tasks.TASKS)
def test_tasks(name, monkeypatch):
    """Parts are disjoint, and the same for all seeds; the network fits them."""
    if name == "words":
        pytest.importorskip("wordfreq")
    if "fashion" in name:
        random = np.random.default_rng(0)
        fake = {}
        for part, size in (("train", 6100), ("test", 5100)):
            fake[f"{part}_x"] = random.integers(0, 256, (size, 28, 28, 1), "uint8")
            fake[f"{part}_y"] = random.integers(0, 10, size)
        monkeypatch.setattr(tasks, "fashion", lambda: fake)
    task = tasks.TASKS[name]
    parts, other = task.parts(1), task.parts(2)
    assert not task.resplit
    assert (parts.test[0] == other.test[0]).all()
    assert (parts.validation[0] == other.validation[0]).all()
    assert (parts.train[0] == other.train[0]).all() == (name != "quadratic")
    if name != "quadratic":
        images = [{row.tobytes() for row in x[:500]} for x, _ in parts]
        for one, another in itertools.combinations(images, 2):
            assert len(one & another) < 5
    few = comparison.Parts(*((x[:64], y[:64]) for x, y in parts))
    trainer = comparison.training.Trainer(task, keras_gradopt.AdamCore(1), few)
    found = comparison.data.evaluate(trainer.model, few.validation, None)
    assert np.isfinite(list(found.values())).all()
    assert tasks.has_kernels(name) == (name in ("digits-cnn", "fashion-cnn", "words"))


@pytest.mark.slow
def test_a_small_run(tmp_path, monkeypatch, capsys):
    """Runs, goes on after rows were lost, and collects."""
    quadratic = tasks.TASKS["quadratic"]

    def few(seed):
        train, *others = tasks.quadratic_parts(seed)
        return ((train[0][:64], train[1][:64]), *others)

    small = {"quadratic": dataclasses.replace(quadratic, data=few, epochs=1)}
    names = ("Adam", "Adam again")
    monkeypatch.setattr(study, "TASKS", small)
    monkeypatch.setattr(study, "ENTRIES", {n: entries.ENTRIES[n] for n in names})
    monkeypatch.setattr(study, "COMPARISONS", {entries.CONTROL: [names[::-1]]})
    monkeypatch.setattr(study, "left_out", lambda *_: [])
    flags = ["--folder", str(tmp_path), "--turn", "1", "--workers", "0", "--quiet"]
    study.main([*flags, "--allow-dirty"])
    rows = (tmp_path / files.RUNS).read_text().splitlines()
    assert len(rows) > 1 + 3 * 8 + 2 * 12
    page = (tmp_path / "README.md").read_text()
    assert "| Adam again - Adam |" in page and "Still to be run" not in page
    (tmp_path / files.RUNS).write_text("\n".join(rows[:-5]) + "\n")
    study.main([*flags, "--allow-dirty"])
    again = (tmp_path / files.RUNS).read_text().splitlines()
    assert len(again) == len(rows)
    sessions = files.read_json(tmp_path / "sessions.json", list)
    assert [s["first_row"] for s in sessions] == [1, len(rows) - 5]
    assert f"{len(rows) - 5} to {len(rows) - 1} at commit" in " ".join(
        (tmp_path / "README.md").read_text().split()
    )
    assert "Everything else is in" in capsys.readouterr().out


def test_rows_are_made_at_a_commit(tmp_path, monkeypatch, capsys):
    """Not with changes that are in none."""
    monkeypatch.setattr(commits, "ROOT", tmp_path)  # no checkout
    with pytest.raises(SystemExit) as stop:
        study.main(["--folder", str(tmp_path / "results")])
    assert stop.value.code == 2
    assert "commit first" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_damaged_rows_are_a_sentence(tmp_path, capsys):
    (tmp_path / files.RUNS).write_text("quadratic,Adam\n")
    with pytest.raises(SystemExit) as stop:
        study.main(["--folder", str(tmp_path), "--allow-dirty"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "is damaged: its columns must be" in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "{}", "3", '"x"', "[3]", "[{}]", '[{"a": 1}]'])
def test_damaged_sessions_are_a_sentence(text, tmp_path, capsys):
    (tmp_path / commits.SESSIONS).write_text(text)
    with pytest.raises(SystemExit) as stop:
        study.main(["--folder", str(tmp_path), "--allow-dirty"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert commits.SESSIONS in error and error.count("\n") == 1
    assert (tmp_path / commits.SESSIONS).read_text() == text


@pytest.mark.slow
def test_names_in_rows_write_nothing_elsewhere(tmp_path):
    """A task called `../../escaped` in the rows makes no file there."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    for name in ("declaration.json", files.RUNS, commits.SESSIONS):
        shutil.copy(FOLDER / name, folder)
    rows = (folder / files.RUNS).read_text().splitlines()
    task = rows[1].partition(",")[0]
    rows[1] = rows[1].replace(task, "../../escaped", 1)
    (folder / files.RUNS).write_text("\n".join(rows) + "\n")
    study.main(["--folder", str(folder), "--collect"])
    assert "README.md" in {path.name for path in folder.iterdir()}
    elsewhere = [path for path in tmp_path.rglob("*") if folder not in path.parents]
    assert {path.name for path in elsewhere} == {"a", "b", "c"}


@pytest.fixture(scope="module")
def published():
    return report.Study(comparison.Results.load(FOLDER))


def test_the_tables_follow_from_the_committed_rows(published):
    """The page is what `--collect` writes."""
    made_at = commits.made_at(FOLDER, len(published.results.rows))
    assert "dirty" not in made_at and "unknown" not in made_at
    assert (FOLDER / "README.md").read_text() == report.report(published, made_at)


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.stem)
def test_pages_say_what_the_rows_say(path, published):
    """Between the comments is what `--collect` writes there."""
    assert path.read_text() == pages.filled(path.read_text(), published)


def test_a_comparison_that_is_not_declared_is_no_sentence(published):
    with pytest.raises(KeyError, match="no comparison 'AdaNorm - Adam'"):
        pages.filled("<!--rows: difference AdaNorm - Adam--><!--/rows-->", published)


def test_the_papers_pages_have_sentences_from_rows():
    named = {path.stem for path in pages.pages()}
    methods = {"angulargrad", "adanorm", "gaf", "adal", "wgd"}
    assert named >= methods | {"study", "claims"}
