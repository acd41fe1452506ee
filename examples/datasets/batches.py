"""Batches for training and validation.

The order and the augmentation of an epoch are a function of `(seed, epoch)` alone: a
run that is resumed at an epoch sees what the uninterrupted one saw, bit for bit, and
several processes together see what one sees.
"""

import os
from collections.abc import Callable

import tensorflow as tf

from datasets.loading import Data
from datasets.preparing import DatasetError
from datasets.preprocessing import keys


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
) -> tuple[tf.data.Dataset, int]:
    """One dataset that runs through all epochs from `first_epoch` on.

    Args:
        data: What `load` returned.
        batch_size: Of all processes together.
        seed: For order and augmentation.
        augment: Whether images are changed at random.
        first_epoch: The epoch to begin with; 0 is the first.
        epochs: How many there are from there on.
        steps_per_epoch: Batches of an epoch. Default: as many as are full.
        shard: Number of this process, and how many there are. Process i has the images
            i, i + count, ... of each batch.

    Returns:
        `(float32 images of 0 to 255, int64 labels)` in batches, and the number of
        batches of an epoch.
    """
    steps = steps_per_epoch or data.train_size // batch_size
    if steps == 0:
        raise DatasetError(
            f"A batch of {batch_size} is more than the {data.train_size} images"
        )
    split = data.training_split
    index, count = shard

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # inside of this graph: TensorFlow mixes it into seeds
        key = tf.random.experimental.stateless_fold_in([seed, 0], epoch)
        order_key, image_key = keys(key, 2)
        order = tf.random.stateless_uniform([], order_key, None, None, tf.int64)
        examples = split.shuffled(order).take(steps * batch_size).enumerate()

        def with_key(position, example):
            key = tf.random.experimental.stateless_fold_in(image_key, position)
            return (*example, key)

        return examples.shard(count, index).map(with_key)

    def prepare(encoded, label, key):
        image = split.decode(encoded)
        image = data.augmented(image, key) if augment else data.evaluated(image)
        return image, label

    examples = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
    batches = in_batches(examples.flat_map(one_epoch), prepare, batch_size, count, True)
    return batches.apply(tf.data.experimental.assert_cardinality(steps * epochs)), steps


def validation_batches(
    data: Data, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Batches of the validation images in a fixed order; the last may be smaller."""
    split = data.validation_split
    index, count = shard

    def prepare(encoded, label):
        return data.evaluated(split.decode(encoded)), label

    return in_batches(split.stored.shard(count, index), prepare, batch_size, count)


def in_batches(
    examples: tf.data.Dataset,
    prepare: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    batch_size: int,
    processes: int,
    full: bool = False,
) -> tf.data.Dataset:
    """Prepares examples in parallel, in the order that they have, and batches them."""
    if batch_size % processes:
        raise DatasetError(f"{processes} processes cannot share batches of {batch_size}")
    options = tf.data.Options()
    options.autotune.enabled = False  # tearing its threads down stalls for seconds
    if processes > 1:
        off = tf.data.experimental.AutoShardPolicy.OFF  # it is sharded already
        options.experimental_distribute.auto_shard_policy = off
    return (
        examples.map(prepare, os.cpu_count(), deterministic=True)
        .batch(batch_size // processes, drop_remainder=full)
        .prefetch(2)
        .with_options(options)
    )
