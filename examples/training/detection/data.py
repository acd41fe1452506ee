"""Data sets with boxes, by name, as batches for `fit` and as truth for evaluation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from training.datasets.loading import Data, Split, read_split, split_names
from training.datasets.preparing import DatasetError, prepared_builder
from training.datasets.voc_folder import voc_folder
from training.detection import augmentation
from training.detection.boxes import match

# GAF, section IV-C and Table IV; Liu et al. 2016, section 3.1: (TFDS' name, split)
DATASETS = {
    "voc": (
        [("voc/2007", "train+validation"), ("voc/2012", "train+validation")],
        [("voc/2007", "test")],
    ),
}


@dataclasses.dataclass(frozen=True)
class DetectionData(Data):
    """Images with boxes.

    The label of an image as read is a row for each object, `(objects, 6)`: the box in
    shares of the image, the class from 1, and whether it is difficult.

    Args:
        defaults: The default boxes `(boxes, 4)` of the network.
    """

    defaults: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))

    draws = augmentation.DRAWS

    def prepare(
        self, images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A batch of one image, and what each default box is to predict.

        Targets are `(1, boxes, 5)`: offsets and class, 0 for the background.
        """
        size, objects = self.image_shape[0], labels[0]
        if draws is None:
            image = self.preprocess(images, None)[0]
        else:
            image = tf.cast(images[0], tf.float32)
            image, objects = augmentation.augment(image, objects, draws[0], size)
        offsets, classes = match(
            objects[:, :4], tf.cast(objects[:, 4], tf.int32), self.defaults
        )
        targets = tf.concat([offsets, tf.cast(classes, tf.float32)[:, None]], axis=1)
        image = tf.ensure_shape(image, self.image_shape)
        return image[None], tf.ensure_shape(targets, (len(self.defaults), 5))[None]

    def truth(self) -> list[np.ndarray]:
        """The objects of each validation image as read."""
        objects = self.validation_split.stored.map(lambda _, objects: objects)
        return list(objects.as_numpy_iterator())


def load(
    name: str,
    defaults: np.ndarray,
    *,
    data_dir: str | None = None,
    image_size: int = 300,
    limit: int | None = None,
    splits: str | None = None,
    repair: bool = False,
) -> DetectionData:
    """A data set with boxes by name, downloaded and prepared if it was not yet.

    Args:
        name: "voc", the 2007 and 2012 sets of PASCAL VOC to train on and the test set
            of 2007; any object detection of TFDS, also with configuration and version;
            the folder of a prepared data set; or `folder:/path` in the form of PASCAL
            VOC.
        defaults: The default boxes of the network.
        data_dir: Where TFDS keeps data sets. Default: `~/tensorflow_datasets`.
        image_size: Height and width of what the network gets.
        limit: Take only so many images of each split.
        splits: What to train on and what to validate on, in the language of TFDS.
        repair: Whether faulty boxes of a folder are mended (see `voc_folder`).

    Raises:
        DatasetError: It cannot be had, or is no object detection.
    """
    if splits is not None and (splits.count(",") != 1 or name in DATASETS):
        raise DatasetError(
            f"splits {splits!r} must be two splits of a TFDS data set with a comma "
            "between, as in train[:90%],train[90%:]"
        )
    if name in DATASETS:
        parts = [
            [(prepared_builder(data_set, data_dir), split) for data_set, split in part]
            for part in DATASETS[name]
        ]
    else:
        if name.startswith("folder:"):
            path = Path(name.removeprefix("folder:")).expanduser()
            builder = voc_folder(path, data_dir, repair)
        else:
            builder = prepared_builder(name, data_dir)
        chosen = splits.split(",") if splits else split_names(builder, None)
        parts = [[(builder, split)] for split in chosen]
    first = parts[0][0][0]
    class_names = features(first)["label"].names
    training, validation = (
        joined([read_boxes(builder, split, limit) for builder, split in part], limit)
        for part in parts
    )
    return DetectionData(
        training,
        validation,
        (image_size, image_size, 3),
        class_names,
        "resize",
        defaults=defaults,
    )


def features(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """The features of each object in a data set with boxes."""
    known = builder.info.features
    objects = known["objects"] if "objects" in known else None
    if isinstance(objects, tfds.features.Sequence):
        inner = objects.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            if {"bbox", "label"} <= set(inner) and isinstance(
                inner["label"], tfds.features.ClassLabel
            ):
                return inner
    raise DatasetError(f"{builder.name} is no object detection")


def read_boxes(
    builder: tfds.core.DatasetBuilder, split: str, limit: int | None
) -> Split:
    """A split of a TFDS data set, with a row for each object."""
    flags = [f for f in ("is_difficult", "is_crowd") if f in features(builder)]

    def rows(example: dict[str, Any]) -> tf.Tensor:
        objects = example["objects"]
        classes = tf.cast(objects["label"] + 1, tf.float32)
        apart = tf.zeros_like(classes)
        for flag in flags:
            apart = tf.maximum(apart, tf.cast(objects[flag], tf.float32))
        return tf.concat([objects["bbox"], tf.stack([classes, apart], axis=1)], axis=1)

    wanted = {"objects": dict.fromkeys(["bbox", "label", *flags], True)}
    found = read_split(builder, split, limit, wanted, rows)
    # boxes are not as many in each image: images are prepared one by one
    return dataclasses.replace(found, decode=found.decode or (lambda image: image))


def joined(splits: Sequence[Split], limit: int | None) -> Split:
    """One split after another, as one."""
    if len(splits) == 1:
        return splits[0]
    size = sum(split.size for split in splits)
    size = size if limit is None else min(size, limit)

    def reread(seed: tf.Tensor) -> tf.data.Dataset:
        found = [s.reread(seed) if s.reread else s.stored for s in splits]
        return concatenated(found).take(size)

    stored = concatenated([split.stored for split in splits]).take(size)
    large = any(split.reread for split in splits)
    return Split(size, stored, splits[0].decode, reread if large else None)


def concatenated(parts: Sequence[tf.data.Dataset]) -> tf.data.Dataset:
    """All examples of one data set, then those of the next."""
    whole, *others = parts
    for part in others:
        whole = whole.concatenate(part)
    return whole
