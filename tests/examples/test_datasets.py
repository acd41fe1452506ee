"""The data of the examples: what is read, what is made of it, and in which order."""

import gzip
import io
import math
import shutil
import socket
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from training.datasets import (
    DATASETS,
    PREPROCESSINGS,
    DatasetError,
    fashion_mnist,
    load,
    loading,
    preparing,
    training_batches,
    validation_batches,
)
from training.datasets.preprocessing import DRAWS

pytestmark = pytest.mark.backend_independent

SEED = 7


def arrays(batches):
    return list(batches.as_numpy_iterator())


def training(data, batch_size=64, **settings):
    settings = {"seed": SEED, **settings}
    return arrays(training_batches(data, batch_size, **settings)[0])


def same(first, second):
    """Whether two lists of batches are equal to the last bit."""
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, other in zip(first, second)
        for a, b in zip(one, other)
    )


def rows(batches):
    """Each example as bytes."""
    return [
        np.asarray(image).tobytes() + bytes([label])
        for images, labels in batches
        for image, label in zip(images, labels)
    ]


def write_images(folder, number, value):
    """PNG files of one colour but for a corner that tells them apart."""
    folder.mkdir(parents=True)
    for index in range(number):
        image = np.full((20 + index, 30, 3), value, "uint8")
        image[:10, :10] = 5 * index
        (folder / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The digits, in more files than are read at once."""
    pytest.importorskip("sklearn")
    folder = str(tmp_path_factory.mktemp("tfds"))
    config = tfds.download.DownloadConfig(num_shards=40)
    tfds.builder("digits", data_dir=folder).download_and_prepare(download_config=config)
    return folder


@pytest.fixture(params=["of one shape", "encoded", "reread", "folder"])
def any_data(request, data_dir, tmp_path, monkeypatch):
    """Small data of each way of reading."""
    if request.param == "folder":
        for label, name in enumerate(("ant", "bee", "cat")):
            write_images(tmp_path / name, 50, 60 * label)
        return load(f"folder:{tmp_path}", image_size=16, preprocessing="cifar")
    if request.param == "of one shape":
        return load("digits", data_dir=data_dir)
    # 1437 images take 92 kB, and 226 kB in files
    monkeypatch.setattr(tfds.features.Image, "shape", (None, None, 1))
    if request.param == "reread":
        monkeypatch.setattr(loading, "CACHED_BYTES", 200_000)
        monkeypatch.setattr(loading, "SHUFFLED_IMAGES", 50)
    data = load("digits", data_dir=data_dir)
    assert data.training_split.decode is not None
    assert (data.training_split.reread is not None) == (request.param == "reread")
    return data


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_gives_batches(name, monkeypatch):
    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    row = DATASETS[name]
    with tfds.testing.mock_data(num_examples=7):
        data = load(name)
        channels = 1 if name in ("digits", "mnist", "fashion_mnist") else 3
        shape = (row.image_size, row.image_size, channels)
        assert data.image_shape == shape
        stored = tfds.builder(row.tfds_name).info.features["image"].shape
        if None not in stored and name != "tiny_imagenet":  # the papers halve it
            assert stored == shape
        assert (data.train_size, data.validation_size) == (7, 7)
        assert data.preprocessing == row.preprocessing
        batches = {
            "train": training(data, 3),
            "validation": arrays(validation_batches(data, 3)),
        }
        assert data.sample_images(2).shape == (2, *shape)
        for image, label in data.train.take(1):
            assert (image.dtype, label.dtype) == (tf.uint8, tf.int64)
    assert [len(labels) for _, labels in batches["train"]] == [3, 3, 3]
    assert [len(labels) for _, labels in batches["validation"]] == [3, 3, 1]
    for images, labels in batches["train"] + batches["validation"]:
        assert images.shape == (len(labels), *shape)
        assert (images.dtype, labels.dtype) == (np.float32, np.int64)
        assert 0 <= images.min() and 1 < images.max() <= 255
        assert 0 <= labels.min() and labels.max() < len(data.class_names)


def test_same_seed_same_batches(any_data):
    tf.random.set_seed(1)
    first = training(any_data, 16, epochs=2)
    tf.random.set_seed(2)
    assert same(training(any_data, 16, epochs=2), first)
    assert not same(training(any_data, 16, epochs=2, seed=SEED + 1), first)


def test_resumed_run_sees_what_the_whole_one_saw(any_data):
    _, steps = training_batches(any_data, 16, seed=SEED)
    whole = training(any_data, 16, epochs=4)
    epochs = [whole[i * steps : (i + 1) * steps] for i in range(4)]
    assert same(training(any_data, 16, first_epoch=2, epochs=2), whole[2 * steps :])
    for first, second in pairwise(epochs):
        assert not same(first, second)


def test_shards_are_the_whole(any_data):
    whole = training(any_data, 16, epochs=2)
    parts = [training(any_data, 16, epochs=2, shard=(i, 2)) for i in range(2)]
    assert all(len(labels) == 8 for part in parts for _, labels in part)
    for index, part in enumerate(parts):
        assert same(part, [(x[index::2], y[index::2]) for x, y in whole])
    whole = arrays(validation_batches(any_data, 16))
    parts = [arrays(validation_batches(any_data, 16, (i, 2))) for i in range(2)]
    for index, part in enumerate(parts):
        assert same(part, [(x[index::2], y[index::2]) for x, y in whole])


def test_batch_must_be_shared_evenly(data_dir):
    data = load("digits", data_dir=data_dir)
    with pytest.raises(DatasetError, match="15 cannot be shared by 2"):
        training_batches(data, 15, seed=0, shard=(0, 2))
    with pytest.raises(DatasetError, match="--batch-size 2000 is more than the 1437"):
        training_batches(data, 2000, seed=0)


def test_an_epoch_has_each_image_in_mixed_order(any_data):
    """Once, but for those that fill up the last batch."""
    plain = training(any_data, 16, augment=False)
    read = one_by_one(any_data.train)
    found, real = rows(plain), rows((any_data.preprocess(x, None), y) for x, y in read)
    assert {len(labels) for _, labels in plain} == {16}
    size = any_data.train_size
    assert size % 16 and len(found) == math.ceil(size / 16) * 16
    assert sorted(found[:size]) == sorted(real)
    moved = [abs(real.index(row) - place) for place, row in enumerate(found[:size])]
    assert np.mean(moved) > 0.2 * len(real)  # 1/3 in a perfect shuffle
    filled = found[size:]
    assert filled != found[: len(filled)]
    again = rows(training(any_data, 16, augment=False, first_epoch=1))[size:]
    assert filled != again


def test_few_images_are_all_trained_on(data_dir):
    """102 images in batches of 64: two batches, 26 images twice."""
    data = load("digits", data_dir=data_dir, limit=102)
    found = rows(training(data, augment=False))
    assert len(found) == 128 and len(set(found)) == 102


def one_by_one(data):
    return [(image[None], np.array([label])) for image, label in arrays(data)]


def test_labels_stay_with_their_images(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        write_images(tmp_path / name, 40, 10 + 100 * label)
    data = load(f"folder:{tmp_path}", image_size=16, preprocessing="resize")
    assert data.class_names == ["ant", "bee", "cat"]
    for images, labels in training(data, 9) + arrays(validation_batches(data, 5)):
        assert np.allclose(images[:, 12, 12, 0], 10 + 100 * labels, atol=1e-3)
        assert len(set(labels)) > 1


def test_training_images_change_and_validation_images_do_not(data_dir):
    data = load("digits", data_dir=data_dir)
    changed, plain = training(data), training(data, augment=False)
    assert [list(y) for _, y in changed] == [list(y) for _, y in plain]
    differs = np.concatenate(
        [np.any(a != b, axis=(1, 2, 3)) for (a, _), (b, _) in zip(changed, plain)]
    )
    assert 0.8 < differs.mean() < 0.97  # 8/9: one place of nine is the image's own
    validation = arrays(validation_batches(data, 50))
    assert same(arrays(validation_batches(data, 50)), validation)
    real = [(x.astype("float32"), y) for x, y in one_by_one(data.validation)]
    assert rows(validation) == rows(real)


def test_steps_of_an_epoch_and_a_limit(data_dir):
    data = load("digits", data_dir=data_dir)
    assert len(training(data, 64, epochs=2)) == 2 * math.ceil(1437 / 64)
    short = training(data, 64, epochs=2, steps_per_epoch=3)
    assert same(short[:3], training(data)[:3])
    assert same(short[3:], training(data, first_epoch=1)[:3])
    few = load("digits", data_dir=data_dir, limit=100)
    assert (few.train_size, few.validation_size) == (100, 100)
    assert set(rows(one_by_one(few.train))) <= set(rows(one_by_one(data.train)))
    long = rows(training(few, 50, steps_per_epoch=4, augment=False))
    assert set(long[:100]) == set(long[100:]) and long[:100] != long[100:]


def test_cache_is_filled_in_the_first_epoch(tmp_path, data_dir):
    """The files can go away after it."""
    folder = shutil.copytree(Path(data_dir, "digits"), tmp_path / "digits")
    batches = iter(training_batches(load(f"{folder}/1.0.0"), 64, seed=0, epochs=2)[0])
    next(batches)
    for file in folder.rglob("*.tfrecord*"):
        file.unlink()
    assert len(list(batches)) == 2 * 23 - 1


def test_sample_images_are_the_first_ones(data_dir):
    data = load("digits", data_dir=data_dir)
    images = data.sample_images(5)
    assert images.dtype == np.float32
    assert np.array_equal(images, [image for image, _ in arrays(data.train.take(5))])
    assert data.sample_images(9999).shape == (1437, 8, 8, 1)


# Preprocessing


def noise(*shape):
    generator = np.random.default_rng(0)
    return generator.integers(1, 256, shape).astype("float32")


def draws(number, *columns):
    """Random numbers; or the same for every image."""
    if columns:
        return np.tile(np.float32(columns), (number, 1))
    return np.random.default_rng(1).random((number, DRAWS)).astype("float32")


@pytest.mark.parametrize(("name", "mirrors"), [("shift", 1), ("cifar", 2)])
def test_shifts_are_crops_of_the_padded_image(name, mirrors):
    image = noise(16, 16, 3)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    views = {
        padded[y : y + 16, x : x + 16][:, ::step].tobytes()
        for y in range(5)
        for x in range(5)
        for step in (1, -1)[:mirrors]
    }
    images = np.tile(image, (500, 1, 1, 1))
    made = PREPROCESSINGS[name].train(images, 16, draws(500)).numpy()
    assert {one.tobytes() for one in made} == views


def test_resize_flips_half():
    images = np.tile(noise(8, 8, 3), (400, 1, 1, 1))
    made = PREPROCESSINGS["resize"].train(images, 12, draws(400)).numpy()
    plain = PREPROCESSINGS["resize"].evaluate(images, 12).numpy()
    straight = [np.array_equal(a, b) for a, b in zip(made, plain)]
    mirrored = [np.allclose(a[:, ::-1], b, atol=1e-3) for a, b in zip(made, plain)]
    assert np.sum(straight) + np.sum(mirrored) == 400
    assert 160 < np.sum(straight) < 240


def test_validation_crops_are_central():
    image = noise(1, 256, 300, 3)
    made = PREPROCESSINGS["imagenet"].evaluate(image, 224).numpy()
    assert np.allclose(made, image[:, 16:240, 38:262], atol=1e-3)
    image = noise(1, 512, 512, 3)
    made = PREPROCESSINGS["fine_grained"].evaluate(image, 448).numpy()
    assert np.array_equal(made, image[:, 32:480, 32:480])
    for name in ("imagenet", "fine_grained"):  # in proportion
        for shape in ((1, 40, 90, 1), (1, 90, 40, 1)):
            made = PREPROCESSINGS[name].evaluate(noise(*shape), 32)
            assert made.shape == (1, 32, 32, 1)


def test_resized_crop_has_the_area_and_the_ratio():
    """In an image of its own coordinates, values tell what was cropped."""
    y, x = np.mgrid[:200, :200]
    image = np.stack([y, x], axis=-1).astype("float32")
    images = np.tile(image, (300, 1, 1, 1))
    made = PREPROCESSINGS["imagenet"].train(images, 32, draws(300)).numpy()
    extents = np.ptp(made, axis=(1, 2)) * 32 / 31  # centres of the outer pixels
    area, ratio = extents.prod(axis=1) / 200**2, extents[:, 0] / extents[:, 1]
    assert 0.06 < area.min() < 0.12 and 0.9 < area.max() < 1.05
    assert 0.45 < area.mean() < 0.6
    assert 0.7 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.4
    leftmost = made[:, 0, :, 1].min(axis=1)
    assert leftmost.min() < 5 and leftmost.max() > 80
    mirrored = made[:, 0, 0, 1] > made[:, 0, -1, 1]
    assert 0.4 < mirrored.mean() < 0.6


def test_fine_grained_brightness_and_contrast():
    image = noise(1, 64, 64, 3) / 2 + 40  # far from the edges of the range
    train = PREPROCESSINGS["fine_grained"].train
    plain = train(image, 56, draws(1, 0.5, 0.5, 0.5, 0.5, 0.5)).numpy()
    assert np.allclose(plain, image[:, 4:60, 4:60], atol=1e-3)
    mirrored = train(image, 56, draws(1, 0.5, 0.5, 0.4, 0.5, 0.5)).numpy()
    assert np.allclose(mirrored, image[:, 4:60, 59:3:-1], atol=1e-3)
    darker = train(image, 56, draws(1, 0.5, 0.5, 0.5, 0.0, 0.5)).numpy()
    assert np.allclose(darker, 0.8 * plain, atol=1e-3)
    flatter = train(image, 56, draws(1, 0.5, 0.5, 0.5, 0.5, 0.0)).numpy()
    assert flatter.std() == pytest.approx(0.8 * plain.std(), rel=1e-4)
    corner = train(image, 56, draws(1, 0.0, 0.99, 0.5, 0.5, 0.5)).numpy()
    assert np.allclose(corner, image[:, :56, 8:], atol=1e-3)


# Finding and preparing


def test_folder_with_splits(tmp_path):
    for name, number in (("train", 5), ("val", 3)):
        for label, kind in enumerate(("ant", "bee")):
            write_images(tmp_path / name / kind, number, 100 * label)
    data = load(f"folder:{tmp_path}")
    assert (data.train_size, data.validation_size) == (10, 6)
    assert data.class_names == ["ant", "bee"]
    assert (data.image_shape, data.preprocessing) == ((224, 224, 3), "imagenet")
    shapes = {image.shape for image, _ in arrays(data.train)}
    assert shapes == {(20 + index, 30, 3) for index in range(5)}


def test_splits_of_the_users(data_dir):
    whole, part = (
        load("digits", data_dir=data_dir, splits=splits)
        for splits in (None, "train[:30%],train[30%:]")
    )
    assert (part.train_size, part.validation_size) == (431, 1006)
    parts = [*arrays(part.train), *arrays(part.validation)]
    assert sorted(rows([zip(*parts)])) == sorted(rows([zip(*arrays(whole.train))]))
    for splits, says in (("train", "with a comma"), ("train,tset", "no split 'tset'")):
        with pytest.raises(DatasetError, match=says):
            load("digits", data_dir=data_dir, splits=splits)


def test_class_weights_balance_the_classes(tmp_path):
    for label, (name, number) in enumerate((("ant", 30), ("bee", 6), ("cat", 12))):
        write_images(tmp_path / name, number, 100 * label)
    data = load(f"folder:{tmp_path}")
    labels = np.array([label for _, label in arrays(data.train)])
    weights = np.vectorize(data.class_weights().get)(labels)
    sums = [weights[labels == label].sum() for label in range(3)]
    np.testing.assert_allclose(sums, len(labels) / 3)


def test_validation_that_devices_share_evenly(data_dir):
    """360 images for 7 devices in batches of 21: 357, in whole sevenths."""
    data = load("digits", data_dir=data_dir)
    batches = arrays(validation_batches(data, 21, multiple_of=7))
    assert {len(labels) for _, labels in batches} == {21}
    assert sum(len(labels) for _, labels in batches) == 357
    first, second = (
        arrays(validation_batches(data, 32, (index, 2), multiple_of=16))
        for index in range(2)
    )
    assert [len(x) for _, x in first] == [len(x) for _, x in second] == [16] * 11
    few = load("digits", data_dir=data_dir, limit=3)
    with pytest.raises(DatasetError, match="3 validation images are less than"):
        validation_batches(few, 8, multiple_of=4)


def test_folder_is_split_by_seed(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        write_images(tmp_path / name, 25, 100 * label)

    def paths(split):
        return [path for path, _ in arrays(split.stored)]

    first, again, other = (load(f"folder:{tmp_path}", seed=s) for s in (1, 1, 2))
    assert (first.train_size, first.validation_size) == (45, 5)
    assert paths(first.training_split) == paths(again.training_split)
    held_out = paths(first.validation_split)
    assert set(held_out) != set(paths(other.validation_split))
    both = paths(first.training_split) + held_out
    assert sorted(both) == sorted(str(p).encode() for p in tmp_path.rglob("*.png"))


def test_folder_without_validation(tmp_path):
    """`train` is split as a folder without it is."""
    for label, name in enumerate(("ant", "bee")):
        write_images(tmp_path / "train" / name, 25, 100 * label)
    (tmp_path / "val" / "ant").mkdir(parents=True)  # without images
    data = load(f"folder:{tmp_path}", seed=1)
    assert data.class_names == ["ant", "bee"]
    assert (data.train_size, data.validation_size) == (45, 5)
    alone = load(f"folder:{tmp_path / 'train'}", seed=1)
    assert arrays(alone.training_split.stored) == arrays(data.training_split.stored)


def test_hidden_and_empty_folders_are_no_classes(tmp_path):
    for label, name in enumerate(("ant", "bee", ".ipynb_checkpoints", "bee/.thumbs")):
        write_images(tmp_path / name, 10, 50 * label)
    (tmp_path / "ant" / "more").mkdir()
    shutil.copy(tmp_path / "ant" / "0.png", tmp_path / "ant" / "more" / "x.PNG")
    (tmp_path / "ant" / "._1.png").write_text("of another system")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no image")
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ["ant", "bee"]
    assert data.train_size + data.validation_size == 21


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ([], "has images of 0 classes"),
        (["ant"], r"has images of 1 classes \(ant\)"),
        (["train/ant"], r"train has images of 1 classes \(ant\)"),
        (["train/ant", "val/ant"], "train has images of 1 classes"),
        (["train/ant", "train/bee", "val/bee", "val/cat"], "train lacks: cat"),
        (["val/ant", "val/bee", "cat", "dog"], "val has classes, but there is no"),
        (["val/ant", "test/ant"], "val has classes, but there is no train"),
    ],
)
def test_folders_that_make_no_sense(folders, says, tmp_path):
    for label, name in enumerate(folders):
        write_images(tmp_path / name, 10, 20 * label)
    with pytest.raises(DatasetError, match=says):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_kinds_of_files(mode, suffix, tmp_path):
    """As Pillow reads them; what TensorFlow would read wrongly is refused by name."""
    if (mode, suffix) in (("RGBA", "jpg"), ("P", "jpg")):
        pytest.skip("there is no such JPEG")
    pixels = np.zeros((8, 10, 3), "uint8")
    pixels[:, :5], pixels[:, 5:] = (240, 0, 0), (10, 20, 200)
    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        for index in range(5):
            image = Image.fromarray(pixels).convert(mode)
            image.save(tmp_path / label / f"{index}.{suffix}")
    if (mode, suffix) == ("P", "bmp"):
        with pytest.raises(DatasetError, match=r"\.bmp is a BMP with a colour palette"):
            load(f"folder:{tmp_path}")
        return
    ((image, _),) = arrays(load(f"folder:{tmp_path}").train.take(1))
    with Image.open(tmp_path / "ant" / f"0.{suffix}") as file:
        expected = np.asarray(file.convert("RGB"))
    np.testing.assert_allclose(image, expected, atol=3 if suffix == "jpg" else 0)


@pytest.fixture
def offline(monkeypatch):
    """A network that swallows every connection."""

    def wait(*_, **__):
        time.sleep(10)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", wait)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def test_without_a_network_one_sentence_at_once(offline, tmp_path):
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        begin = time.perf_counter()
        with pytest.raises(DatasetError) as error:
            load("cifar10", data_dir=str(tmp_path))
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 3
    said = str(error.value)
    assert f"cifar10 is not prepared in {tmp_path}" in said
    assert "www.cs.toronto.edu does not answer" in said
    assert f"tfds build cifar10 --data_dir={tmp_path}" in said
    for name in ("digits", "fashion_mnist", "folder:/path"):
        assert name in said.partition("Without a network these work")[2]


def test_proxy_that_reaches_nothing(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in ("http_proxy", "https_proxy"):  # nobody listens there any more
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    begin = time.perf_counter()
    with pytest.raises(DatasetError, match=r"www\.cs\.toronto\.edu does not answer"):
        load("cifar10", data_dir=str(tmp_path))
    assert time.perf_counter() - begin < 20  # TFDS alone tries for minutes


def test_without_a_network_what_is_prepared_works(offline, data_dir):
    assert load("digits", data_dir=data_dir).train_size == 1437
    assert load(str(Path(data_dir, "digits", "1.0.0"))).train_size == 1437
    assert load("digits:1.0.0", data_dir=data_dir).preprocessing == "shift"


def test_broken_download_is_a_sentence(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(preparing, "answers", lambda *_: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DatasetError, match="the line is cut"):
        load("svhn_cropped", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("imagenet2012", "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in"),
        ("tiny_imagenet", "unpack tiny-imagenet-200.zip in"),
    ],
)
def test_files_by_hand(name, says, tmp_path):
    with pytest.raises(DatasetError) as error:
        load(name, data_dir=str(tmp_path))
    assert f"{says} {tmp_path}/downloads/manual" in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar99", "no data set 'cifar99'.*cifar100.*folder:/path"),
        ("imagenette/gigantic", "gigantic not found"),
        ("cifar10:9.9.9", "cannot be loaded at version 9.9.9"),
    ],
)
def test_unknown_names(name, says, tmp_path):
    with pytest.raises(DatasetError, match=says):
        load(name, data_dir=str(tmp_path))


def test_text_is_no_image_classification(monkeypatch):
    monkeypatch.setattr(preparing, "prepare", lambda *_: None)
    with tfds.testing.mock_data(), pytest.raises(DatasetError, match="no image class"):
        load("glue/cola")


def test_host_that_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert preparing.answers("127.0.0.1", port)
    assert not preparing.answers("127.0.0.1", port)


def gzipped(content, name, seconds):
    file = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=file, mtime=seconds) as compressed:
        compressed.write(content)
    return file.getvalue()


def test_gzip_header_is_written_back():
    original = gzipped(b"pixels" * 9, "train-images-idx3-ubyte.gz", 1504176606)
    stripped = gzipped(b"pixels" * 9, "", 0)
    name = "train-images-idx3-ubyte"
    assert fashion_mnist.with_header(stripped, name, 1504176606) == original
    assert fashion_mnist.with_header(original, name, 1504176606) == original


def test_fashion_mnist_is_verified(monkeypatch, tmp_path):
    """Files of that name with other contents are refused."""
    for name in fashion_mnist.FILES:
        (tmp_path / f"{name}.gz").write_bytes(gzipped(b"other", "", 0))
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match="wrong checksum"):
        load("fashion_mnist", data_dir=str(tmp_path / "tfds"))


@pytest.mark.slow
@pytest.mark.skipif(not fashion_mnist.local_folder(), reason="not installed")
def test_fashion_mnist_of_debian(offline, tmp_path):
    data = load("fashion_mnist", data_dir=str(tmp_path))
    assert (data.train_size, data.validation_size) == (60_000, 10_000)
    assert data.class_names[0] == "T-shirt/top"
    labels = np.concatenate([y for _, y in arrays(validation_batches(data, 500))])
    assert list(np.bincount(labels)) == [1000] * 10


def test_tiny_imagenet_of_a_folder(tmp_path):
    """Two training images and one validation image a class, gray as its number."""
    root = tmp_path / "downloads" / "manual" / "tiny-imagenet-200"
    names = [f"n{number:08}" for number in range(200)]
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(reversed(names)))
    annotations = []
    for number, name in enumerate(names):
        channels = 1 if number == 5 else 3  # some files are gray
        image = np.full((64, 64, channels), number, "uint8")
        content = tf.io.encode_jpeg(image, quality=100).numpy()
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for index in range(2):
            (folder / f"{name}_{index}.JPEG").write_bytes(content)
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(content)
        annotations.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    data = load("tiny_imagenet", data_dir=str(tmp_path))
    assert (data.train_size, data.validation_size) == (400, 200)
    assert data.class_names == names
    assert data.image_shape == (32, 32, 3)
    for split, each in ((data.train, 2), (data.validation, 1)):
        labels = []
        for image, label in arrays(split):
            assert image.shape == (64, 64, 3)
            assert abs(image.astype(float).mean() - label) < 2
            labels.append(label)
        assert list(np.bincount(labels)) == [each] * 200
