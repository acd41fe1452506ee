"""Dual path networks (Chen et al. 2017)."""

from typing import Any

import keras
from keras import layers, ops

from training.models.blocks import (
    activate,
    batch_norm,
    classifier,
    convolution,
    image_input,
    stem,
)


def dual_path_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    stages: tuple[tuple[int, int, int, int], ...],
    groups: int = 32,
    stem_width: int = 64,
) -> keras.Model:
    """Bottlenecks whose output is in part added and in part appended to their input.

    Chen et al. 2017, Fig. 2d and Table 1, with normalization and ReLU after each
    convolution, as in kuangliu/pytorch-cifar, whose networks have the names that GAF
    uses; in Chen et al.'s they come before.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        stages: for each the number of blocks, the channels inside a block, those that
            are added, and those that a block appends. All stages but the first halve
            the size.
        groups: of the 3x3 convolutions.
        stem_width: channels of the first convolution.

    Returns:
        A model from images to class probabilities.
    """

    def convolve(x, channels, size, strides=1, groups=1):
        return convolution(channels, size, strides, groups, l2=l2)(x)

    def block(x, inner, added, appended, strides, project):
        new = activate(convolve(x, inner, 1))
        new = activate(convolve(new, inner, 3, strides, groups))
        new = batch_norm(convolve(new, added + appended, 1))
        if project:
            x = batch_norm(convolve(x, added + appended, 1, strides))
        (old_sum, old_rest), (new_sum, new_rest) = (
            ops.split(path, [added], axis=-1) for path in (x, new)
        )
        x = layers.Add()([old_sum, new_sum])
        return layers.ReLU()(layers.Concatenate()([x, old_rest, new_rest]))

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, stem_width, convolve)
    for stage, (count, inner, added, appended) in enumerate(stages):
        for index in range(count):
            strides = 2 if stage and not index else 1
            x = block(x, inner, added, appended, strides, project=not index)
    x = layers.GlobalAveragePooling2D()(x)
    return classifier(images, x, classes, l2, name)
