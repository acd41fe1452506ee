"""The study on Fashion-MNIST: its search, and what it makes of finished runs."""

import csv
import json
import math

import pytest

pytest.importorskip("matplotlib")

from studies import fashion_mnist as study

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("best", "tried"),
    [(1e-3, 3), (3e-3, 4), (3e-2, 6), (1e-4, 5), (1e-6, 9)],
)
def test_rates_are_extended_while_the_best_is_at_an_edge(best, tried, monkeypatch):
    asked = {}

    def run_all(tasks, workers, title):
        results = {}
        for task in tasks:
            network, optimizer, rate, *_ = task
            asked.setdefault((network, optimizer), set()).add(rate)
            loss = abs(math.log(rate / best))
            loss = None if rate > 50 * best else loss  # diverged
            results[task] = {"metrics": {"last_val_loss": loss}}
        return results

    monkeypatch.setattr(study, "run_all", run_all)
    rates = study.tuned_rates(study.Path("runs"), 1)
    assert set(rates.values()) == {best}
    assert len(rates) == len(study.NETWORKS) * len(study.OPTIMIZERS)
    for grid in asked.values():
        assert len(grid) == tried
        assert {3e-4, 1e-3, 3e-3} <= grid


def test_half_decades():
    found = [study.half_decade(index) for index in range(-4, 4)]
    assert found == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]


def write_run(folder, rate, seed, accuracies):
    folder.mkdir(parents=True)
    run = {
        "run": {"learning_rate": rate},
        "arguments": {"seed": seed},
        "seconds": 1800,
        "commit": "abc",
        "versions": {"keras": "3"},
    }
    (folder / "run.json").write_text(json.dumps(run))
    rows = ["epoch,accuracy,loss,val_accuracy,val_loss,learning_rate"]
    for epoch, accuracy in enumerate(accuracies, 1):
        rows.append(f"{epoch},{accuracy + 0.01},0.5,{accuracy},0.25,0")
    (folder / "history.csv").write_text("\n".join(rows) + "\n")


def test_finished_runs_become_a_table_and_a_picture(tmp_path, capsys):
    runs, results = tmp_path / "runs", tmp_path / "results"
    for seed, last in ((1, 0.90), (2, 0.92)):
        write_run(runs / f"study-resnet20-adam-{seed}", 3e-3, seed, [0.8, last])
    write_run(runs / "pilot-resnet20-adam--1", 3e-4, 100, [0.3, 0.4])
    (runs / "study-resnet20-adam-3").mkdir()  # not finished: left out
    study.main(["--collect", "--runs", str(runs), "--results", str(results)])
    shown = capsys.readouterr().out
    assert "| ResNet-20 | Adam | 0.003 | 90.00, 92.00 | 91.00 % | 0.250 |" in shown
    with open(results / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == 2 * ["pilot"] + 4 * ["study"]
    assert {row["learning_rate"] for row in rows} == {"0.0003", "0.003"}
    about = json.loads((results / "study.json").read_text())
    assert about["hours_of_one_core"] == 1.5 and about["commits"] == ["abc"]
    assert (results / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    write_run(tmp_path / "done", 1e-3, 1, [0.5])
    monkeypatch.setattr(study.subprocess, "run", None)
    task = ("resnet20", "adam", 1e-3, ("--seed", "1"), str(tmp_path / "done"))
    assert study.run(task)["commit"] == "abc"


def test_what_is_no_finished_run_is_a_sentence(tmp_path, monkeypatch, capsys):
    """A training that failed, a damaged `run.json`, nothing at all, no workers."""
    task = ("resnet20", "adam", 1e-3, ("--seed", "1"), str(tmp_path / "run"))
    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(study.RunError, match=r"has no results; its log\.txt says why"):
        study.run(task)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(study.RunError, match=r"run\.json is damaged"):
        study.run(task)
    empty = tmp_path / "empty"
    empty.mkdir()
    for flags, says in (
        (["--runs", str(empty), "--collect"], "there are no finished runs"),
        (["--runs", str(tmp_path / "none"), "--collect"], "No such file"),
        (["--workers", "0"], "--workers: must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            study.main([*flags, "--results", str(tmp_path / "results")])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


def test_commands_are_ones_that_train_takes(tmp_path, monkeypatch):
    import train

    for flags in (study.PILOT, study.STUDY):
        for network in study.NETWORKS:
            for optimizer in study.OPTIMIZERS:
                command = study.command(network, optimizer, 3e-3, flags, tmp_path)
                args = train.parser().parse_args(command[2:])
                run = train.settle(args)
                assert (run.model, run.learning_rate) == (network, 3e-3)
                assert run.dataset == "fashion_mnist" and args.resume
