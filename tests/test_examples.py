"""The main job and its parts: real data, the network, a short run, bad flags."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from running import BACKEND

import keras_gradopt

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow examples")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("sklearn")
    return tmp_path_factory.mktemp("tfds")


def train(*flags, check=True):
    command = [sys.executable, ROOT / "examples" / "train.py", *map(str, flags)]
    return subprocess.run(command, check=check, capture_output=True, text=True)


def test_digits_are_the_real_ones(data_dir):
    """Every image of scikit-learn's set is in exactly one split, unchanged."""
    from datasets import prepared_builder
    from sklearn.datasets import load_digits

    builder = prepared_builder("digits", str(data_dir))
    assert builder.info.splits["train"].num_examples == 1437
    assert builder.info.splits["test"].num_examples == 360
    found, labels = [], []
    for split in ("train", "test"):
        data = builder.as_dataset(split=split, as_supervised=True)
        pairs = list(data.as_numpy_iterator())
        found += [
            (image[..., 0] / 15).tobytes() + bytes([label]) for image, label in pairs
        ]
        labels.append(np.bincount([label for _, label in pairs], minlength=10))
    digits = load_digits()
    real = [
        image.tobytes() + bytes([label])
        for image, label in zip(digits.images, digits.target)
    ]
    assert sorted(found) == sorted(real)
    assert labels[1].min() >= 34  # stratified


def test_resnet20_is_he_et_als():
    """0.27 million parameters (their Table 6) and 20 weight layers."""
    from models import MODELS

    model = MODELS["resnet20"]((32, 32, 3), 10)
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert parameters == 269_722
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    ]
    assert len(weighted) == 20
    assert MODELS["resnet20"]((8, 8, 1), 10)(np.zeros((2, 8, 8, 1))).shape == (2, 10)
    # a saved model is of Keras' own layers: it loads without the examples
    layer_modules = {type(layer).__module__.split(".")[0] for layer in model.layers}
    assert layer_modules == {"keras"}


SERVE = """
import sys
sys.modules["keras_gradopt"] = None  # as if not installed
import json
import tensorflow as tf
images = tf.constant(json.loads(sys.argv[2]), tf.float32)
served = tf.saved_model.load(sys.argv[1])
print(json.dumps(served.serve(images).numpy().tolist()))
"""


def serve_alone(path, images):
    """The predictions of a SavedModel in a process without this package."""
    command = [sys.executable, "-c", SERVE, path, json.dumps(images.tolist())]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return np.array(json.loads(result.stdout))


def test_short_run_leaves_everything(data_dir, tmp_path):
    flags = ["--epochs", 2, "--batch-size", 128, "--learning-rate", 0.003, "--seed", 1]
    flags += [
        "--dataset",
        "digits",
        "--model",
        "resnet20",
        "--optimizer",
        "AngularGrad",
    ]
    shown = train(*flags, "--data-dir", data_dir, "--output", tmp_path).stdout
    assert "AngularFriction" in shown
    assert "Epoch 2/2" in shown and "━━" in shown
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["arguments"]["seed"] == 1
    assert run["parameters"] == 269_434
    assert run["saved_model_max_difference"] < 1e-4
    assert run["versions"]["keras"] == keras.__version__
    history = np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True)
    assert len(history) == 2
    assert history["loss"][1] < history["loss"][0]
    assert run["metrics"]["last_loss"] == pytest.approx(history["loss"][1], rel=1e-5)
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert isinstance(best.optimizer, keras_gradopt.AngularGrad)
    served = serve_alone(tmp_path / "saved_model", np.zeros((3, 8, 8, 1)))
    expected = best.predict(np.zeros((3, 8, 8, 1)), verbose=0)
    np.testing.assert_allclose(served, expected, atol=1e-5)


@pytest.mark.slow
def test_same_seed_same_run(data_dir, tmp_path):
    flags = ["--epochs", 1, "--batch-size", 256, "--data-dir", data_dir, "--output"]
    runs = [train(*flags, tmp_path / n, "--seed", s) for n, s in zip("abc", (5, 5, 6))]
    assert all(run.returncode == 0 for run in runs)
    a, b, c = ((tmp_path / n / "history.csv").read_text() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--optimizer", "sdg"], "unknown optimizer 'sdg'"),
        (["--dataset", "cifar99"], "invalid choice: 'cifar99'"),
        (["--model", "resnet19"], "invalid choice: 'resnet19'"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--batch-size", "-3"], "--batch-size must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate must be a number"),
        (["--learning-rate", "fast"], "invalid float value: 'fast'"),
    ],
)
def test_bad_flags_give_a_sentence(flags, says, capsys):
    from train import parse_arguments

    with pytest.raises(SystemExit) as stop:
        parse_arguments(flags)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_bad_flag_of_the_real_program_shows_no_stack():
    result = train("--optimizer", "sdg", check=False)
    assert result.returncode == 2
    assert "unknown optimizer 'sdg'" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_optimizer_can_be_named():
    from table import OPTIMIZERS
    from train import optimizer_classes, parse_arguments

    classes = optimizer_classes()
    for name in (*OPTIMIZERS, "Adam", "SGD", "Nadam", "Lion"):
        assert parse_arguments(["--optimizer", name]).optimizer == name.lower()
        assert classes[name.lower()].__name__ == name
    assert "transformed" not in classes and "lossscaleoptimizer" not in classes
