"""What `papers.py` trains: a paper's network on its data, as a task of a comparison.

Images are kept in memory as they are stored. Order and augmentation of an epoch come
from NumPy's generator, which the comparison sets before every epoch: alike for all
optimizers of a seed, and after a kill.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from papers_tables import Method
from training.datasets import Data, load, validation_batches
from training.datasets.loading import Split
from training.datasets.preprocessing import DRAWS
from training.models import create_model
from training.optimizer_flags import make_optimizer

from keras_gradopt import comparison

WATCHED = 500  # training images whose loss is kept for each epoch; nothing is chosen


class Images(keras.utils.PyDataset):
    """Batches of training images: every image once, the last batch filled up.

    Args:
        data: images and what is done to them.
        batch_size: images in a batch.
    """

    def __init__(self, data: Data, batch_size: int) -> None:
        super().__init__()
        self.data, self.size = data, batch_size
        stored = list(data.train.batch(1000).as_numpy_iterator())
        self.images, self.labels = (np.concatenate(part) for part in zip(*stored))
        self.on_epoch_begin()

    def on_epoch_begin(self) -> None:
        """Draws the order and the augmentation of an epoch."""
        count = self.num_batches * self.size
        order = np.random.permutation(len(self.images))
        self.order = np.resize(order, count)
        self.draws = np.random.uniform(size=(count, DRAWS)).astype("float32")

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.images) // self.size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch: float32 images of 0 to 255, and labels."""
        part = slice(index * self.size, (index + 1) * self.size)
        chosen = self.order[part]
        with tf.device("CPU"):
            images = self.data.preprocess(self.images[chosen], self.draws[part])
        return images.numpy(), self.labels[chosen]


@dataclass(frozen=True)
class Setting:
    """A network on a data set.

    Attributes:
        dataset: a name of `training.datasets`.
        network: a name of `training.models`.
        batch_size: images in a batch.
        l2: weight decay.
        image_size: side of the images; `None`: the data set's.
        data_dir: where TFDS keeps data sets.
        limit: take only so many images of each split.
    """

    dataset: str
    network: str
    batch_size: int
    l2: float = 0.0
    image_size: int | None = None
    data_dir: str | None = None
    limit: int | None = None

    @property
    def data(self) -> Data:
        """The data set, opened once in a process."""
        return opened(self.dataset, self.data_dir, self.image_size, self.limit)

    def parts(self) -> tuple[Any, Any, Any]:
        """Training images; some of them again, as they are; and the test images."""
        data = self.data
        images = Images(data, min(self.batch_size, data.train_size))
        few = data.training_split
        few = Split(min(WATCHED, few.size), few.stored.take(WATCHED), few.decode)
        watched = dataclasses.replace(data, validation_split=few)
        return images, *(validation_batches(part, 100) for part in (watched, data))

    def model(self) -> keras.Model:
        """A new network."""
        return create_model(
            self.network,
            self.data.image_shape,
            len(self.data.class_names),
            l2=self.l2,
            adapt_to=sample(self.dataset, self.data_dir, self.image_size, self.limit),
        )


@functools.lru_cache(2)
def opened(
    dataset: str, data_dir: str | None, image_size: int | None, limit: int | None
) -> Data:
    """A data set of square images of one size."""
    return load(dataset, data_dir=data_dir, image_size=image_size, limit=limit)


@functools.lru_cache(2)
def sample(
    dataset: str, data_dir: str | None, image_size: int | None, limit: int | None
) -> np.ndarray:
    """Images whose mean and variance normalize the input."""
    return opened(dataset, data_dir, image_size, limit).sample_images(1000)


class Steps:
    """A schedule: divided by ten after each of these shares of the epochs."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.shares = shares
        after = ", ".join(f"{share:g}" for share in shares)
        self.__name__ = f"divided by 10 after {after} of the epochs"

    def __call__(self, progress: float) -> float:
        """The factor of the rate at a progress from 0 to 1."""
        return 10.0 ** -sum(progress >= share - 1e-9 for share in self.shares)


def schedule(text: str, epochs: int) -> Any:
    """A task's schedule from that of a table, whose length is so many epochs.

    Raises:
        ValueError: for a schedule that no runnable table has.
    """
    kind, _, marks = text.partition(":")
    if kind == "step":
        return Steps(tuple(float(mark) / epochs for mark in marks.split(",")))
    if text in ("cosine", "constant"):
        return text
    raise ValueError(f"unknown schedule {text!r}")


class Maker:
    """Makes an optimizer with a paper's settings, of any learning rate."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def __call__(self, rate: float) -> keras.optimizers.Optimizer:
        """A new optimizer."""
        return make_optimizer(self.method.optimizer, rate, self.method.settings, [])


def arm(method: Method) -> comparison.Arm:
    """The optimizer with a paper's settings, at the paper's rate."""
    return comparison.Arm(Maker(method), rate=method.rate)


def task(name: str, setting: Setting, epochs: int, rate: Any) -> comparison.Task:
    """The task of a network on a data set, for so many epochs."""
    return comparison.Task(
        name,
        model=setting.model,
        data=setting.parts,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        epochs=epochs,
        schedule=rate,
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
