"""Batches for training and validation.

The order and the augmentation of an epoch are a function of `(seed, epoch)` alone: a
run that is resumed at an epoch sees what the uninterrupted one saw, bit for bit, and
several processes together see what one sees.
"""

import math
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from training.datasets.loading import Data, Split
from training.datasets.preparing import DatasetError


def training_batches(
    data: Data,
    batch_size: int,
    *,
    seed: int,
    augment: bool = True,
    first_epoch: int = 0,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    shard: tuple[int, int] = (0, 1),
    balanced: bool = False,
) -> tuple[tf.data.Dataset, int]:
    """One dataset that runs through all epochs from `first_epoch` on.

    Args:
        data: What `load` returned.
        batch_size: Of all processes together.
        seed: For order and augmentation.
        augment: Whether images are changed at random.
        first_epoch: The epoch to begin with; 0 is the first.
        epochs: How many there are from there on.
        steps_per_epoch: Batches of an epoch. Default: as many as it takes to see every
            image; the last is filled up with images that are seen twice.
        shard: Number of this process, and how many there are. Process i has the images
            i, i + count, ... of each batch.
        balanced: Whether images are drawn with replacement, those of all classes
            equally often (PyTorch's `WeightedRandomSampler`; WGD, section 4.1),
            instead of each once in an epoch.

    Returns:
        `(float32 images of 0 to 255, int64 labels)` in batches, and the number of
        batches of an epoch.
    """
    steps = steps_per_epoch or math.ceil(data.train_size / batch_size)
    if batch_size > data.train_size:
        raise DatasetError(
            f"--batch-size {batch_size} is more than the {data.train_size} images to "
            "train on"
        )
    split = data.training_split
    index, count = shard
    if balanced:
        weights = np.vectorize(data.class_weights().get)(data.training_labels())

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # inside of this graph: TensorFlow mixes it into seeds
        order, noise = tf.unstack(
            tf.random.stateless_uniform([2], [seed, epoch], None, None, tf.int64)
        )
        if balanced:
            examples = split.sampled(order, steps * batch_size, weights)
        else:
            examples = split.shuffled(order).take(steps * batch_size)
        return (
            examples.enumerate()
            .map(lambda position, example: (*example, position, noise))
            .shard(count, index)
        )

    def draw(positions: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Random numbers for images of one batch, whichever process has them."""
        key = tf.stack([noise[0], positions[0] // batch_size])
        draws = tf.random.stateless_uniform([batch_size, data.draws], key)
        return tf.gather(draws, positions % batch_size)

    def prepare(images, labels, positions, noise):
        draws = draw(positions, noise) if augment else None
        return data.prepare(images, labels, draws)

    examples = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
    examples = examples.flat_map(one_epoch)
    batches = in_batches(examples, split, prepare, batch_size, count)
    return batches.apply(tf.data.experimental.assert_cardinality(steps * epochs)), steps


def validation_batches(
    data: Data, batch_size: int, shard: tuple[int, int] = (0, 1), multiple_of: int = 1
) -> tf.data.Dataset:
    """Batches of the validation images in a fixed order; the last may be smaller.

    Args:
        data: What `load` returned.
        batch_size: Of all processes together.
        shard: Number of this process, and how many there are.
        multiple_of: Leaves out the last images over a multiple of this number, for
            devices that must share every batch evenly.
    """
    split = data.validation_split
    index, count = shard
    if split.size < multiple_of:
        raise DatasetError(
            f"{split.size} validation images are less than one for each of "
            f"{multiple_of} devices"
        )
    images = split.stored.take(split.size - split.size % multiple_of)

    def prepare(images, labels):
        return data.prepare(images, labels, None)

    return in_batches(images.shard(count, index), split, prepare, batch_size, count)


def in_batches(
    examples: tf.data.Dataset,
    split: Split,
    prepare: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    batch_size: int,
    processes: int,
) -> tf.data.Dataset:
    """The part that one process has of each batch, prepared in parallel.

    Images of one shape are prepared a batch at a time, others one by one.
    """
    if batch_size % processes:
        raise DatasetError(f"A batch of {batch_size} cannot be shared by {processes}")
    size = batch_size // processes

    def prepare_one(image, *others):
        prepared = prepare(split.decode(image)[None], *(x[None] for x in others))
        return tuple(x[0] for x in prepared)

    if split.decode is None:
        batches = examples.batch(size).map(prepare, os.cpu_count(), deterministic=True)
    else:
        images = examples.map(prepare_one, os.cpu_count(), deterministic=True)
        batches = images.batch(size)
    options = tf.data.Options()
    options.autotune.enabled = False  # tearing its threads down stalls for seconds
    if processes > 1:
        off = tf.data.experimental.AutoShardPolicy.OFF  # it is sharded already
        options.experimental_distribute.auto_shard_policy = off
    return batches.prefetch(2).with_options(options)
