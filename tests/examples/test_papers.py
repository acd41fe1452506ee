"""The papers' tables: the data, the audit, the page, and a run beside the numbers."""

import collections
import csv
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from studies import papers
from training.optimizer_flags import make_optimizer

# by their own names, as the script imports them: one copy of each module
import papers_audit as audit  # isort: skip
import papers_page
import papers_tables as tables

pytestmark = pytest.mark.backend_independent
PAGE = Path(__file__).parents[2] / "docs" / "papers.md"


def test_no_number_is_missing():
    count = collections.Counter(cell.table for cell in tables.cells())
    wanted = {"angulargrad-1": 64, "angulargrad-2": 64, "angulargrad-3": 48}
    wanted |= {"angulargrad-4": 21, "adanorm-1": 72, "adanorm-2": 36, "adanorm-3": 27}
    wanted |= {"adanorm-4": 36, "adanorm-5": 36, "gaf-1": 60, "gaf-2": 42}
    wanted |= {"gaf-3": 24, "gaf-4": 63, "adal-1": 16}
    assert count == wanted | {f"wgd-{number}": 40 for number in range(3, 9)}
    assert list(tables.TABLES) == sorted(
        count, key=list(tables.TABLES).index
    )  # all described


def test_every_table_is_a_full_grid_without_doubles():
    for name in tables.TABLES:
        cells = tables.cells(name)
        places = {(c.dataset, c.network) for c in cells}
        methods, measures = (tables.names(name, w) for w in ("method", "measure"))
        keys = {(c.dataset, c.network, c.method, c.measure) for c in cells}
        assert len(keys) == len(cells) == len(places) * len(methods) * len(measures)
        assert {n for pair in tables.TABLES[name].pairs for n in pair} <= {*methods}
        for cell in cells:
            assert cell.value is None or 0 < cell.value < 100
            assert (cell.std is None) == (not name.startswith("angulargrad"))
            assert (cell.value is None) == (name == "adal-1")


def test_bold_numbers_are_the_best():
    for name in ("angulargrad-1", "angulargrad-2", "angulargrad-3", "angulargrad-4"):
        groups = collections.defaultdict(list)
        for cell in tables.cells(name):
            groups[cell.dataset, cell.network].append(cell)
        for cells in groups.values():
            best = sorted(cells, key=lambda c: -c.value)
            marked = {c.method for c in cells if c.bold}
            assert best[0].method in marked
            lowest = min(c.value for c in cells if c.bold)
            assert lowest >= best[1].value  # the second best is blue


def test_repeated_numbers_are_the_same_in_all_tables_of_a_paper():
    first = tables.values("adanorm-1")
    for name, label in (
        ("adanorm-2", "AdamNorm gamma=0.95"),
        ("adanorm-3", "AdamNorm, first moment"),
        ("adanorm-4", "AdamNorm rate=0.001"),
        ("adanorm-5", "AdamNorm batch=64"),
    ):
        again = {k[:2]: c for k, c in tables.values(name).items() if k[2] == label}
        assert len(again) in (6, 9)
        for place, cell in again.items():
            assert cell.value == first[*place, "AdamNorm"].value


def test_printed_gains_follow_but_for_those_that_are_named():
    assert audit.misprints() == [
        "wgd-8, cifar100, resnet50, WGDSGD, loss: bold, but worse than SGDM",
        "wgd-8, cifar100, resnet50, WGDRAdam, loss: not bold, but better than RAdam",
    ]


def test_the_audit_counts_gains_above_the_noise():
    found = {(f.table, f.claim): f for f in audit.findings()}
    assert found["angulargrad-1", "AngularGrad cos, Adam"].count == 3
    assert found["angulargrad-2", "AngularGrad cos, Adam"].count == 8
    for number in (1, 2):
        for name in ("cos", "tan"):
            line = found[f"angulargrad-{number}", f"AngularGrad {name}, the best other"]
            assert "0 after Holm's correction" in line.detail
    assert found["adanorm-1", "with AdaNorm, without: cifar10"].count == 2
    assert found["adanorm-1", "with AdaNorm, without: cifar10"].total == 12
    assert ("cifar100", "resnet18", 2.02, 0.19) in audit.best_rates()


def test_welch_and_holm():
    cells = tables.values("angulargrad-1")
    pair = [cells["cifar10", "vgg16", name] for name in ("AngularGrad cos", "Adam")]
    t = (92.87 - 92.74) / ((0.27**2 + 0.07**2) / 5) ** 0.5
    assert t == pytest.approx(1.042, abs=1e-3)
    assert audit.welch(*pair, 5) == pytest.approx(0.35, abs=0.01)
    assert audit.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    # 2.776 is the 97.5 % quantile of Student's t at 4 degrees of freedom
    assert audit.limit(1.0, 3) == pytest.approx(2.776 * (2 / 3) ** 0.5, abs=1e-3)


def test_the_page_is_the_audit_of_the_data():
    assert PAGE.read_text(encoding="utf-8") == papers_page.page()


def test_every_number_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("## All tables")[2]
    for cell in tables.cells():
        if cell.value is not None:
            assert papers_page.printed(cell) in shown
    assert len(re.findall(r"^### ", shown, re.M)) == len(tables.TABLES)


def test_methods_have_the_papers_settings():
    for name in tables.TABLES:
        for label in tables.names(name, "method"):
            found = tables.method(name, label)
            made = make_optimizer(found.optimizer, found.rate, found.settings, [])
            assert float(made.learning_rate) == pytest.approx(found.rate)
    assert tables.method("adanorm-4", "Adam rate=0.01").rate == 0.01
    assert tables.method("adanorm-5", "AdamNorm batch=128").batch_size == 128
    assert tables.method("angulargrad-1", "SGDM").rate == 0.01
    assert tables.method("angulargrad-4", "SGDM").rate == 0.1
    assert tables.method("gaf-2", "GAFSGD log (0.2, 10)").settings == {
        "momentum": 0.9, "activation": "log", "alpha": 0.2, "beta": 10.0,
    }  # fmt: skip
    assert tables.method("wgd-7", "WGDRAdam").settings == {"epsilon": 1e-10}


def test_the_list_has_all_tables_with_their_cost(capsys):
    papers.main(["--list"])
    printed = capsys.readouterr().out
    for name in tables.TABLES:
        assert re.search(rf"^{name} ", printed, re.M)
    assert re.search(r"^adanorm-1 +216 +21,600 +72 ", printed, re.M)
    assert re.search(r"^angulargrad-1 +320 +32,000 +64 ", printed, re.M)  # DLA too
    assert "animals10: train.py --recipe wgd-animals" in printed


def test_every_network_is_one_of_the_examples():
    from training.models import MODELS

    for name in tables.TABLES:
        if set(tables.names(name, "dataset")) <= set(papers.ELSEWHERE):
            continue
        for network in tables.names(name, "network"):
            assert papers.RENAMED.get(network, network) in MODELS


class Killed(Exception):
    """Instead of a kill, which a process does not survive."""


@pytest.fixture
def tiny(monkeypatch):
    """A network of two layers, and noise for CIFAR-10."""
    import keras
    import papers_runs
    import tensorflow_datasets as tfds
    from training.datasets import preparing
    from training.models import MODELS

    def network(input_shape, classes, l2=0.0, adapt_to=None):
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8)]
        layers += [keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")]
        return keras.Sequential([keras.Input(input_shape), *layers])

    monkeypatch.setitem(MODELS, "tiny", network)
    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    papers_runs.opened.cache_clear()
    papers_runs.sample.cache_clear()
    with tfds.testing.mock_data(num_examples=200):
        yield


RUN = ["angulargrad-1", "--networks", "tiny"]
RUN += ["--optimizers", "AngularGrad cos", "--seeds", "11", "12", "--epochs", "2"]
RUN += ["--keep-every", "0", "--output"]


def rows_of(folder):
    """The fields of all runs in order, but for the milliseconds of a step."""
    path = folder / "runs.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted([*line.split(",")[:10], *line.split(",")[11:]] for line in lines[1:])


def test_a_run_shows_the_papers_number_beside_ours(tiny, tmp_path, capsys):
    papers.main([*RUN, str(tmp_path)])
    printed = capsys.readouterr().out
    assert "4 runs of 2 epochs" in printed
    assert "The paper's are after 100 epochs" in printed
    ours = r"^\| cifar10 \| tiny \| AngularGrad cos \| - \| \d.* ± "
    assert re.search(ours, printed, re.M)
    assert "| cifar10 | tiny | AngularGrad cos, Adam | - | " in printed
    losses = {(row[1], row[5]): row[7] for row in rows_of(tmp_path)}
    assert len(losses) == len(set(losses.values())) == 4


@pytest.mark.slow
def test_a_killed_run_goes_on(tiny, tmp_path, monkeypatch):
    from keras_gradopt.comparison.data import Feed

    papers.main([*RUN, str(tmp_path / "whole")])
    epoch, folder = Feed.epoch, tmp_path / "killed"

    def killed(self):
        if self.number == 1 and rows_of(folder):  # the second run's second epoch
            raise Killed
        return epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "epoch", killed)
        with pytest.raises(Killed):
            papers.main([*RUN, str(folder)])
    assert len(rows_of(folder)) == 1
    papers.main([*RUN, str(folder)])
    assert rows_of(folder) == rows_of(tmp_path / "whole")


def test_the_report_has_the_papers_numbers():
    import math

    import numpy as np

    from keras_gradopt.comparison.results import Verdict

    found = {
        ("cifar100", "resnet18", "Adam"): np.array([70.0, 71.0]),
        ("cifar100", "resnet18", "AdamNorm"): np.array([72.0, 73.5]),
    }
    row = Verdict(
        "", "", "AdamNorm", "Adam", "undecided", mean=0.0225, low=-0.01, high=0.055,
        share=math.nan, p=1.0, p_equivalent=1.0, margin=0.005, detectable=0.031,
        count=2, diverged=0,
    )  # fmt: skip
    verdicts = {("cifar100", "resnet18", "AdamNorm", "Adam"): row}
    text = papers.report("adanorm-1", found, verdicts, "Title.")
    assert "| cifar100 | resnet18 | AdamNorm | 73.11 | 72.75 ± 1.06 | 2 |" in text
    compared = "| cifar100 | resnet18 | AdamNorm, Adam | +2.02 | +2.25 (-1.00 to +5.50)"
    assert f"{compared} | 3.10 |" in text
    verdicts["cifar100", "resnet18", "AdamNorm", "RAdam"] = row
    text = papers.report("adanorm-1", found, verdicts, "Title.")
    assert f"{compared} | 3.10 |" in text  # a method with several bases
    assert "| AdamNorm, RAdam | " in text


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["gaf-4"], "nothing is left to run"),
        (["adanorm-1", "--optimizers", "Adam"], "--optimizers must name one of"),
        (["adanorm-1", "--datasets", "mnist"], "no data set 'mnist' in it"),
        (["adanorm-1", "--networks", "resnet1"], "unknown network 'resnet1'"),
        ([], "which table?"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit):
        papers.main(flags)
    assert sentence in capsys.readouterr().err


def test_schedules_keep_their_shares():
    import papers_runs

    step = papers_runs.schedule("step:50,100", 150)
    assert [step(p) for p in (0.0, 0.33, 1 / 3, 0.66, 2 / 3)] == [1, 1, 0.1, 0.1, 0.01]
    assert papers_runs.schedule("cosine", 200) == "cosine"
    with pytest.raises(ValueError, match="unknown schedule"):
        papers_runs.schedule("cosine:5", 150)


def test_the_small_run_has_the_numbers_of_its_rows():
    with open(PAGE.parent / "studies/papers/adanorm-1_small.csv") as file:
        rows = list(csv.DictReader(file))
    page = PAGE.read_text()
    for dataset in ("cifar10", "cifar100", "tiny_imagenet"):
        cells = []
        for name in ("Adam", "AdamNorm"):
            found = [
                100 * float(row["test_accuracy"])
                for row in rows
                if (row["task"].split()[0], row["optimizer"]) == (dataset, name)
            ]
            assert len(found) == 2
            cells.append(f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f}")
        assert f"| {dataset} | {' | '.join(cells)} |" in page
