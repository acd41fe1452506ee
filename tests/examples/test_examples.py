"""The main job and its parts: real data, the network, a short run, bad flags."""

import contextlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from processes import finish, free_addresses
from training.recipes import RECIPES
from training.run_state import Keep
from trajectories import numpy_values

import keras_gradopt

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("sklearn")
    return tmp_path_factory.mktemp("tfds")


def train(*flags, check=True, env=None):
    command = [sys.executable, ROOT / "examples" / "train.py", *map(str, flags)]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def test_digits_are_the_real_ones(data_dir):
    """Every image of scikit-learn's set is in exactly one split, unchanged."""
    from sklearn.datasets import load_digits
    from training.datasets import prepared_builder

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


def history_of(folder):
    return np.genfromtxt(folder / "history.csv", delimiter=",", names=True)


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
    flags += ["--tensorboard", "--data-dir", data_dir, "--output", tmp_path]
    shown = train(*flags).stdout
    assert "AngularFriction" in shown
    assert "Epoch 2/2" in shown and "━━" in shown
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["arguments"]["seed"] == 1
    assert run["parameters"] == 269_434
    assert run["images_per_second"] > 0 and run["memory_mb"]["process"] > 0
    accuracy = run["metrics"]["accuracy"]
    assert accuracy == pytest.approx(max(history_of(tmp_path)["val_accuracy"]))
    assert run["saved_model_max_difference"] < 1e-4
    assert run["versions"]["keras"] == keras.__version__
    history = history_of(tmp_path)
    assert len(history) == 2
    assert history["loss"][1] < history["loss"][0]
    assert run["metrics"]["last_loss"] == pytest.approx(history["loss"][1], rel=1e-5)
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()
    for part in ("train", "validation"):
        (events,) = (tmp_path / "tensorboard" / part).glob("events*")
        assert b"epoch_accuracy" in events.read_bytes()
    for picture in ("curves", "confusion", "worst"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 11
    assert not list(tmp_path.glob("new.*"))
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert isinstance(best.optimizer, keras_gradopt.AngularGrad)
    served = serve_alone(tmp_path / "saved_model", np.zeros((3, 8, 8, 1)))
    expected = best.predict(np.zeros((3, 8, 8, 1)), verbose=0)
    np.testing.assert_allclose(served, expected, atol=1e-5)


QUICK = ["--epochs", 2, "--batch-size", 64, "--limit", 128]


@pytest.mark.slow
def test_same_seed_same_run(data_dir, tmp_path):
    flags = [*QUICK, "--data-dir", data_dir, "--output"]
    for name, seed in zip("abc", (5, 5, 6)):
        train(*flags, tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / n / "history.csv").read_text() for n in "abc")
    assert a == b != c


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(data_dir, tmp_path):
    """Killed (-9) in the third epoch of four."""
    flags = ["--epochs", 4, "--batch-size", 64, "--limit", 128, "--ema", 0.9]
    flags += ["--data-dir", data_dir, "--output"]
    train(*flags, tmp_path / "whole")
    command = [sys.executable, ROOT / "examples" / "train.py"]
    command += map(str, [*flags, tmp_path / "killed"])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if "Epoch 3/4" in line:
            time.sleep(random.uniform(0, 0.5))
            process.kill()
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    refused = train(*flags, tmp_path / "killed", check=False)
    assert refused.returncode == 2 and "--resume goes on" in refused.stderr
    other = train(*flags, tmp_path / "killed", "--resume", "--seed", 3, check=False)
    assert other.returncode == 2 and "seed: then 0, now 3" in other.stderr
    shown = train(*flags, tmp_path / "killed", "--resume").stdout
    assert "of 4 epochs are done" in shown
    states = []
    for name in ("whole", "killed"):
        model = keras.saving.load_model(tmp_path / name / "last.keras")
        states.append(numpy_values([*model.weights, *model.optimizer.variables]))
    for ours, theirs in zip(*states):
        np.testing.assert_array_equal(ours, theirs)
    histories = [tmp_path / name / "history.csv" for name in ("whole", "killed")]
    assert histories[0].read_text() == histories[1].read_text()


def final_weights(path):
    return keras.saving.load_model(path).get_weights()


# Adam's first steps are signs, where a rounded gradient near 0 has either one; and long
# steps make rounding grow
SMOOTH = ["--optimizer", "GAFSGD", "--learning-rate", 0.001]


def assert_nearly_equal(ours, theirs):
    """To the rounding of sums in another order, over a few steps."""
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_monitor_says_what_the_optimizer_does(data_dir, tmp_path):
    flags = [*QUICK, "--optimizer", "WGDAdam", "--monitor", 2]
    shown = train(*flags, "--data-dir", data_dir, "--output", tmp_path).stdout
    assert "Whiten: alive" in shown
    assert "Whiten.removed_energy" in (tmp_path / "monitor.csv").read_text()
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_mirrored_devices_run(data_dir, tmp_path):
    """Two devices; each normalizes its part of a batch, so only nearly as one."""
    flags = [*QUICK, "--strategy", "mirrored", "--devices", 2]
    train(*flags, "--data-dir", data_dir, "--output", tmp_path)
    assert len(history_of(tmp_path)) == 2


@pytest.mark.slow
def test_two_jax_processes_train_as_one(data_dir, tmp_path):
    """Also with a last batch of one validation image, which two cannot share."""
    flags = [
        *QUICK,
        "--limit",
        129,
        "--steps-per-epoch",
        2,  # few: each adds to the rounding
        *SMOOTH,
        "--strategy",
        "data-parallel",
        "--data-dir",
        data_dir,
    ]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "0"}
    train(*flags, "--output", tmp_path / "one", env=environment)
    (address,) = free_addresses(1)
    two = ["--coordinator", address, "--processes", 2, "--output", tmp_path / "two"]
    command = [sys.executable, ROOT / "examples" / "train.py"]
    processes = [
        subprocess.Popen(
            [*command, *map(str, [*flags, *two, "--process-id", index])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    finish(*processes)
    one, two = (final_weights(tmp_path / n / "last.keras") for n in ("one", "two"))
    assert_nearly_equal(one, two)


@pytest.mark.slow
def test_two_tensorflow_workers_train_as_one(data_dir, tmp_path):
    """A custom loop; batch normalization is over the batch of both."""
    command = [sys.executable, ROOT / "examples" / "multiworker.py"]
    flags = ["--epochs", 2, "--limit", 128, "--data-dir", data_dir, *SMOOTH]

    def run(count):
        addresses = ",".join(free_addresses(count))
        output = tmp_path / str(count)
        shared = [*flags, "--workers", addresses, "--output", output]
        finish(
            *(
                subprocess.Popen(
                    [*command, *map(str, [*shared, "--index", index])],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for index in range(count)
            )
        )
        return final_weights(output / "last.keras")

    assert_nearly_equal(run(1), run(2))


@pytest.fixture
def program(monkeypatch):
    """train.py in this process, which it does not set up: tests follow."""
    import train as program

    monkeypatch.setattr(program, "set_up", lambda args, run: contextlib.nullcontext())
    return program


# one of each paper; the others with ALL_NETWORKS=1
QUICKEST = ["angulargrad-cifar", "adanorm-cifar", "adal-cifar", "wgd-cifar"]
QUICKEST += ["gaf-cifar"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", RECIPES if os.environ.get("ALL_NETWORKS") else QUICKEST
)
def test_recipe_trains_two_steps(name, program, monkeypatch, tmp_path):
    """Its own network, optimizer, preprocessing and data set, of mock images."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from training.datasets import preparing

    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    recipe = RECIPES[name]
    flags = ["--recipe", name, "--weights", "none", "--batch-size", "2"]
    flags += ["--steps-per-epoch", "2"]
    if recipe.image_size:
        flags += ["--image-size", "64"]
    flags += ["--epochs", "1", "--output", str(tmp_path / "run")]
    args = program.parser().parse_args(flags)
    run = program.settle(args)
    with tfds.testing.mock_data(num_examples=5):
        data = program.load(
            run.dataset, image_size=run.image_size, preprocessing=run.preprocessing
        )
        model = program.build(args, run, data, steps_per_epoch=2)
        before = numpy_values(model.trainable_weights)
        keep, done, _ = program.begin(args, run)
        program.train(args, run, data, model, keep, done)
    assert model.count_params() > 1e6
    after = numpy_values(model.trainable_weights)
    assert all((a != b).any() for a, b in zip(before, after))
    history = history_of(tmp_path / "run")
    assert np.isfinite(history["loss"])
    assert 0 <= history["learning_rate"] <= run.learning_rate * 1.001
    assert keep.restore()[0] == 1
    names = {type(o).__name__ for o in inner_optimizers(model.optimizer)}
    assert recipe.optimizer in names


@pytest.mark.slow
def test_balanced_classes_reach_fit(program, tmp_path, monkeypatch):
    from test_datasets import write_images

    for label in range(2):
        write_images(tmp_path / str(label), 6 + 24 * label, 60 * label)
    flags = ["--dataset", f"folder:{tmp_path}", "--image-size", "8", "--epochs", "1"]
    flags += ["--batch-size", "4", "--balance", "--output", str(tmp_path / "run")]
    given = {}
    monkeypatch.setattr(program, "report", lambda *_: None)
    monkeypatch.setattr(keras.Model, "fit", lambda self, *_, **kw: given.update(kw))
    monkeypatch.setattr(program.Clock, "rate", lambda *_: None)
    program.main(flags)
    assert given["class_weight"][0] > 2 > 1 > given["class_weight"][1]
    assert (
        program.settle(program.parser().parse_args(["--recipe", "wgd-animals"])).balance
        == "sampler"
    )
    off = ["--recipe", "wgd-animals", "--balance", "none"]
    assert program.settle(program.parser().parse_args(off)).balance == "none"


def test_kept_run_with_dropout_goes_on_as_it_would(tmp_path):
    """The state of the random numbers is kept too."""
    images = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    labels = np.arange(40) % 3

    def fit(model, keep, first, last):
        model.fit(
            images, labels, batch_size=8, shuffle=False, verbose=0, callbacks=[keep],
            initial_epoch=first, epochs=last, validation_data=(images, labels),
        )  # fmt: skip
        return model

    def new():
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Dense(9), keras.layers.Dropout(0.5)]
        model = keras.Sequential([*layers, keras.layers.Dense(3, "softmax")])
        model.compile(
            keras_gradopt.AngularGrad(0.01), "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )  # fmt: skip
        return model

    whole = fit(new(), Keep(tmp_path / "whole", {}), 0, 4)
    fit(new(), Keep(tmp_path / "stopped", {}), 0, 2)
    keep = Keep(tmp_path / "stopped", {})
    done, model = keep.restore()
    assert done == 2
    resumed = fit(model, keep, 2, 4)
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_out_of_patience_is_finished_when_resumed(program, data_dir, tmp_path):
    """Stopped by `--patience`, and killed before its results were written."""
    flags = [
        "--limit",
        "64",
        "--epochs",
        "9",
        "--learning-rate",
        "0",
        "--patience",
        "2",
    ]
    flags += ["--data-dir", str(data_dir), "--output", str(tmp_path)]

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "report", killed)
        with pytest.raises(Killed):
            program.main(flags)
    epochs = len(history_of(tmp_path))
    assert 3 <= epochs < 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "train", killed)
        program.main([*flags, "--resume"])
    assert len(history_of(tmp_path)) == epochs
    assert (tmp_path / "run.json").exists()


def inner_optimizers(optimizer):
    yield optimizer
    if hasattr(optimizer, "inner_optimizer"):
        yield from inner_optimizers(optimizer.inner_optimizer)
    for other in getattr(optimizer, "optimizers", []):
        yield from inner_optimizers(other)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--optimizer", "sdg"], "unknown optimizer 'sdg' (did you mean sgd"),
        (["--optimizer", "adamnorm", "--set", "gama=1"], "Did you mean `gamma`?"),
        (["--set", "beta_1"], "a setting is NAME=VALUE, not 'beta_1'"),
        (["--set", "beta_1=2"], "`beta_1` must be"),
        (["--transforms", "whitten"], "unknown transform 'whitten' (did you mean"),
        (["--transforms", "activate(tanh,0)"], "`alpha` must be"),
        (["--set", "weight_decay=abc"], "`weight_decay` must be a finite number"),
        # Keras' own check nothing before the first step
        (["--optimizer", "adam", "--set", "weight_decay=a"], "adam(weight_decay='a') "),
        (["--optimizer", "adam", "--set", "weight_decay=1e999"], "makes NaN or infin"),
        (
            ["--optimizer", "sgd", "--accumulate", "2", "--set", "weight_decay=a"],
            "sgd(weight_decay='a', gradient_accumulation_steps=2) cannot make a step",
        ),
        (["--optimizer", "sgd", "--set", "clipnorm=x"], "sgd(clipnorm='x') cannot"),
        (["--transforms", ""], "no list of transforms: ''"),
        (["--transforms", "whiten))))"], "no list of transforms: 'whiten))))'"),
        (["--transforms", "whiten activate"], "no list of transforms"),
        (["--transforms", "whiten,,activate"], "no list of transforms"),
        (["--transforms", "activate(tanh,gain=3)"], "no list of transforms"),
        (["--transforms", "(" * 999], "no list of transforms"),
        (["--schedule", "linear"], "unknown schedule 'linear'"),
        (["--schedule", "step"], "unknown schedule 'step'"),
        (["--schedule", "step:5,3"], "unknown schedule 'step:5,3'"),
        (["--schedule", "step:0,3"], "unknown schedule 'step:0,3'"),
        (["--schedule", "step:3,,5"], "unknown schedule 'step:3,,5'"),
        (["--schedule", "step:nan"], "unknown schedule 'step:nan'"),
        (["--schedule", "cosine:-1"], "unknown schedule 'cosine:-1'"),
        (["--schedule", "cosine:inf"], "unknown schedule 'cosine:inf'"),
        (["--schedule", "cosine:"], "unknown schedule 'cosine:'"),
        (["--schedule", "constant:"], "unknown schedule 'constant:'"),
        (["--ema", "1"], "argument --ema: must be at least 0 and below 1, not 1"),
        (["--clipnorm", "0"], "argument --clipnorm: must be above 0, not 0"),
        (["--seed", "-1"], "argument --seed: must be at least 0"),
        (["--epochs", "9" * 400], "argument --epochs: must be at least 1 and below"),
        (["--output", ""], "argument --output: must be the name of a folder"),
        (["--optimizer", ""], "unknown optimizer ''"),
        (["--epochs", "0"], "argument --epochs: must be at least 1"),
        (["--batch-size", "-3"], "argument --batch-size: must be at least 1"),
        (["--monitor", "0"], "argument --monitor: must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate: must be at least 0, not nan"),
        (["--learning-rate", "fast"], "invalid float value: 'fast'"),
        (["--preprocessing", "resise"], "unknown preprocessing 'resise'; known are"),
        (["--balance", "all"], "argument --balance: invalid choice: 'all'"),
        (["--recipe", "wgd"], "invalid choice: 'wgd'"),
        (["--strategy", "mirrored", "--jit"], "cannot compile the step"),
        (["--strategy", "data-parallel"], "needs KERAS_BACKEND=jax"),
        (["--processes", "2"], "several processes need --strategy data-parallel"),
        (["--process-id", "1"], "--process-id must be from 0 to 0"),
    ],
)
def test_bad_flags_give_a_sentence(flags, says, capsys, program):
    with pytest.raises(SystemExit) as stop:
        program.main(flags)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_tensorboard_missing_is_a_sentence(program, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        program.main(["--tensorboard"])
    assert "needs the package tensorboard" in capsys.readouterr().err


@pytest.mark.slow
def test_bad_flag_of_the_real_program_shows_no_stack(data_dir):
    for flags, says in (
        (["--optimizer", "sdg"], "unknown optimizer 'sdg'"),
        (["--model", "resnet19", "--data-dir", data_dir], "unknown model 'resnet19'"),
        (
            ["--batch-size", 5000, "--data-dir", data_dir],
            "--batch-size 5000 is more than the 1437 images",
        ),
    ):
        result = train(*flags, "--output", data_dir / "run", check=False)
        assert result.returncode == 2
        assert says in result.stderr
        assert "Traceback" not in result.stderr


def test_every_optimizer_can_be_named():
    from table import OPTIMIZERS
    from training.optimizer_flags import optimizer_class, optimizer_classes

    for name in (*OPTIMIZERS, "Adam", "SGD", "Nadam", "Lion"):
        assert optimizer_class(name.upper()).__name__ == name
    assert "transformed" not in optimizer_classes()
    assert "lossscaleoptimizer" not in optimizer_classes()


def test_transforms_from_text():
    from training.optimizer_flags import parse_transforms

    found = parse_transforms("whiten, activate(tanh,0.2,10),angular_friction(tan)")
    assert [repr(transform) for transform in found] == [
        "Whiten(mean_over='kernels')",
        "Activate(activation='tanh', alpha=0.2, beta=10.0)",
        "AngularFriction(angle='tan', lambda_1=0.5, lambda_2=0.5)",
    ]
    (named,) = parse_transforms("activate(beta=10, activation=tanh)")
    assert repr(named) == "Activate(activation='tanh', alpha=0.1, beta=10.0)"
    (within,) = parse_transforms("only('head', angular_friction(tan))")
    assert repr(within.transform) == repr(found[2])
    (left_alone,) = parse_transforms("scale_learning_rate({'head': 0.1})")
    assert left_alone.get_config()["factors"] == {"head": 0.1}
    with pytest.raises(ValueError, match="unknown transform 'context'"):
        parse_transforms("context")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, 0.5, 0, 0]),
        ("cosine:5", [0, 0.5 * (1 + np.cos(np.pi / 3)), 0, 0]),
        ("step:8,12", [1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules(schedule, expected):
    """20 epochs of 10 steps; at the begin of epochs 0, 10 and 20, and at the end."""
    from training.optimizer_flags import learning_rate_schedule

    rate = learning_rate_schedule(schedule, 1.0, 10, 20)
    at = [rate if rate == 1.0 else float(rate(step)) for step in (0, 100, 200, 999)]
    np.testing.assert_allclose(at, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "cosine:2", "step:3,5"])
@pytest.mark.parametrize(
    "flags", [[], ["--transforms", "activate"], ["--backbone-rate", "0.5"]]
)
def test_accumulation_does_not_shorten_the_schedule(schedule, flags, program):
    """8 epochs of 4 batches: an update in each, at the rate of its last batch."""
    flags = [*flags, "--optimizer", "sgd", "--epochs", "8", "--schedule", schedule]
    flags += ["--learning-rate", "1", "--accumulate"]

    def rates(accumulated):
        """What constant gradients add up to, in the last variable."""
        args = program.parser().parse_args([*flags, str(accumulated)])
        run = program.settle(args)
        layers = [keras.layers.Dense(1), keras.layers.Dense(1, name="head")]
        model = keras.Sequential([keras.Input((1,)), *layers])
        data = SimpleNamespace(image_shape=None, class_names=[])
        data.sample_images = lambda count: None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "create_model", lambda *_, **__: model)
            optimizer = program.build(args, run, data, steps_per_epoch=4).optimizer
        optimizer.build(model.trainable_variables)
        ones = [keras.ops.ones(v.shape) for v in model.trainable_variables]
        values = []
        for _ in range(32):
            values.append(numpy_values(model.trainable_variables)[-1][0])
            optimizer.apply(ones)
        values.append(numpy_values(model.trainable_variables)[-1][0])
        return -np.diff(values)

    every, fourth = rates(1), rates(4)
    assert every.max() > 0 and np.count_nonzero(every) > 20
    np.testing.assert_allclose(fourth[3::4], every[3::4], atol=1e-6)
    assert (fourth.reshape(8, 4)[:, :3] == 0).all()


def test_accumulation_of_more_batches_than_there_are_updates_nothing(program):
    args = program.parser().parse_args(["--epochs", "2", "--accumulate", "9"])
    with pytest.raises(ValueError, match="--accumulate 9 is more than the 8 batches"):
        program.build(args, program.settle(args), None, steps_per_epoch=4)


@pytest.mark.parametrize("flags", [[], ["--ema", "0.9"]])
def test_backbone_learns_more_slowly(flags, program):
    flags += ["--optimizer", "sgd", "--learning-rate", "1", "--backbone-rate", "0.125"]
    args = program.parser().parse_args([*flags, "--schedule", "constant"])
    layers = [keras.layers.Dense(3), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    data = SimpleNamespace(image_shape=None, class_names=[])
    data.sample_images = lambda count: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "create_model", lambda *_, **__: model)
        program.build(args, program.settle(args), data, steps_per_epoch=4)
    before = numpy_values(model.trainable_variables)
    ones = [keras.ops.ones(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(ones, model.trainable_variables)
    moved = [a - b for a, b in zip(before, numpy_values(model.trainable_variables))]
    for change, expected in zip(moved, (0.125, 0.125, 1.0, 1.0)):
        np.testing.assert_allclose(change, expected, rtol=1e-5)
