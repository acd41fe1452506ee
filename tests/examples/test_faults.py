"""Runs that something goes wrong with: kills, damage, full disks, bad images."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import train
from training import models, running
from training.command_line import DEFAULT
from training.run_files import RunError, alone_in
from training.run_state import STATE, Keep

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]


def tiny(input_shape, classes, l2, adapt_to):
    """A network that is traced within a second."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    layers += [keras.layers.Dropout(0.3), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input(input_shape), *layers])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def main(monkeypatch, data_dir):
    """train.py in this process, with a tiny network, on the digits."""
    monkeypatch.setattr(train, "set_up", lambda args, run: contextlib.nullcontext())
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    flags = ["--model", "tiny", "--limit", "60", "--batch-size", "16", "--epochs", "2"]
    return lambda *others: train.main(
        [*flags, "--data-dir", data_dir, *map(str, others)]
    )


@pytest.fixture
def refused(capsys):
    """Calls with arguments; the sentence that it ends with."""

    def call(function, *arguments):
        with pytest.raises(SystemExit) as stop:
            function(*arguments)
        assert stop.value.code == 2
        shown = capsys.readouterr().err.splitlines()[-1]
        assert ": error: " in shown
        return shown.partition(": error: ")[2]

    return call


# What a run keeps


def kept(folder, accuracies, settings=None):
    """A run by hand, in which the weights are the number of epochs done."""
    keep = Keep(folder, settings or {})
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    keep.set_model(model)
    for epoch, accuracy in enumerate(accuracies):
        model.layers[-1].kernel.assign(np.full((2, 1), epoch + 1))
        logs = {"loss": 1.0, "val_accuracy": accuracy, "val_loss": 1.0}
        keep.on_epoch_end(epoch, logs)
    return keep


def epochs_of(model):
    return model.get_weights()[0][0, 0]


def test_kept_run_goes_on_from_every_moment(tmp_path, monkeypatch):
    """From what was there before and after each file was put in its place.

    Half of a file is left where one was to be renamed.
    """
    folder, moments, real = tmp_path / "run", [], os.replace

    def replace(new, path):
        if path.name != "history.csv":
            for _ in range(2):
                moments.append(shutil.copytree(folder, tmp_path / str(len(moments))))
                for half in moments[-1].glob("new.*"):
                    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
                if new.exists():
                    real(new, path)
        else:
            real(new, path)

    monkeypatch.setattr(os, "replace", replace)
    accuracies = [0.5, 0.7, 0.6, 0.8]
    kept(folder, accuracies)
    monkeypatch.setattr(os, "replace", real)
    found = []
    for moment in moments:
        keep = Keep(moment, {})
        done, model = keep.restore()
        found.append(done)
        if done:
            assert epochs_of(model) == done
            assert keep.history["val_accuracy"] == accuracies[:done]
            best = keras.saving.load_model(moment / "best.keras")
            assert epochs_of(best) == 1 + np.argmax(accuracies[:done])
            assert len((moment / "history.csv").read_text().splitlines()) == 1 + done
    assert found == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4]


def test_more_than_ten_thousand_epochs(tmp_path):
    keep = kept(tmp_path, [0.5])
    keep.history = {name: values * 9_999 for name, values in keep.history.items()}
    for epoch in (9_999, 10_000):
        logs = {"loss": 1.0, "val_accuracy": 0.4, "val_loss": 1.0}
        keep.on_epoch_end(epoch, logs)
        assert Keep(tmp_path, {}).restore()[0] == epoch + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.keras", "history.csv", "last.keras",
    ]  # fmt: skip


def rewritten(change, member=STATE):
    """Damages a member of `last.keras`, with the right checksum."""

    def damage(path):
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        members[member] = change(members[member])
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                if content is not None:
                    file.writestr(name, content)

    return damage


def state(**changes):
    return rewritten(lambda content: json.dumps({**json.loads(content), **changes}))


def cut(share):
    return lambda path: path.write_bytes(
        path.read_bytes()[: int(share * path.stat().st_size)]
    )


def flip(path):
    """Of a weight, which only the checksum of the zip file can tell."""
    content = bytearray(path.read_bytes())
    content[content.index(np.full((2, 1), 2, "float32").tobytes())] ^= 1
    path.write_bytes(content)


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty": cut(0),
    "cut early": cut(0.1),
    "cut late": cut(0.99),
    "one bit": flip,
    "text": lambda path: path.write_text("{}"),
    "a folder": as_folder,
    "no state": rewritten(lambda _: None),
    "empty state": rewritten(lambda _: b""),
    "half a state": rewritten(lambda content: content[:50]),
    "state of bytes": rewritten(lambda _: b"\xff\xfe\x00"),
    "a list": rewritten(lambda _: b"[]"),
    "no history": state(history={}),
    "other history": state(history={"loss": [1.0, 1.0]}),
    "unequal history": state(history={"loss": [1.0], "val_accuracy": [0.5, 0.7]}),
    "history of words": state(history={"val_accuracy": ["good", "better"]}),
    "history of a number": state(history=3),
    "no seeds": state(seeds=[]),
    "other seeds": state(seeds=[[1, 2, 3]]),
    "settings of a number": state(settings=3),
    "no weights": rewritten(lambda _: None, "model.weights.h5"),
    "empty weights": rewritten(lambda _: b"", "model.weights.h5"),
    "half of the weights": rewritten(lambda c: c[: len(c) // 2], "model.weights.h5"),
    "no config": rewritten(lambda _: None, "config.json"),
    "another config": rewritten(lambda _: b"{}", "config.json"),
}


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    kept(folder, [0.5, 0.7], {"epochs": 4})
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_a_sentence(damage, kept_run, tmp_path):
    folder = shutil.copytree(kept_run, tmp_path / "run")
    assert Keep(folder, {"epochs": 4}).restore()[0] == 2
    DAMAGES[damage](folder / "last.keras")
    with pytest.raises(ValueError, match=r"last\.keras is damaged") as error:
        Keep(folder, {"epochs": 4}).restore()
    assert "--overwrite begins again" in str(error.value)
    assert "\n" not in str(error.value)
    Keep(folder, {}).clear()
    assert list(folder.iterdir()) == []


def test_more_epochs_than_the_run_has_are_not_believed(tmp_path):
    args = train.parser().parse_args(["--epochs", "4", "--output", str(tmp_path)])
    run = train.settle(args)
    keep, *_ = train.begin(args, run)
    kept(tmp_path, [0.5] * 3, keep.settings)
    args.resume = True
    assert train.begin(args, run)[1] == 3
    state(history=dict.fromkeys(keep_history(tmp_path), [0.5] * 99))(
        tmp_path / "last.keras"
    )
    with pytest.raises(ValueError, match="has 99 epochs of 4"):
        train.begin(args, run)


def keep_history(folder):
    with zipfile.ZipFile(folder / "last.keras") as file:
        return json.loads(file.read(STATE))["history"]


def test_processes_of_one_run_go_on_together(tmp_path):
    """Only the first one writes; what differs between them is no other setting."""
    first, second = (
        train.parser().parse_args(
            f"--processes 2 --process-id {index} --coordinator host{index}:1 --resume "
            f"--data-dir {index} --output {tmp_path}".split()
        )
        for index in range(2)
    )
    run = DEFAULT
    keep, done, _ = train.begin(first, run)
    assert done == 0
    kept(tmp_path, [0.5], keep.settings)
    before = (tmp_path / "history.csv").stat().st_mtime_ns
    keep, done, model = train.begin(second, run)
    assert done == 1 and epochs_of(model) == 1
    assert (tmp_path / "history.csv").stat().st_mtime_ns == before


# Runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """The folder of a run that has come to its end; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        main.__wrapped__(patch, data_dir)("--output", folder)
    return folder


def test_finished_run_does_nothing_more(finished, main, refused, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*")}
    del before[finished / "history.csv"]  # which is written again
    monkeypatch.setattr(keras.Model, "fit", None)
    monkeypatch.setattr(train, "report", None)
    main("--output", finished, "--resume")
    assert f"The run in {finished} is finished." in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    said = refused(main, "--output", finished, "--resume", "--epochs", "3")
    assert "epochs: then 2, now 3" in said


@pytest.mark.parametrize("content", ["[]", '{"a": '])
def test_damaged_run_json_is_a_sentence(content, finished, main, refused, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "run.json").write_text(content)
    said = refused(main, "--output", folder, "--resume")
    assert f"{folder}/run.json is damaged" in said


def test_results_come_before_the_export(finished, main, monkeypatch, tmp_path):
    """Killed in the export, a run has its results, and goes on with the export."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(train.results, "export", killed)
    with pytest.raises(Killed):
        main("--output", tmp_path)
    whole, found = (
        json.loads((folder / "run.json").read_text()) for folder in (finished, tmp_path)
    )
    assert found["metrics"] == whole["metrics"]
    monkeypatch.setattr(train.results, "export", lambda *_: 0.5)
    monkeypatch.setattr(train, "train", None)
    main("--output", tmp_path, "--resume")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["saved_model_max_difference"] == 0.5


def test_new_run_leaves_nothing_of_the_old_one(finished, main, refused, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "own.txt").write_text("the user's")
    old = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    args = train.parser().parse_args(["--output", str(folder)])
    train.begin(args, DEFAULT)
    assert {p.name for p in folder.iterdir() if p in old} == {".lock", "own.txt"}
    (folder / "last.keras").write_text("of a run that was killed")
    with pytest.raises(ValueError, match="unfinished run: --resume goes on with it"):
        train.begin(args, DEFAULT)


def test_two_runs_in_one_folder(main, refused, tmp_path):
    with alone_in(tmp_path):
        said = refused(main, "--output", tmp_path)
        assert said == f"another run is writing to {tmp_path}"
        assert not (tmp_path / "last.keras").exists()
    with alone_in(tmp_path):
        pass
    holding = "import sys, pathlib as p; from training import run_files as r\n"
    holding += "with r.alone_in(p.Path(sys.argv[1])): print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", holding, tmp_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT / "examples",
    )  # fmt: skip
    process.stdout.readline()
    with pytest.raises(RunError, match="another run"), alone_in(tmp_path):
        pass
    process.kill()  # nothing is left that would have to be removed
    process.communicate()
    with alone_in(tmp_path):
        pass


def strict(text):
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_diverged_run_is_a_sentence(main, refused, capsys, tmp_path):
    """In its first epoch, and after one: results up to there, and no NaN in JSON."""
    flags = ["--output", tmp_path, "--optimizer", "sgd", "--learning-rate", "1e38"]
    said = refused(main, *flags)
    assert said.startswith("training diverged in epoch 1: its loss is NaN or infinite")
    run = strict((tmp_path / "run.json").read_text())
    assert run["diverged"] and run["metrics"]["last_loss"] is None
    assert not (tmp_path / "best.keras").exists()
    main(*flags, "--resume")
    assert "is finished" in capsys.readouterr().out


def test_divergence_in_a_later_epoch(tmp_path):
    keep = kept(tmp_path, [0.5, 0.7, 0.6])
    logs = {"loss": np.nan, "val_accuracy": 0.9, "val_loss": 1.0}
    keep.on_epoch_end(3, logs)
    assert keep.model.stop_training
    resumed = Keep(tmp_path, {})
    resumed.restore()
    for one in (keep, resumed):
        assert one.diverged and one.at_end and one.best_epoch == 1
    assert epochs_of(keras.saving.load_model(tmp_path / "best.keras")) == 2


def test_image_that_cannot_be_read_is_named(main, refused, tmp_path):
    from test_datasets import write_images

    for label in range(2):
        write_images(tmp_path / str(label), 20, 60 * label)
    broken = tmp_path / "1" / "7.png"
    flags = ["--dataset", f"folder:{tmp_path}", "--image-size", "8", "--output"]
    for content in (broken.read_bytes()[:-40], b"no image"):
        broken.write_bytes(content)
        for seed in (0, 1):
            said = refused(main, *flags, tmp_path / "run", "--seed", seed)
            assert said.startswith(f"TensorFlow cannot read {broken} as PNG")


def test_output_that_cannot_be_written(main, refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused(main, "--output", tmp_path / "file" / "run")
    assert "File exists" in refused(main, "--output", tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize(
    "name", ["new.last.keras", "new.history.csv", "curves.png", "new.run.json"]
)
def test_full_disk_is_a_sentence(name, finished, main, refused, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    if name in ("curves.png", "new.run.json"):
        for part in ("last.keras", "best.keras"):
            shutil.copy(finished / part, folder)
    (folder / name).symlink_to("/dev/full")
    said = refused(main, "--output", folder, "--resume")
    assert "No space left on device" in said


def test_no_saved_model_on_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "described", lambda *_: {"metrics": {}})
    monkeypatch.setattr(running.keras.saving, "load_model", lambda path: None)
    monkeypatch.setattr(running.keras.backend, "backend", lambda: "torch")
    args = argparse.Namespace(output=tmp_path, strategy="none", ema=None)
    keep = types.SimpleNamespace(best_epoch=0, diverged=False)
    worth = {"accuracy": 0.5}, "accuracy 50 %"
    running.write_results(
        args, None, None, keep, None, 0, lambda best: worth, pytest.fail
    )
    assert "no SavedModel on PyTorch" in capsys.readouterr().out
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["metrics"] == {"accuracy": 0.5} and written["best_epoch"] == 1
    assert written["saved_model_max_difference"] is None


def subprocess_environment(**others):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **others}


@pytest.mark.slow
def test_pytorch_leaves_everything_but_the_saved_model(data_dir, tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, ROOT / "examples" / "train.py", "--limit", "64"]
    command += ["--batch-size", "32", "--epochs", "1", "--data-dir", data_dir]
    command += ["--output", tmp_path]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        env=subprocess_environment(KERAS_BACKEND="torch"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no SavedModel on PyTorch" in done.stdout
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["saved_model_max_difference"] is None
    assert 0 <= run["metrics"]["accuracy"] <= 1
    for name in ("best.keras", "last.keras", "confusion.png", "classes.csv"):
        assert (tmp_path / name).exists()
    assert not (tmp_path / "saved_model").exists()


@pytest.mark.slow
def test_killed_at_every_write_and_resumed_is_never_killed(data_dir, tmp_path):
    """The whole program, each time in a process of its own."""
    worker = ROOT / "tests" / "workers" / "killed_writes.py"
    done = subprocess.run(
        [sys.executable, worker, data_dir, tmp_path],
        stdout=subprocess.PIPE, text=True, env=subprocess_environment(),
    )  # fmt: skip
    assert done.returncode == 0
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    kills = [kill for kill in kills if kill["killed"]]  # not: half of an empty file
    assert sum(not kill["half"] for kill in kills) > 25
    assert sum(kill["half"] for kill in kills) > 8
    written = {kill["write"] for kill in kills}
    for write in ("open new.last.keras", "os.rename new.last.keras", "open curves.png"):
        assert write in written
    for kill in kills:
        assert kill["resumed"] and not kill["differing"], kill
        assert not kill["trained_again"], kill  # no epoch that was done
