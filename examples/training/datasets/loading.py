"""Data sets by name, ready to be read."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from predict import SUFFIXES, has_palette

from training.datasets.catalogue import DATASETS, Dataset
from training.datasets.preparing import DatasetError, prepared_builder
from training.datasets.preprocessing import DRAWS, PREPROCESSINGS

CACHED_BYTES = 2**31  # a split that takes more memory is read anew in every epoch
SHUFFLED_IMAGES = 16_384  # of such a split
VALIDATION_FOLDERS = ("val", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The examples of a split as they are stored, and how to decode them.

    Args:
        size: Number of examples.
        stored: `(image, label)` in a fixed order: uint8 images of one shape, or what
            `decode` takes.
        decode: Makes the uint8 image of a stored one.
        reread: For a split too large to be cached: the stored examples with their
            files in an order drawn from a seed.
    """

    size: int
    stored: tf.data.Dataset
    decode: Callable[[tf.Tensor], tf.Tensor] | None = None
    reread: Callable[[tf.Tensor], tf.data.Dataset] | None = None

    def images(self) -> tf.data.Dataset:
        """`(uint8 image, int64 label)` in a fixed order."""
        if self.decode is None:
            return self.stored
        return self.stored.map(lambda image, label: (self.decode(image), label))

    def shuffled(self, seed: tf.Tensor) -> tf.data.Dataset:
        """The stored examples in an order drawn from a seed, over and over."""
        if self.reread:
            examples, number = self.reread(seed), min(SHUFFLED_IMAGES, self.size)
        else:
            examples, number = self.stored, self.size
        return examples.shuffle(number, seed=seed).repeat()

    def sampled(
        self, seed: tf.Tensor, number: int, weights: np.ndarray
    ) -> tf.data.Dataset:
        """So many stored examples, each drawn anew with odds of `weights`.

        Drawn is how often each is taken; then all are shuffled. Draws that do not
        depend on each other are equally likely in every order, so that is the same.
        """
        shares = np.cumsum(weights, dtype="float64") / np.sum(weights, dtype="float64")
        draws = tf.random.stateless_uniform([number], [seed, 0], dtype=tf.float64)
        taken = tf.math.bincount(
            tf.searchsorted(shares[:-1], draws, side="right"), minlength=self.size
        )
        examples = tf.data.Dataset.zip(
            (self.stored, tf.data.Dataset.from_tensor_slices(tf.cast(taken, tf.int64)))
        ).flat_map(
            lambda example, times: tf.data.Dataset.from_tensors(example).repeat(times)
        )
        buffer = min(SHUFFLED_IMAGES, number) if self.reread else number
        return examples.shuffle(buffer, seed=seed)


@dataclass(frozen=True)
class Data:
    """A training and a validation split, and the shape of what a network gets.

    Args:
        training_split: What is trained on.
        validation_split: What is validated on.
        image_shape: Height, width and channels after preprocessing.
        class_names: The names, in the order of the labels.
        preprocessing: A name in `PREPROCESSINGS`.
    """

    training_split: Split
    validation_split: Split
    image_shape: tuple[int, int, int]
    class_names: list[str]
    preprocessing: str

    draws = DRAWS
    """How many random numbers the preprocessing of a training image takes."""

    @property
    def train(self) -> tf.data.Dataset:
        """`(uint8 image, int64 label)` as read, in a fixed order."""
        return self.training_split.images()

    @property
    def validation(self) -> tf.data.Dataset:
        """`(uint8 image, int64 label)` as read, in a fixed order."""
        return self.validation_split.images()

    @property
    def train_size(self) -> int:
        return self.training_split.size

    @property
    def validation_size(self) -> int:
        return self.validation_split.size

    def preprocess(self, images: tf.Tensor, draws: tf.Tensor | None) -> tf.Tensor:
        """A batch as read, made ready; at random only with `draws`."""
        images = tf.cast(images, tf.float32)
        functions, size = PREPROCESSINGS[self.preprocessing], self.image_shape[0]
        if draws is None:
            images = functions.evaluate(images, size)
        else:
            images = functions.train(images, size, draws)
        return tf.ensure_shape(images, (None, *self.image_shape))

    def prepare(
        self, images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What the network gets of a batch as read, and what it is to predict."""
        return self.preprocess(images, draws), labels

    def training_labels(self) -> np.ndarray:
        """The labels of the training images as they are stored."""
        labels = self.training_split.stored.map(lambda _, label: label).batch(1024)
        return np.concatenate(list(labels.as_numpy_iterator()))

    def class_weights(self) -> dict[int, float]:
        """For each class of the training images, what balances their number.

        The weights of all images have mean 1 and the same sum in every class: in
        expectation the loss of a sampler that draws all classes equally often.
        """
        found = self.training_labels()
        classes, counts = np.unique(found, return_counts=True)
        weights = found.size / (classes.size * counts)
        return dict(zip(classes.tolist(), weights.tolist()))

    def sample_images(self, count: int) -> np.ndarray:
        """The first training images, preprocessed without randomness."""
        images = self.train.take(count).batch(1)
        images = images.map(lambda image, _: self.preprocess(image, None))
        return np.concatenate(list(images.as_numpy_iterator()))


def load(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    preprocessing: str | None = None,
    splits: str | None = None,
) -> Data:
    """A data set by name, downloaded and prepared if it was not yet.

    Args:
        name: One of `DATASETS`; any image classification of TFDS, also with
            configuration and version (`imagenette/160px-v2:1.0.0`); the folder of a
            prepared data set; or `folder:/path` with one subfolder of images for each
            class, in `train` and `val` (or `validation`, `test`), or in `train` or the
            folder itself, of which a tenth then validates.
        data_dir: Where TFDS keeps data sets. Default: `~/tensorflow_datasets`.
        image_size: Height and width of what the network gets. Default: what the papers
            train at; else that of the images if all are equal, else 224.
        seed: For the split of a folder that is not split yet.
        limit: Take only so many images of each split.
        preprocessing: A name in `PREPROCESSINGS`. Default: the data set's; else `cifar`
            or (for gray images) `shift` if all images are of an equal size, else
            `imagenet`.
        splits: What to train on and what to validate on, in the language of TFDS,
            such as `train[:90%],train[90%:]`. Default: the training split, and the
            validation split or (without one) the test split.

    Raises:
        DatasetError: It cannot be had, or is no image classification.
    """
    if splits is not None and (splits.count(",") != 1 or name.startswith("folder:")):
        raise DatasetError(
            f"splits {splits!r} must be two splits of a TFDS data set with a comma "
            "between, as in train[:90%],train[90%:]"
        )
    if preprocessing is not None and preprocessing not in PREPROCESSINGS:
        raise DatasetError(
            f"unknown preprocessing {preprocessing!r}; known are "
            f"{', '.join(sorted(PREPROCESSINGS))}"
        )
    row = DATASETS.get(re.split("[/:]", name)[0])
    if name.startswith("folder:"):
        folder = Path(name.removeprefix("folder:")).expanduser()
        train, validation, class_names = read_folder(folder, seed, limit)
        shape = (None, None, 3)
    else:
        builder = prepared_builder(
            row.tfds_name if name in DATASETS else name, data_dir
        )
        image, label = features(builder)
        first, second = splits.split(",") if splits else split_names(builder, row)
        train = read_split(builder, first, limit)
        validation = read_split(builder, second, limit)
        shape, class_names = image.shape, label.names
    fixed = shape[0] is not None and shape[0] == shape[1]
    if preprocessing is None:
        usual = ("shift" if shape[-1] == 1 else "cifar") if fixed else "imagenet"
        preprocessing = row.preprocessing if row else usual
    if image_size is None:
        image_size = row.image_size if row else shape[0] if fixed else 224
    return Data(
        train,
        validation,
        (image_size, image_size, shape[-1]),
        class_names,
        preprocessing,
    )


def features(
    builder: tfds.core.DatasetBuilder,
) -> tuple[tfds.features.Image, tfds.features.ClassLabel]:
    """The image and the class of a data set for classification."""
    known = builder.info.features
    image, label = (known[k] if k in known else None for k in ("image", "label"))
    if isinstance(image, tfds.features.Image):
        if isinstance(label, tfds.features.ClassLabel):
            return image, label
    raise DatasetError(f"{builder.name} is no image classification")


def split_names(
    builder: tfds.core.DatasetBuilder, row: Dataset | None
) -> tuple[str, str]:
    """What to train on and what to validate on, in the language of TFDS."""
    if row:
        return row.train, row.validation
    for name in ("validation", "test"):
        if name in builder.info.splits:
            return "train", name
    return "train[10%:]", "train[:10%]"  # TFDS has shuffled them when preparing


def label_of(example: dict[str, Any]) -> tf.Tensor:
    """The class of an example for classification."""
    return example["label"]


def read_split(
    builder: tfds.core.DatasetBuilder,
    name: str,
    limit: int | None,
    wanted: Any = None,
    target: Callable[[dict[str, Any]], tf.Tensor] = label_of,
) -> Split:
    """A split of a TFDS data set, cached if it is small.

    Args:
        builder: Of the data set, prepared.
        name: Of the split, in the language of TFDS.
        limit: Take only so many images.
        wanted: The features beside the image that `target` needs, as
            `tfds.decode.PartialDecoding` takes them. Default: the class.
        target: What makes the label of an example's features.
    """
    encoded = {"image": tfds.decode.SkipDecoding()}
    wanted = {"image": True, **(wanted or {"label": True})}

    def read(decoders: dict | None = None, **files: Any) -> tf.data.Dataset:
        some = tfds.decode.PartialDecoding(wanted, decoders)
        examples = builder.as_dataset(split=name, decoders=some, **files)
        return examples.map(lambda example: (example["image"], target(example)))

    try:
        size = int(read().cardinality())
    except ValueError as error:  # an unknown split
        raise DatasetError(f"{builder.name} has no split {name!r}: {error}") from error
    if limit is not None:
        size = min(size, limit)
    image = builder.info.features["image"]
    if None not in image.shape and size * math.prod(image.shape) <= CACHED_BYTES:
        return Split(size, read().take(size).cache())
    stored = read(encoded).take(size)
    whole = builder.info.splits.get(name.partition("[")[0])
    image_bytes = whole.num_bytes / whole.num_examples if whole else 0
    if size * image_bytes <= CACHED_BYTES:
        return Split(size, stored.cache(), image.decode_example)

    def reread(seed: tf.Tensor) -> tf.data.Dataset:
        order = tfds.ReadConfig(
            shuffle_seed=seed, shuffle_reshuffle_each_iteration=False
        )
        # a limit means the same images in every epoch
        return read(encoded, shuffle_files=limit is None, read_config=order).take(size)

    return Split(size, stored, image.decode_example, reread)


def read_folder(
    root: Path, seed: int, limit: int | None
) -> tuple[Split, Split, list[str]]:
    """The splits of a folder of images, and the names of its classes.

    Without a folder for validation, a tenth of the images validates.

    Raises:
        DatasetError: if it is none, or training and validation do not fit together.
    """
    training = root / "train" if images_by_class(root / "train") else root
    classes = images_by_class(training)
    if len(classes) < 2:
        raise DatasetError(
            f"{training} has images of {len(classes)} classes ({', '.join(classes)}). "
            "There must be a subfolder of images (PNG, JPEG, BMP, GIF) for each of two "
            "classes at least, in train and val, or in one folder that is split."
        )
    names = list(classes)
    parts = [labeled(classes, names, seed)]
    for folder in (root / name for name in VALIDATION_FOLDERS):
        if held_out := images_by_class(folder):
            if training == root:
                raise DatasetError(
                    f"{folder} has classes, but there is no train beside"
                )
            if unknown := sorted(set(held_out) - set(names)):
                raise DatasetError(
                    f"{folder} has classes that {training} lacks: {', '.join(unknown)}"
                )
            parts.append(labeled(held_out, names, seed))
            break
    else:
        tenth = max(1, len(parts[0]) // 10)
        parts = [parts[0][tenth:], parts[0][:tenth]]
    splits = []
    for examples in parts:
        paths, labels = zip(*examples[:limit])
        for path in paths:
            if path.lower().endswith(".bmp"):
                with open(path, "rb") as file:
                    if has_palette(file.read(2048)):
                        raise DatasetError(
                            f"{path} is a BMP with a colour palette; save it as PNG"
                        )
        stored = tf.data.Dataset.from_tensor_slices(
            (list(paths), np.array(labels, "int64"))
        )
        splits.append(Split(len(paths), stored, read_image))
    return splits[0], splits[1], names


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The images in each subfolder; not what is hidden, and no empty subfolder."""
    found = {}
    for subfolder in sorted(folder.glob("*/")):
        images = [
            path
            for path in sorted(subfolder.rglob("*"))
            if path.suffix.lower() in SUFFIXES
            and not any(p.startswith(".") for p in path.relative_to(folder).parts)
        ]
        if images:
            found[subfolder.name] = images
    return found


def labeled(
    classes: dict[str, list[Path]], names: list[str], seed: int
) -> list[tuple[str, int]]:
    """The images with their labels, in an order drawn from a seed."""
    examples = [
        (str(path), names.index(name))
        for name, paths in classes.items()
        for path in paths
    ]
    np.random.default_rng(seed).shuffle(examples)
    return examples


def read_image(path: tf.Tensor) -> tf.Tensor:
    """The uint8 colour image in a file."""
    content = tf.io.read_file(path)
    image = tf.cond(
        tf.strings.substr(content, 0, 2) == b"BM",
        lambda: tf.io.decode_bmp(content),  # `decode_image` converts no channels of it
        lambda: tf.io.decode_image(content, 3, expand_animations=False),
    )
    channels = tf.minimum(tf.range(3), tf.shape(image)[-1] - 1)
    return tf.ensure_shape(tf.gather(image, channels, axis=-1), (None, None, 3))


@contextlib.contextmanager
def naming_unreadable_images(data: Data) -> Iterator[None]:
    """For what reads the images: says which ones TensorFlow cannot read.

    Raises:
        DatasetError: instead of an error of TensorFlow, if it is for that.
    """
    try:
        yield
    except tf.errors.OpError as error:
        unreadable = []
        for split in (data.training_split, data.validation_split):
            if split.decode is read_image:
                for path, _ in split.stored:
                    try:
                        read_image(path)
                    except (tf.errors.OpError, ValueError):
                        unreadable.append(path.numpy().decode())
        if not unreadable:
            raise
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise DatasetError(
            f"TensorFlow cannot read {', '.join(unreadable[:5])}{more} as PNG, JPEG, "
            "GIF or BMP"
        ) from error
