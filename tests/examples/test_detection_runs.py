"""`detect.py`: a run, killed and resumed, served, and the lists of the papers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("pycocotools")

import tensorflow as tf
from PIL import Image
from test_detection_data import mock_voc, write_voc
from training.datasets import preparing
from training.detection.boxes import default_boxes, detections, map_sizes
from training.detection.command_line import RECIPES
from training.detection.loss import MultiboxLoss  # noqa: F401 (registers it)

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]
# what a test can afford: the smallest image, a fiftieth of the channels
SMALL = ["--image-size", 260, "--width", 0.02, "--batch-size", 2, "--iterations", 6]
SMALL += ["--schedule", "cosine:2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("voc") / "cells")


def flags_of(folder, output, *others):
    flags = ["--dataset", f"folder:{folder}", "--data-dir", folder.parent / "prepared"]
    return [str(flag) for flag in [*flags, *SMALL, "--output", output, *others]]


@pytest.fixture(scope="module")
def program():
    """detect.py in this process, which it does not set up: tests follow."""
    import detect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "set_up", lambda *_: contextlib.nullcontext())
        yield detect


@pytest.fixture(scope="module")
def run(program, folder, tmp_path_factory):
    """The folder of a run of two epochs."""
    output = tmp_path_factory.mktemp("run") / "whole"
    program.main(flags_of(folder, output, "--optimizer", "WGDAdam"))
    return output


SERVE = """
import json, sys
sys.modules["keras_gradopt"] = sys.modules["keras"] = None  # cannot be imported
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2]))
print(json.dumps({n: v.numpy().tolist() for n, v in model.serve(images).items()}))
"""


def test_run_leaves_everything(run):
    output = run
    about = json.loads((output / "run.json").read_text())
    assert "Whiten" in about["optimizer"]
    assert about["run"]["epochs"] == 2 and about["run"]["steps_per_epoch"] == 3
    assert about["saved_model_max_difference"] < 1e-3
    assert about["images_per_second"] > 0
    history = np.genfromtxt(output / "history.csv", delimiter=",", names=True)
    assert np.isfinite(history["val_loss"]).all() and len(history) == 2
    best = about["best_epoch"] - 1
    assert about["metrics"]["AP50"] == pytest.approx(
        history["val_AP50"][best], abs=0.01
    )
    # Adam's own rate, by a cosine after two iterations: a quarter of it after three
    rates = [1e-3 * (1 + np.cos(np.pi / 4)) / 2, 0]
    np.testing.assert_allclose(history["learning_rate"], rates, atol=1e-9)
    for name in ("curves", "found", "precision"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    lines = (output / "classes.csv").read_text().splitlines()
    assert lines[0] == "class,objects,AP,AP50" and len(lines) == 3
    assert lines[1].startswith("disc,3,") and lines[2] == "ring,0,,"  # it is difficult
    assert not list(output.glob("new.*"))


def test_served_boxes_are_those_of_the_model(run, tmp_path):
    """In a process that has neither this package nor Keras."""
    output = run
    images = np.random.default_rng(0).uniform(0, 255, (2, 260, 260, 3)).astype("f")
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", SERVE, output / "saved_model"]
    done = subprocess.run(
        [*command, tmp_path / "images.npy"], check=True, capture_output=True, text=True
    )
    served = json.loads(done.stdout)
    model = keras.saving.load_model(output / "best.keras")
    defaults = default_boxes(map_sizes(260))
    expected = detections(model.predict(images, verbose=0), defaults)
    assert sum(served["count"]) > 0
    for name, value in expected.items():
        np.testing.assert_allclose(served[name], value, atol=1e-4, err_msg=name)


def test_predict_finds_objects_in_files(run, folder, tmp_path, capsys):
    """Corners in pixels of the file, whatever its size; pictures with `--draw`."""
    import predict

    output = run
    files = [str(folder / "JPEGImages" / f"img{i}.jpg") for i in (1, 2)]
    large = tmp_path / "large.png"
    with Image.open(files[0]) as image:
        image.resize((600, 400), Image.Resampling.NEAREST).save(large)
    flags = ["--json", "--score", "0", "--draw", str(tmp_path / "drawn")]
    predict.main([str(output / "saved_model"), *files, str(large), *flags])
    results = json.loads(capsys.readouterr().out)
    assert [r["file"] for r in results] == [*files, str(large)]
    first, _, third = (r["objects"] for r in results)
    assert {item["class"] for item in first} <= {"disc", "ring"} and first
    for item in first:
        box = item["box"]
        assert 0 <= box["left"] <= box["right"] <= 60
        assert 0 <= box["top"] <= box["bottom"] <= 40
    assert max(item["box"]["right"] for item in third) > 60  # of 600 pixels
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == 3
    with Image.open(drawn[0]) as picture, Image.open(files[0]) as image:
        assert picture.size == image.size
        assert np.any(np.asarray(picture) != np.asarray(image))
    # as text, and nothing above 1
    predict.main([str(output / "saved_model"), files[0], "--score", "1"])
    assert capsys.readouterr().out.strip() == files[0]
    with pytest.raises(SystemExit):
        predict.main([str(output / "saved_model"), files[0], "--score", "2"])


def test_drawn_boxes_are_where_they_should_be(tmp_path):
    import predict

    found = {
        "boxes": np.float32([[0.25, 0.5, 0.75, 1.0], [0, 0, 0.1, 0.1]]),
        "scores": np.float32([0.9, 0.2]),
        "classes": np.int32([1, 0]),
        "count": 2,
    }
    objects = predict.find_objects(found, ["cat", "dog"], (200, 400), 0.5)
    assert objects == [
        {
            "class": "dog",
            "score": pytest.approx(0.9),
            "box": {"top": 50, "left": 200, "bottom": 150, "right": 400},
        }
    ]
    predict.draw(np.zeros((200, 400, 3)), objects, tmp_path / "x" / "drawn.png")
    with Image.open(tmp_path / "x" / "drawn.png") as picture:
        rows, columns = np.nonzero(np.asarray(picture).any(axis=-1))
    assert (rows.min(), rows.max()) == (50, 150)
    assert (columns.min(), columns.max()) == (200, 399)


def detect(*flags):
    """The command of a process of its own, and its environment."""
    command = [sys.executable, str(ROOT / "examples" / "detect.py"), *flags]
    return {"args": command, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(folder, tmp_path):
    """Killed (-9) in the third epoch of four; with an average of the weights.

    In processes of their own, which make operations deterministic.
    """
    quiet = {"capture_output": True, "text": True}
    others = ["--iterations", "12", "--ema", "0.9"]
    whole = detect(*flags_of(folder, tmp_path / "whole", *others))
    subprocess.run(**whole, **quiet, check=True)
    flags = flags_of(folder, tmp_path / "killed", *others)
    process = subprocess.Popen(
        **detect(*flags), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if "Epoch 3/4" in line:
            process.kill()
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for more, says in (
        ([], "--resume goes on"),
        (["--resume", "--width", "0.03"], "width: then 0.02, now 0.03"),
    ):
        refused = subprocess.run(**detect(*flags, *more), **quiet)
        assert refused.returncode == 2 and says in refused.stderr
    resumed = subprocess.run(**detect(*flags, "--resume"), **quiet, check=True)
    assert "of 4 epochs are done" in resumed.stdout
    states = []
    for name in ("whole", "killed"):
        model = keras.saving.load_model(tmp_path / name / "last.keras")
        variables = [*model.weights, *model.optimizer.variables]
        states.append([keras.ops.convert_to_numpy(v) for v in variables])
    for ours, theirs in zip(*states):
        np.testing.assert_array_equal(ours, theirs)
    histories = [tmp_path / name / "history.csv" for name in ("whole", "killed")]
    assert histories[0].read_text() == histories[1].read_text()


@pytest.mark.slow
def test_mirrored_devices_and_half_precision(folder, tmp_path):
    """In a process of its own, which divides its CPU."""
    flags = ["--strategy", "mirrored", "--devices", "2", "--no-normalize"]
    flags += ["--precision", "mixed_bfloat16"]
    command = detect(*flags_of(folder, tmp_path / "run", *flags))
    done = subprocess.run(**command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Best validation AP50" in done.stdout
    history = np.genfromtxt(tmp_path / "run/history.csv", delimiter=",", names=True)
    assert np.isfinite(history["val_loss"]).all() and len(history) == 2


@pytest.mark.slow
def test_pascal_voc_trains_some_steps(program, monkeypatch, tmp_path):
    """The recipe of GAF with TFDS' own data set, of mock images; narrow."""
    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    flags = ["--recipe", "gaf-voc", "--width", "0.05", "--batch-size", "4"]
    flags += [
        "--iterations",
        "4",
        "--steps-per-epoch",
        "2",
        "--monitor",
        "2",
        "--output",
    ]
    with mock_voc(3):
        program.main([*flags, str(tmp_path)])
    history = np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True)
    assert np.isfinite(history["loss"]).all()
    # warm-up over 500 iterations: after 2 and 4 of them, a linear rise to 0.001
    np.testing.assert_allclose(history["learning_rate"], [2e-3 / 500, 4e-3 / 500], 1e-4)
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 21
    assert "Activate" in (tmp_path / "monitor.csv").read_text()
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    assert served.serve(tf.zeros((1, 300, 300, 3)))["boxes"].shape == (1, 200, 4)


def test_recipe_is_that_of_the_paper(program, capsys):
    """GAF, section IV-C: 120 000 iterations of 32, cosine after 500 of warm-up."""
    paper = RECIPES["gaf-voc"]
    assert (paper.dataset, paper.optimizer) == ("voc", "GAFSGD")
    assert (paper.iterations, paper.batch_size) == (120_000, 32)
    assert (paper.learning_rate, paper.schedule) == (1e-3, "cosine:500")
    assert (paper.l2, paper.settings) == (5e-4, {"momentum": 0.9})
    assert (paper.image_size, paper.width, paper.normalize) == (300, 1, False)
    assert RECIPES["gaf-voc-sgd"].optimizer == "SGD"
    assert 120_000 % paper.steps_per_epoch == 0
    program.main(["--list"])
    shown = capsys.readouterr().out
    for name in ("voc", "ssd300", "GAFSGD", "WGDSGD", "SGD", "whiten", *RECIPES):
        assert f"  {name}" in shown
    assert "GAF, section IV-C and Table IV" in shown


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--dataset is missing"),
        (["--dataset", "voc", "--processes", "2"], "in a single process"),
        (["--dataset", "voc", "--weights", "imagenet"], "--width 1 and --no-normal"),
        (["--dataset", "voc", "--optimizer", "GAFSDG"], "did you mean gafsgd"),
        (["--dataset", "voc", "--schedule", "cosin"], "unknown schedule"),
        (["--dataset", "voc", "--image-size", "200"], "at least 257, not 200"),
        (["--dataset", "folder:/no/such"], "There is no folder /no/such"),
        (["--dataset", "voc", "--set", "nonsense=1"], "nonsense"),
    ],
)
def test_bad_flags_give_a_sentence(flags, says, program, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        program.main([*flags, "--output", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_accumulation_over_more_than_the_run_is_refused(
    program, folder, capsys, tmp_path
):
    """Nothing would be updated."""
    flags = ["--dataset", f"folder:{folder}", "--iterations", "2", "--batch-size", "2"]
    flags += ["--steps-per-epoch", "1", "--accumulate", "50", "--width", "0.05"]
    flags += ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        program.main(flags)
    assert stopped.value.code == 2
    assert "more than the 2 batches" in capsys.readouterr().err
