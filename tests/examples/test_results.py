"""What a training run leaves, and predictions for image files from it."""

import csv
import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import predict
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image
from training import results
from training.datasets import PREPROCESSINGS
from training.run_files import RunError

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).parents[2]


def read_image(path, shape, crop, square):
    """The image in a file as a model of that input gets it."""
    return predict.fit(predict.read_image(path, shape[-1]), shape, crop, square)


def certain(predicted, classes, share=0.9):
    """Probabilities with `share` for these classes, the rest spread evenly."""
    shares = np.full((len(predicted), classes), (1 - share) / (classes - 1))
    shares[np.arange(len(predicted)), predicted] = share
    return shares


def evaluation_of(labels, probabilities, names=None, size=4):
    """An evaluation, and its batches: every pixel of image `i` is `i`."""
    labels, probabilities = np.array(labels), np.array(probabilities)
    names = names or [f"class {i}" for i in range(probabilities.shape[1])]
    images = np.ones((1, 6, 9, 3)) * np.arange(len(labels)).reshape(-1, 1, 1, 1)
    batches = [
        (images[i : i + size], labels[i : i + size])
        for i in range(0, len(labels), size)
    ]

    def predict(batch):
        return probabilities[batch[:, 0, 0, 0].astype(int)]

    return results.evaluate(predict, batches, names), batches


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn = []

    class Recorded(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(results, "Figure", Recorded)
    return drawn


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


# Metrics


def test_metrics_worked_out_by_hand():
    #            predicted a  b  c
    confusion = np.array([[3, 1, 0], [1, 2, 1], [0, 0, 2]])
    labels = np.repeat([0, 1, 2], [4, 4, 2])
    predicted = [0, 0, 0, 1, 0, 1, 1, 2, 2, 2]
    evaluation, _ = evaluation_of(labels, certain(predicted, 3), ["a", "b", "c"])
    np.testing.assert_array_equal(evaluation.confusion, confusion)
    np.testing.assert_array_equal(evaluation.labels, labels)
    np.testing.assert_array_equal(evaluation.predicted, predicted)
    np.testing.assert_allclose(evaluation.probabilities, certain(predicted, 3))
    np.testing.assert_allclose(evaluation.class_accuracy, [3 / 4, 1 / 2, 1])
    np.testing.assert_allclose(evaluation.class_precision, [3 / 4, 2 / 3, 2 / 3])
    by_chance = (4 * 4 + 4 * 3 + 2 * 3) / 10**2
    assert evaluation.metrics == pytest.approx(
        {
            "accuracy": 7 / 10,
            "mean_recall": (3 / 4 + 1 / 2 + 1) / 3,
            "mean_precision": (3 / 4 + 2 / 3 + 2 / 3) / 3,
            "kappa": (7 / 10 - by_chance) / (1 - by_chance),
        }
    )
    json.dumps(evaluation.metrics, allow_nan=False)  # they go into run.json


def test_absent_classes(tmp_path):
    """c is never predicted, d has no images, e neither."""
    labels, predicted = [0, 0, 1, 2], [0, 3, 1, 0]
    evaluation, _ = evaluation_of(labels, certain(predicted, 5), list("abcde"))
    nan = np.nan
    np.testing.assert_allclose(evaluation.class_accuracy, [1 / 2, 1, 0, nan, nan])
    np.testing.assert_allclose(evaluation.class_precision, [1 / 2, 1, 0, 0, 0])
    assert evaluation.metrics == pytest.approx(
        {
            "accuracy": 2 / 4,
            "mean_recall": (1 / 2 + 1 + 0) / 3,
            "mean_precision": (1 / 2 + 1 + 0 + 0) / 4,
            "kappa": (2 / 4 - 5 / 16) / (1 - 5 / 16),
        }
    )
    results.write_per_class(evaluation, tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["class", "images", "accuracy", "precision"],
            ["a", "2", "0.500000", "0.500000"],
            ["b", "1", "1.000000", "1.000000"],
            ["c", "1", "0.000000", "0.000000"],
            ["d", "0", "", "0.000000"],
            ["e", "0", "", "0.000000"],
        ]


def test_top_5_of_6_classes():
    rising = np.arange(1, 7) / 21  # class 0 is the sixth, class 1 the fifth
    evaluation, _ = evaluation_of([0, 1, 5, 1, 0], [rising] * 5, size=2)
    assert evaluation.metrics["top_5_accuracy"] == pytest.approx(3 / 5)
    assert evaluation.metrics["accuracy"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("probabilities", "names", "says"),
    [
        ([[0.5, 0.5], [np.nan, 0.5]], ["a", "b"], "NaN"),
        ([[0.5, 0.5], [0.5, 0.5]], ["a", "b", "c"], r"2 images of 3 classes"),
        (np.zeros((0, 2)), ["a", "b"], "no images"),
    ],
)
def test_what_cannot_be_evaluated(probabilities, names, says):
    with pytest.raises(ValueError, match=says):
        evaluation_of([0] * len(probabilities), probabilities, names)


# Pictures


def test_worst_mistakes_are_the_worst_and_their_images_belong_to_them(
    tmp_path, figures
):
    predicted = [1, 0, 2, 1, 1, 0, 0, 2, 0, 1]
    labels = [0, 0, 1, 1, 2, 0, 1, 2, 2, 0]
    shares = [0.6, 0.99, 0.9, 0.98, 0.7, 1, 0.95, 0.9, 0.8, 0.5]
    probabilities = np.concatenate(
        [certain([c], 3, share) for c, share in zip(predicted, shares)]
    )
    evaluation, batches = evaluation_of(labels, probabilities, ["ant", "bee", "cat"])
    results.plot_worst(evaluation, iter(batches), tmp_path / "worst.png", count=4)
    assert is_picture(tmp_path / "worst.png")
    shown = [
        (axis.get_images()[0].get_array().max(), axis.get_title())
        for axis in figures[0].axes
        if axis.get_images()
    ]
    assert shown == [
        (6, "ant (95.0%)\ntrue: bee"),
        (2, "cat (90.0%)\ntrue: bee"),
        (8, "ant (80.0%)\ntrue: cat"),
        (4, "bee (70.0%)\ntrue: cat"),
    ]
    assert "4 of 6 mistakes in 10 images" in figures[0].get_suptitle()
    picked = results.pick(batches, [6, 9], evaluation.labels)
    assert all(image.base is None for image in picked.values())  # not the whole batch
    shuffled = [(images[::-1], truth[::-1]) for images, truth in batches]
    for others in (shuffled, batches[:-1], [*batches, batches[0]]):
        with pytest.raises(ValueError, match="not those of the evaluation"):
            results.plot_worst(evaluation, others, tmp_path / "worst.png")


def test_no_mistakes(tmp_path, figures):
    evaluation, batches = evaluation_of([0, 1], certain([0, 1], 2))
    results.plot_worst(evaluation, batches, tmp_path / "worst.png")
    assert is_picture(tmp_path / "worst.png")
    assert figures[0].texts[0].get_text() == "No mistakes in 2 images"
    assert results.confused_pairs(evaluation, 25) == "no mistakes"


def test_long_names_fit(tmp_path, figures):
    names = [f"W{i}_" + "Staffordshire_bullterrier" * 2 for i in range(3)]
    labels = np.arange(12) % 3
    evaluation, batches = evaluation_of(labels, certain((labels + 1) % 3, 3), names)
    results.plot_worst(evaluation, batches, tmp_path / "worst.png")
    figures[0].draw_without_rendering()
    titles = [axis.title.get_window_extent() for axis in figures[0].axes[:12]]
    page = figures[0].bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in titles)
    assert all(a.x1 < b.x0 for a, b in pairwise(titles[:5]))


@pytest.mark.parametrize("classes", [3, 30, 200])
def test_confusion(classes, tmp_path, figures):
    labels = np.arange(4 * classes) % classes
    predicted = labels.copy()
    predicted[[1, 1 + classes, 2]] = 0, 0, 1
    evaluation, _ = evaluation_of(labels, certain(predicted, classes))
    results.plot_confusion(evaluation, tmp_path / "confusion.png")
    assert is_picture(tmp_path / "confusion.png")
    axis = figures[0].axes[0]
    texts = [text.get_text() for text in axis.texts]
    ticks = [tick.get_text() for tick in axis.get_yticklabels()]
    if classes <= 20:
        assert texts == ["4", "2", "2", "1", "3"]
    else:
        assert texts == [
            "most confused: true → predicted\n"
            "2 of 4  class 1 → class 0\n"
            "1 of 4  class 2 → class 1"
        ]
    assert (ticks == evaluation.class_names) == (classes <= 50)
    drawn = axis.get_images()[0].get_array()
    assert drawn[1, 0] == 2 / 4 and drawn[0, 1] == 0


def test_curves(tmp_path, figures):
    history = {
        "loss": [2.0, 1.0, 0.2],
        "val_loss": [2.5, 1.5, 1.0],
        "accuracy": [0.3, 0.6, 0.9],
        "val_accuracy": [0.2, 0.7, 0.5],
        "learning_rate": [1e-3, 5e-4, 0.0],
    }
    results.plot_curves(history, "some title", tmp_path / "curves.png")
    assert is_picture(tmp_path / "curves.png")
    loss, accuracy, rate = figures[0].axes
    assert loss.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    assert "70.00%, epoch 2" in accuracy.get_title()
    assert figures[0].get_suptitle() == "some title"
    lines = [list(line.get_ydata()) for axis in (loss, rate) for line in axis.lines]
    assert lines == [history["loss"], history["val_loss"], history["learning_rate"]]
    without = {"loss": [2.0], "accuracy": [0.3]}
    results.plot_curves(without, "no validation, one epoch", tmp_path / "curves.png")
    assert [len(axis.lines) for axis in figures[1].axes] == [1, 1]
    assert figures[1].axes[0].get_yscale() == "linear"


# Export and prediction


@pytest.fixture(scope="module")
def digits():
    """The digits, pixels 0-240, and a linear model of them."""
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(1)
    images, labels = load_digits(return_X_y=True)
    images = (images * 15).astype("float32").reshape(-1, 8, 8, 1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.03
    model.fit(images, labels, batch_size=128, epochs=8, verbose=0)
    return SimpleNamespace(images=images, labels=labels, model=model)


def colour_model(height, width):
    """Classes red, green and blue, by the mean colour."""
    model = keras.Sequential(
        [
            keras.Input((height, width, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax", use_bias=False),
        ]
    )
    model.set_weights([np.eye(3) / 20])
    return model


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """The exported colour model, for 8x8 pixels in the middle of 16x16."""
    path = tmp_path_factory.mktemp("colours") / "saved_model"
    batches = [(np.zeros((1, 8, 8, 3), np.float32), [0])]
    names = ["red", "green", "blue"]
    results.export(colour_model(8, 8), path, batches, names, crop=0.5, square=False)
    return path


def test_export(digits, tmp_path):
    data = tf.data.Dataset.from_tensor_slices((digits.images, digits.labels)).batch(500)
    names = [f"Ziffer {i} äöü" for i in range(10)]
    path = tmp_path / "new" / "saved_model"
    assert results.export(digits.model, path, data, names, crop=0.875) < 1e-5
    about = json.loads((path / "classes.json").read_text(encoding="utf-8"))
    assert about == {
        "class_names": names,
        "input_shape": [8, 8, 1],
        "pixels": "float32, 0 to 255, grey",
        "crop": 0.875,
        "square": True,
    }
    served = tf.saved_model.load(path)
    expected = digits.model.predict(digits.images, verbose=0)
    np.testing.assert_allclose(served.serve(digits.images), expected, atol=1e-5)
    evaluation = results.evaluate(digits.model.predict_on_batch, data, names)
    assert evaluation.metrics["accuracy"] > 0.9
    results.plot_worst(evaluation, data, tmp_path / "worst.png")


@pytest.mark.parametrize("value", [0.05, np.nan])
def test_export_notices_other_predictions(value, colours, tmp_path):
    """A class is off in the second batch only, or nothing is a number."""
    model = colour_model(8, 8)
    other = colour_model(8, 8)
    other.set_weights([np.diag([value, 0.05, 0.0])])
    model.export = other.export
    images = np.zeros((2, 8, 8, 3), np.float32)
    images[1, ..., 2] = 200
    batches = [(images[:1], [0]), (images[1:], [2]), (images[:1], [0])]
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "classes.json").write_text("of an earlier model")
    with pytest.raises(RuntimeError, match="predicts something else"):
        results.export(model, path, batches, ["red", "green", "blue"])
    assert not (path / "classes.json").exists()
    if not np.isnan(value):
        assert results.export(model, path, batches[:1], ["red", "green", "blue"]) == 0


def test_export_to_a_full_disk(tmp_path):
    model = colour_model(8, 8)
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    model.export = lambda *_, **__: (_ for _ in ()).throw(full)
    with pytest.raises(RunError, match="no SavedModel: No space left on device"):
        results.export(model, tmp_path / "saved_model", [], ["red", "green", "blue"])


def test_export_of_half_precision_compiled_by_xla(tmp_path):
    """XLA rounds elsewhere, by more than the tolerance; the export is still right."""
    keras.utils.set_random_seed(2)
    half = "mixed_bfloat16"
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            *(keras.layers.Activation("gelu", dtype=half) for _ in range(4)),
            keras.layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(jit_compile=True)
    images = np.random.default_rng(2).uniform(0, 20, (50, 8, 8, 1)).astype("float32")
    batches = [(images, np.zeros(50, int))]
    names = list("abcdefghij")
    assert results.export(model, tmp_path / "saved_model", batches, names) < 1e-4
    compiled = model.predict_on_batch(images)
    assert np.abs(compiled - model(images)).max() > 1e-4


ALONE = """
import runpy, sys
for name in ("keras_gradopt", "models", "datasets", "results", "train", "sklearn",
             "matplotlib", "tensorflow_datasets"):
    sys.modules[name] = None  # as if not installed
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(*arguments):
    script = ROOT / "examples" / "predict.py"
    command = [sys.executable, "-c", ALONE, script, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.slow
def test_predict_alone_finds_the_right_digits(digits, tmp_path):
    probabilities = digits.model.predict(digits.images, verbose=0)
    right = probabilities.argmax(axis=1) == digits.labels
    clear = [int(np.argmax(np.where(right, probabilities[:, c], 0))) for c in range(10)]
    for index in clear:
        image = tf.constant(digits.images[index], tf.uint8)
        name = f"{digits.labels[index]}.png"
        tf.io.write_file(str(tmp_path / name), tf.io.encode_png(image))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    batches = [(digits.images[:10], digits.labels[:10])]
    names = [f"digit {i}" for i in range(10)]
    results.export(digits.model, tmp_path / "saved_model", batches, names)
    done = run_alone(tmp_path / "saved_model", tmp_path, "--json", "--top", 3)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    sentence = f"TensorFlow cannot read {tmp_path}/broken.png as PNG, JPEG, GIF or BMP"
    assert sentence in done.stderr.splitlines()
    found = json.loads(done.stdout)  # of the ten others all the same
    assert [Path(one["file"]).name for one in found] == [f"{i}.png" for i in range(10)]
    for i, one in enumerate(found):
        best = one["predictions"]
        assert len(best) == 3 and best[0]["class"] == f"digit {i}"
        expected = np.sort(probabilities[clear[i]])[::-1][:3]
        shares = [prediction["probability"] for prediction in best]
        np.testing.assert_allclose(shares, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (suffix, mode)
        for suffix in (".png", ".jpg", ".gif", ".bmp")
        for mode in ("RGB", "RGBA", "L")
        if (suffix, mode) != (".jpg", "RGBA")
    ],
)
def test_kinds_of_files(suffix, mode, tmp_path):
    """Wide, with a red stripe left and a blue one right: only the middle counts."""
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:16], pixels[:, 16:] = (240, 0, 0), 80, (0, 0, 240)
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).convert(mode).save(path, quality=95, subsampling=0)
    for channels in (1, 3):
        image = read_image(path, [8, 8, channels], 1.0, False)
        assert image.dtype == tf.float32
        # chroma bleeds in a JPEG
        tolerance = 12 if (suffix, mode) == (".jpg", "RGB") else 0.1
        expected = np.full((8, 8, channels), 80)
        np.testing.assert_allclose(image, expected, atol=tolerance)
        for square in (False, True):
            image = read_image(path, [5, 7, channels], 0.8, square)
            assert image.shape == (5, 7, channels)


def test_resize_and_crop():
    """The shorter side is resized, upright or lying, and the rest cut off evenly."""
    rows = np.repeat(np.arange(0, 240, 10), 12)  # 24 rows of 12 pixels
    upright = tf.constant(rows.reshape(24, 12, 1), tf.uint8)
    lying = tf.transpose(upright, (1, 0, 2))
    for image, axis in ((upright, 0), (lying, 1)):
        path = SimpleNamespace(read_bytes=lambda i=image: tf.io.encode_png(i).numpy())
        same = read_image(path, [12, 12, 1], 1.0, False).numpy()[..., 0]
        levels = np.arange(60, 180, 10)
        np.testing.assert_array_equal(np.moveaxis(same, axis, 0)[:, 3], levels)
        half = read_image(path, [6, 6, 1], 1.0, False).numpy()[..., 0]
        expected = np.arange(65, 180, 20)
        np.testing.assert_allclose(np.moveaxis(half, axis, 0)[:, 3], expected)
        middle = read_image(path, [6, 6, 1], 0.5, False).numpy()[..., 0]
        levels = np.arange(90, 150, 10)
        np.testing.assert_array_equal(np.moveaxis(middle, axis, 0)[:, 3], levels)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_files_are_prepared_as_in_validation(name, tmp_path):
    """Whatever the shape: lying, upright, smaller or larger than the network's."""
    about = PREPROCESSINGS[name]
    for shape in ((90, 130, 3), (61, 33, 3), (300, 280, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        Image.fromarray(image).save(tmp_path / "image.png")
        expected = about.evaluate(image[None].astype("float32"), 56)[0]
        found = read_image(
            tmp_path / "image.png", [56, 56, 3], about.crop, about.square
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.fixture
def photos(tmp_path):
    """red.png and, with a red frame, green.jpg and blue.bmp; and a text."""
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[..., 0] = 240
    for channel, name in enumerate(("red.png", "green.jpg", "blue.bmp")):
        frame[4:12, 4:12] = np.eye(3, dtype=np.uint8)[channel] * 240
        Image.fromarray(frame).save(tmp_path / name, quality=95, subsampling=0)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_predict_text(colours, photos, capsys):
    predict.main([str(colours), str(photos), str(photos / "r*.png"), "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "/" in line] == [
        str(photos / name) for name in ("blue.bmp", "green.jpg", "red.png")
    ]
    assert len(lines) == 3 * 3
    for first, line in zip(("blue", "green", "red"), lines[1::3]):
        share, name = line.split()
        assert name == first and float(share.rstrip("%")) > 99


def test_globs_and_more_than_a_batch(colours, photos, capsys, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 2)
    twice = [str(photos / "*.[!t]*"), str(photos / "blue.bmp")]
    predict.main([str(colours), *twice, "--json"])
    found = json.loads(capsys.readouterr().out)
    first = [one["predictions"][0]["class"] for one in found]
    assert first == ["blue", "green", "red"]
    assert all(len(one["predictions"]) == 3 for one in found)  # there are no five


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("missing.png", "There are no images at {}"),
        ("x*.png", "There are no images at {}"),
        ("empty", "There are no images at {}"),
        ("notes.txt", "TensorFlow cannot read {} as PNG, JPEG, GIF or BMP"),
        ("cut.jpg", "TensorFlow cannot read {} as PNG, JPEG, GIF or BMP"),
        ("palette.bmp", "{} is a BMP with a colour palette; save it as PNG"),
    ],
)
def test_bad_files_give_a_sentence(image, says, colours, photos, capsys):
    (photos / "empty").mkdir()
    (photos / "cut.jpg").write_bytes((photos / "green.jpg").read_bytes()[:-100])
    Image.open(photos / "red.png").convert("P").save(photos / "palette.bmp")
    with pytest.raises(SystemExit) as stop:
        predict.main([str(colours), str(photos / image)])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.err == says.format(photos / image) + "\n"
    assert shown.out == ""


@pytest.mark.parametrize("damage", ["saved_model.pb", "classes.json", None])
def test_bad_models_give_a_sentence(damage, photos, tmp_path, capsys):
    path = tmp_path / "model"
    if damage:
        path.mkdir()
        (path / "classes.json").write_text("{}")
        (path / damage).write_text("{ damaged")
    with pytest.raises(SystemExit) as stop:
        predict.main([str(path), str(photos)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path} is not an exported model: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"class_names": ["red", "green"]}, "3 classes, but 2 names"),
        ({"class_names": 3}, "not iterable"),
        ({"class_names": None}, "not iterable"),
        ({"input_shape": [8, 8]}, ""),
        ({"input_shape": ["a", 8, 3]}, ""),
        ({"input_shape": [8, 8, 1]}, ""),
        ({"crop": 0}, "wrong crop"),
        ({"crop": "half"}, ""),
        ({"square": "yes"}, "wrong crop or square"),
    ],
)
def test_classes_that_are_not_the_models(
    about, says, colours, photos, tmp_path, capsys
):
    path = shutil.copytree(colours, tmp_path / "model")
    known = json.loads((path / "classes.json").read_text())
    (path / "classes.json").write_text(json.dumps(known | about))
    with pytest.raises(SystemExit) as stop:
        predict.main([str(path), str(photos)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path} is not an exported model: ") and says in error
    assert error.count("\n") == 1


def test_bad_flags(colours, capsys):
    for flags in (["--top", "0"], ["--top", "few"]):
        with pytest.raises(SystemExit) as stop:
            predict.main([str(colours), "image.png", *flags])
        assert stop.value.code == 2
        assert "--top" in capsys.readouterr().err
