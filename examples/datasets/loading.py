"""Data sets by name, ready to be read."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from datasets.catalogue import DATASETS, Dataset
from datasets.preparing import DatasetError, prepared_builder
from datasets.preprocessing import PREPROCESSINGS

CACHED_BYTES = 2**31  # a split that takes more memory is read anew in every epoch
SHUFFLED_IMAGES = 16_384  # of such a split
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}


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

    def class_weights(self) -> dict[int, float]:
        """For each class of the training images, what balances their number.

        The weights of all images have mean 1 and the same sum in every class: in
        expectation the loss of a sampler that draws all classes equally often.
        """
        labels = self.training_split.stored.map(lambda _, label: label).batch(1024)
        found = np.concatenate(list(labels.as_numpy_iterator()))
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
            class, in `train` and `val` (or `validation`, `test`), or in one that is
            split.
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


def read_split(
    builder: tfds.core.DatasetBuilder, name: str, limit: int | None
) -> Split:
    """A split of a TFDS data set, cached if it is small."""
    encoded = {"image": tfds.decode.SkipDecoding()}

    def read(decoders: dict | None = None, **files: Any) -> tf.data.Dataset:
        wanted = tfds.decode.PartialDecoding({"image": True, "label": True}, decoders)
        examples = builder.as_dataset(split=name, decoders=wanted, **files)
        return examples.map(lambda example: (example["image"], example["label"]))

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

    Without subfolders for training and validation, a tenth of the images validates.
    """
    validation = next(
        (root / n for n in ("val", "validation", "test") if (root / n).is_dir()), None
    )
    if validation and (root / "train").is_dir():
        folders = [root / "train", validation]
    else:
        folders = [root]
    class_names = sorted(p.name for p in folders[0].glob("*/") if p.is_dir())
    parts = []
    for folder in folders:
        examples = [
            (str(path), label)
            for label, name in enumerate(class_names)
            for path in sorted(folder.joinpath(name).rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        np.random.default_rng(seed).shuffle(examples)
        parts.append(examples)
    if len(parts) == 1:
        tenth = max(1, len(parts[0]) // 10)
        parts = [parts[0][tenth:], parts[0][:tenth]]
    if not all(parts):
        raise DatasetError(
            f"{root} has no images to train on or none to validate on. It needs a "
            "subfolder of images (PNG, JPEG, BMP, GIF) for each class, in train and "
            "val, or in itself to be split."
        )
    splits = []
    for examples in parts:
        paths, labels = zip(*examples[:limit])
        stored = tf.data.Dataset.from_tensor_slices(
            (list(paths), np.array(labels, "int64"))
        )
        splits.append(Split(len(paths), stored, read_image))
    return splits[0], splits[1], class_names


def read_image(path: tf.Tensor) -> tf.Tensor:
    """The uint8 colour image in a file."""
    image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))
