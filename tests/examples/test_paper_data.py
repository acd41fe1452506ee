"""The papers' data sets from files of the user's, and the sampler of classes."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

import tensorflow as tf
from test_datasets import arrays, same, training, write_images
from training.datasets import DatasetError, animals10, load

pytestmark = pytest.mark.backend_independent

CLASSES = [f"n{number:08}" for number in range(100)]
VARIANTS = [f"F/A-18 {number}" for number in range(100)]


def write_image(path, value):
    image = np.full((5, 6, 3), value, "uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_jpeg(image, quality=100).numpy())


def write_mini_imagenet(manual):
    """Four images a class, as gray as its number; the lists divide the classes."""
    root = manual / "mini-imagenet"
    lists = {"train": CLASSES[:64], "val": CLASSES[64:80], "test": CLASSES[80:]}
    for part, names in lists.items():
        rows = ["filename,label"]
        for name in names:
            for index in range(4):
                filename = f"{name}{index:08}.jpg"
                write_image(root / "images" / filename, CLASSES.index(name))
                rows.append(f"{filename},{name}")
        (root / f"{part}.csv").write_text("\n".join(rows))
    return root


def write_aircraft(manual):
    """Two training images and one test image a variant."""
    root = manual / "fgvc-aircraft-2013b" / "data"
    lists = {"trainval": [], "test": []}
    for number, variant in enumerate(VARIANTS):
        for index, part in enumerate(("trainval", "trainval", "test")):
            name = f"{number:05}{index:02}"
            write_image(root / "images" / f"{name}.jpg", number)
            lists[part].append(f"{name} {variant}")
    for part, rows in lists.items():
        (root / f"images_variant_{part}.txt").write_text("\n".join(rows) + "\n")
    (root / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    return root


def write_animals(manual):
    """Ten images an animal, as gray as its number; and a file that is no image."""
    root = manual / "animals10" / "raw-img"
    for number, animal in enumerate(sorted(animals10.FOLDERS)):
        for index in range(10):
            suffix = ("jpeg", "jpg", "JPG")[index % 3]
            path = root / animals10.FOLDERS[animal] / f"OIP-{index}.{suffix}"
            write_image(path, number)
    (root / "cane" / "Thumbs.db").write_text("")
    return root


# name, what writes it, its classes, images of each to train on and to test
FORMS = {
    "mini_imagenet": (write_mini_imagenet, CLASSES, 3, 1),
    "fgvc_aircraft": (write_aircraft, sorted(VARIANTS), 2, 1),
    "animals10": (write_animals, sorted(animals10.FOLDERS), 9, 1),
}


@pytest.fixture
def manual(tmp_path):
    return tmp_path / "downloads" / "manual"


@pytest.mark.parametrize("name", FORMS)
def test_of_a_folder(name, manual, tmp_path):
    write, classes, trained, tested = FORMS[name]
    write(manual)
    data = load(name, data_dir=str(tmp_path), image_size=8)
    assert data.class_names == classes
    order = VARIANTS if name == "fgvc_aircraft" else classes
    for split, each in ((data.train, trained), (data.validation, tested)):
        labels = []
        for image, label in arrays(split):
            assert image.shape == (5, 6, 3)
            assert abs(image.mean() - order.index(classes[label])) < 2
            labels.append(label)
        assert list(np.bincount(labels)) == [each] * len(classes)
    assert training(data, 7)[0][0].shape == (7, 8, 8, 3)


def test_animals_are_split_as_the_paper_counts():
    """WGD, Table 2: 23,563 and 2,620, of which four sheep were counted twice."""
    from training.datasets.manual import draw

    counts = animals10.IMAGES
    assert np.sum(list(counts.values()), axis=0).tolist() == [23_563, 2_616]
    examples = [
        (f"{index}.jpeg", name)
        for name, numbers in counts.items()
        for index in range(sum(numbers))
    ]
    parts = draw(examples, counts)
    found = [Counter(name for _, name in part) for part in parts]
    assert {n: (found[0][n], found[1][n]) for n in counts} == counts
    assert sorted(parts[0] + parts[1]) == sorted(examples)
    assert parts == draw(examples[::-1], counts)  # whatever their order was


def broken(root, how):
    """Breaks the folder; returns what the sentence must say."""
    image = next(p for p in sorted(root.rglob("*.jp*g")))
    if how == "missing":
        image.unlink()
        return f"{image} is listed, but missing"
    if how == "truncated":
        image.write_bytes(image.read_bytes()[:-40])
        return f"{image} is no image, or damaged"
    if how == "text":
        image.write_text("no image")
        return f"{image} is no image, or damaged"
    if how == "no list":
        (root / "val.csv").unlink()
        return f"{root / 'val.csv'} cannot be read"
    if how == "no label":
        (root / "val.csv").write_text("filename,label\nx.jpg\n")
        return "'x.jpg' is no filename,label"
    if how == "classes":
        (root / "val.csv").write_text("filename,label\n")
        return f"{root} has 84 classes, not 100"
    if how == "few variants":
        (root / "variants.txt").write_text("A340\n")
        return f"{root / 'variants.txt'} has 1 classes, not 100"
    if how == "unknown variant":
        (root / "images_variant_test.txt").write_text("123 Zeppelin\n")
        return "'123 Zeppelin' names no variant of aircraft"
    if how == "unknown animal":
        (root / "gorilla").mkdir()
        return "folders of no known animal: gorilla"
    for path in sorted((root / "cane").glob("OIP*"))[1:]:
        path.unlink()
    return "1 images of dog are too few to test on some of them"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("mini_imagenet", "missing"),
        ("mini_imagenet", "truncated"),
        ("mini_imagenet", "no list"),
        ("mini_imagenet", "no label"),
        ("mini_imagenet", "classes"),
        ("fgvc_aircraft", "missing"),
        ("fgvc_aircraft", "text"),
        ("fgvc_aircraft", "few variants"),
        ("fgvc_aircraft", "unknown variant"),
        ("animals10", "truncated"),
        ("animals10", "unknown animal"),
        ("animals10", "few"),
    ],
)
def test_broken_files_are_named_and_nothing_is_left(name, how, manual, tmp_path):
    says = broken(FORMS[name][0](manual), how)
    with pytest.raises(DatasetError) as error:
        load(name, data_dir=str(tmp_path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    left = {path.name for path in tmp_path.rglob("*") if path.suffix != ".jpg"}
    assert not any("1.0.0" in file or "tfrecord" in file for file in left)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mini_imagenet", "put images/ and train.csv, val.csv and test.csv in"),
        ("fgvc_aircraft", "unpack fgvc-aircraft-2013b.tar.gz in"),
        ("animals10", "unpack archive.zip, which has raw-img/, in"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_what_goes_where(name, says, there, manual, tmp_path):
    if there:  # with other things in it
        (manual / "other").mkdir(parents=True)
    with pytest.raises(DatasetError) as error:
        load(name, data_dir=str(tmp_path))
    assert f"{says} {manual}" in str(error.value)


@pytest.fixture
def unequal(tmp_path):
    for label, (name, number) in enumerate((("ant", 50), ("bee", 6), ("cat", 16))):
        write_images(tmp_path / "train" / name, number, 80 * label)
        write_images(tmp_path / "val" / name, 1, 80 * label)
    return load(f"folder:{tmp_path}", image_size=8, preprocessing="resize")


def test_sampler_draws_classes_equally_often(unequal):
    """With replacement: of 72 draws a class gets a third, an image of few more."""
    epochs = training(unequal, 36, balanced=True, epochs=30)
    labels = np.concatenate([label for _, label in epochs])
    assert len(labels) == 30 * 72
    shares = np.bincount(labels) / len(labels)
    # five standard deviations
    np.testing.assert_allclose(shares, 1 / 3, atol=5 * (2 / 9 / len(labels)) ** 0.5)
    # the order is mixed: neighbours are of one class a third of the time
    repeats = np.mean(labels[1:] == labels[:-1])
    assert abs(repeats - 1 / 3) < 0.06
    for images, label in epochs:
        assert images.shape == (36, 8, 8, 3) and label.shape == (36,)


def test_sampler_draws_every_image_by_its_weight(unequal):
    split, weights = unequal.training_split, np.ones(72)
    weights[5] = 0
    drawn = split.sampled(tf.constant(3, tf.int64), 7200, weights)
    counts = Counter(path for path, _ in drawn.as_numpy_iterator())
    paths = [path for path, _ in split.stored.as_numpy_iterator()]
    assert sum(counts.values()) == 7200
    assert counts.pop(paths[5], 0) == 0
    assert len(counts) == 71
    expected = 7200 / 71
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi2 < 70 + 5 * (2 * 70) ** 0.5


def test_sampler_is_a_function_of_seed_and_epoch(unequal):
    whole = training(unequal, 36, balanced=True, epochs=3)
    resumed = training(unequal, 36, balanced=True, first_epoch=1, epochs=2)
    assert same(whole[2:], resumed)
    assert not same(whole[:2], whole[2:4])
    assert not same(training(unequal, 36, balanced=True, seed=1), whole[:2])
    halves = [
        training(unequal, 72, balanced=True, shard=(index, 2)) for index in range(2)
    ]
    ((images, labels),) = training(unequal, 72, balanced=True)
    for index, ((part, some),) in enumerate(halves):
        np.testing.assert_array_equal(part, images[index::2])
        np.testing.assert_array_equal(some, labels[index::2])
