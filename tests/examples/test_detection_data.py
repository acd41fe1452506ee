"""Folders in the form of PASCAL VOC, TFDS' own data sets, and what may be broken."""

import re

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

import tensorflow as tf
import tensorflow_datasets as tfds
from training.datasets import (
    DatasetError,
    preparing,
    training_batches,
    validation_batches,
)
from training.detection.boxes import decode, default_boxes
from training.detection.data import load

pytestmark = pytest.mark.backend_independent

DEFAULTS = default_boxes([8, 4, 3, 2, 1, 1])
SIZE = (40, 60)  # height, width
COLORS = {"disc": (200, 30, 30), "ring": (30, 30, 200)}


def annotation(objects, size=SIZE):
    """XML as LabelImg writes it; an object is a name and left, top, right, bottom."""
    parts = [f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"]
    for name, left, top, right, bottom, *difficult in objects:
        parts.append(
            f"<object><name>{name}</name><difficult>{sum(difficult)}</difficult>"
            f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
            f"<ymax>{bottom}</ymax></bndbox></object>"
        )
    return f"<annotation>{''.join(parts)}</annotation>"


def write_image(path, objects, size=SIZE):
    """A grey image with its objects as coloured rectangles."""
    image = np.full((*size, 3), 120, "uint8")
    for name, left, top, right, bottom, *_ in objects:
        image[top:bottom, left:right] = COLORS[name]
    path.write_bytes(tf.io.encode_jpeg(image, quality=100).numpy())


def write_voc(root, lists=None):
    """A folder of two lists, whose images have a disc, and every second a ring."""
    lists = lists or {"trainval": range(6), "test": range(6, 9)}
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for part, numbers in lists.items():
        names = [f"img{number}" for number in numbers]
        (root / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for number, name in zip(numbers, names):
            objects = [("disc", 3 + number, 10, 23 + number, 30)]
            if number % 2:
                objects.append(("ring", 30, 20, 60, 40, 1))
            write_image(root / "JPEGImages" / f"{name}.jpg", objects)
            (root / "Annotations" / f"{name}.xml").write_text(annotation(objects))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_voc(tmp_path / "cells")


def read(folder, **settings):
    """The folder's data set, prepared beside it."""
    data_dir = str(folder.parent / "prepared")
    settings = {"image_size": 64, "data_dir": data_dir, **settings}
    return load(f"folder:{folder}", DEFAULTS, **settings)


def test_folder_is_read_as_it_is(folder):
    data = read(folder)
    assert (data.train_size, data.validation_size) == (6, 3)
    assert data.class_names == ["disc", "ring"]
    truth = {len(objects): objects for objects in data.truth()}
    disc, ring = truth[2]  # image 7, the only one with a ring
    np.testing.assert_allclose(disc, [10 / 40, 10 / 60, 30 / 40, 30 / 60, 1, 0])
    np.testing.assert_allclose(ring, [20 / 40, 30 / 60, 1, 1, 2, 1])
    assert len(data.truth()) == 3


def test_batches_are_images_and_their_boxes(folder):
    """Validation in the order of the truth; each target decodes to a true box."""
    data = read(folder)
    (images, targets), second = validation_batches(data, 2)
    assert images.shape == (2, 64, 64, 3) and targets.shape == (2, len(DEFAULTS), 5)
    assert len(second[0]) == 1
    targets = np.concatenate([targets, second[1]])
    for objects, target in zip(data.truth(), targets):
        matched = target[:, 4] > 0
        found = decode(target[:, :4], DEFAULTS).numpy()[matched]
        for box in objects[:, :4]:
            assert np.abs(found - box).sum(axis=1).min() < 1e-4
        for box in found:
            assert np.abs(objects[:, :4] - box).sum(axis=1).min() < 1e-4
    batches, steps = training_batches(data, 2, seed=0, epochs=2)
    every = [(x.numpy(), y.numpy()) for x, y in batches]
    assert steps == 3 and len(every) == 6
    assert all(0 <= x.min() and x.max() <= 255 for x, _ in every)
    assert all((y[..., 4] > 0).any(axis=1).all() for _, y in every)
    # the second epoch is the same to one that begins with it, and not the first
    again = training_batches(data, 2, seed=0, first_epoch=1, epochs=1)[0]
    for (x, y), (same, likewise), (other, _) in zip(every[3:], again, every):
        np.testing.assert_array_equal(x, same)
        np.testing.assert_array_equal(y, likewise)
        assert (x != other).any()


def test_lists(tmp_path):
    """With a test list trainval is trained on, without one train, and never val."""
    root = write_voc(tmp_path / "a", {"trainval": range(5), "test": [5, 6]})
    (root / "ImageSets/Main/val.txt").write_text("img0\n")
    assert read(root).train_size == 5
    root = write_voc(tmp_path / "b", {"trainval": range(5), "train": [1, 2]})
    (root / "ImageSets/Main/val.txt").write_text("img0  1\n\n")  # of one class
    data = read(root)
    assert (data.train_size, data.validation_size) == (2, 1)


def test_changed_folder_is_prepared_again(folder):
    assert read(folder).train_size == 6
    path = folder / "Annotations/img0.xml"
    path.write_text(annotation([("disc", 1, 2, 3, 4), ("disc", 5, 6, 7, 8)]))
    data = read(folder)
    objects = data.training_split.stored.map(lambda _, objects: objects)
    assert sorted(len(rows) for rows in objects) == [1, 1, 2, 2, 2, 2]


def test_limit_and_splits(folder):
    data = read(folder, limit=2)
    assert (data.train_size, data.validation_size) == (2, 2)
    data = read(folder, splits="train[:50%],train[50%:]")
    assert (data.train_size, data.validation_size) == (3, 3)
    with pytest.raises(DatasetError, match="two splits"):
        read(folder, splits="train")
    with pytest.raises(DatasetError, match="no split 'valid'"):
        read(folder, splits="train,valid")


def put(folder, objects, **settings):
    path = folder / "Annotations/img2.xml"
    path.write_text(annotation(objects, **settings))


def cut(folder):
    path = folder / "JPEGImages/img2.jpg"
    path.write_bytes(path.read_bytes()[:300])


GOOD = ("disc", 5, 10, 25, 30)
FAULTS = {
    "no boxes": (lambda f: put(f, []), "img2.xml has no boxes"),
    "outside": (
        lambda f: put(f, [GOOD, ("disc", 50, 5, 61, 20)]),
        r"img2.xml: the box of disc at \(50, 5\)-\(61, 20\) reaches beyond the 60 x 40",
    ),
    "no area": (
        lambda f: put(f, [GOOD, ("disc", 50, 5, 50, 20)]),
        r"img2.xml: the box of disc at \(50, 5\)-\(50, 20\) has no area",
    ),
    "no number": (
        lambda f: put(f, [GOOD, ("disc", "nan", 5, 50, 20)]),
        r"the box of disc at \(nan, 5\)-\(50, 20\) has no area",
    ),
    "unknown class": (
        lambda f: (f / "Annotations/img7.xml").write_text(
            annotation([("dics", 1, 2, 3, 4)])
        ),
        "img7.xml has the unknown class 'dics'; the images to train on have disc, ring",
    ),
    "image missing": (
        lambda f: (f / "JPEGImages/img2.jpg").unlink(),
        "img2.jpg is listed, but missing",
    ),
    "image truncated": (cut, "img2.jpg is no image, or damaged"),
    "other size": (
        lambda f: put(f, [GOOD], size=(60, 40)),
        "img2.jpg is 60 x 40 pixels large, but its annotation says 40 x 60",
    ),
    "annotation missing": (
        lambda f: (f / "Annotations/img2.xml").unlink(),
        "img2.xml is missing: the annotation of .*img2.jpg",
    ),
    "no XML": (
        lambda f: (f / "Annotations/img2.xml").write_text("disc 5 10"),
        "img2.xml is no XML",
    ),
    "half an object": (
        lambda f: (f / "Annotations/img2.xml").write_text(
            annotation([GOOD]).replace("ymax", "bottom")
        ),
        "img2.xml must have the size of the image, and of each object the name and",
    ),
    "in both lists": (
        lambda f: (f / "ImageSets/Main/test.txt").write_text("img1\nimg7"),
        "img1 is in the list to train on and in the one held out",
    ),
    "no list": (
        lambda f: (f / "ImageSets/Main/trainval.txt").unlink(),
        r"has no trainval.txt. The folder must have Annotations/ \(XML\)",
    ),
    "empty list": (
        lambda f: (f / "ImageSets/Main/test.txt").write_text("\n"),
        "has no images with boxes to train and test on",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_input_is_named(fault, folder):
    """In one sentence, and nothing half-prepared is left behind."""
    break_it, says = FAULTS[fault]
    break_it(folder)
    with pytest.raises(DatasetError, match=says) as error:
        read(folder)
    assert "\n" not in str(error.value)
    left = [p for p in (folder.parent / "prepared").rglob("*") if p.is_file()]
    assert not left
    with pytest.raises(DatasetError, match=says):  # nor believed the next time
        read(folder)


def test_folder_missing(tmp_path):
    with pytest.raises(DatasetError, match="There is no folder"):
        read(tmp_path / "nowhere")


def test_faults_are_repaired_if_asked(folder, capsys):
    """Cut at the edge, or left out; each is said."""
    put(folder, [GOOD, ("disc", -5, 5, 61, 20), ("disc", 50, 5, 50, 20)])
    (folder / "Annotations/img4.xml").write_text(annotation([]))
    with pytest.raises(DatasetError, match="--faults repair cuts"):
        read(folder)
    data = read(folder, repair=True)
    shown = capsys.readouterr().out
    assert len(re.findall("Repaired: ", shown)) == 3
    for says in ("reaches beyond", "has no area", "img4.xml has no boxes"):
        assert says in shown
    objects = data.training_split.stored.map(lambda _, objects: objects)
    rows = [row for rows in objects.as_numpy_iterator() for row in rows]
    assert data.train_size == 5
    np.testing.assert_allclose(
        max(rows, key=lambda r: r[3] - r[1])[:4], [5 / 40, 0, 20 / 40, 1]
    )


def mock_voc(number):
    """TFDS' own builders, with so many images of one to three objects in each split."""

    def as_dataset(builder, split, decoders, **_):
        features = builder.info.features
        objects = features["objects"].feature
        random = np.random.default_rng(0)

        def examples():
            for index in range(number * len(split.split("+"))):
                count = 1 + index % 3
                begin = random.uniform(0, 0.5, (count, 2))
                end = begin + random.uniform(0.1, 0.5, (count, 2))
                row = {
                    "bbox": np.concatenate([begin, end], axis=1).astype("float32"),
                    "label": random.integers(0, objects["label"].num_classes, count),
                }
                for flag in {"is_difficult", "is_crowd"} & set(objects):
                    row[flag] = random.uniform(size=count) < 0.2
                image = random.integers(0, 256, (30 + index, 50, 3), "uint8")
                image = tf.io.encode_jpeg(image).numpy() if decoders.decoders else image
                yield {"image": image, "objects": row}

        kinds = {"bbox": tf.float32, "label": tf.int64}
        kinds |= {f: tf.bool for f in {"is_difficult", "is_crowd"} & set(objects)}
        specs = {
            name: tf.TensorSpec((None, 4) if name == "bbox" else (None,), kind)
            for name, kind in kinds.items()
        }
        image = (
            tf.TensorSpec((), tf.string)
            if decoders.decoders
            else tf.TensorSpec((None, None, 3), tf.uint8)
        )
        made = tf.data.Dataset.from_generator(
            examples, output_signature={"image": image, "objects": specs}
        )
        count = number * len(split.split("+"))
        return made.apply(tf.data.experimental.assert_cardinality(count))

    return tfds.testing.mock_data(as_dataset_fn=as_dataset)


def test_pascal_voc_of_tfds(monkeypatch):
    """2007 and 2012 to train on, the test set of 2007 held out, of mock images."""
    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    with mock_voc(5):
        data = load("voc", DEFAULTS, image_size=64)
        images, targets = next(iter(training_batches(data, 4, seed=0)[0]))
        assert load("voc", DEFAULTS, image_size=64, limit=7).train_size == 7
        # boxes in another form: crowds stand apart as difficult objects do
        crowds = load("coco/2017", DEFAULTS, image_size=64).truth()
    assert len(data.class_names) == 20 and data.class_names[0] == "aeroplane"
    assert data.train_size == 20 and data.validation_size == 5  # 2 sets, 2 splits
    assert images.shape == (4, 64, 64, 3) and targets.shape == (4, len(DEFAULTS), 5)
    assert any(objects[:, 5].any() for objects in crowds)
    with tfds.testing.mock_data(num_examples=5):
        with pytest.raises(DatasetError, match="mnist is no object detection"):
            load("mnist", DEFAULTS)
        with pytest.raises(DatasetError, match="splits"):
            load("voc", DEFAULTS, splits="train,test")
