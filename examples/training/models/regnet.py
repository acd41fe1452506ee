"""RegNetX (Radosavovic et al. 2020, "Designing Network Design Spaces")."""

from typing import Any

import keras
from keras import layers

from training.models.blocks import (
    classifier,
    convolution,
    image_input,
    residual_block,
    stem,
)


def regnet(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    stages: tuple[tuple[int, int, int], ...],
    group_width: int,
    stem_width: int = 64,
) -> keras.Model:
    """Residual bottlenecks as wide inside as outside, with grouped 3x3 convolutions.

    Radosavovic et al. 2020, section 5 and Fig. 21. At CIFAR's size the first
    convolution has 64 channels (32 in the paper) and the first two stages keep the
    size, as in kuangliu/pytorch-cifar, whose networks have the names that GAF uses.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        stages: for each the number of blocks, their channels, and by what the first
            divides the size.
        group_width: channels of a group.
        stem_width: channels of the first convolution.

    Returns:
        A model from images to class probabilities.
    """

    def convolve(x, channels, size, strides=1):
        return convolution(channels, size, strides, l2=l2)(x)

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, stem_width, convolve)
    for count, width, strides in stages:
        grouped = (width, 3, strides, width // group_width)
        for _ in range(count):
            x = residual_block(x, [(width, 1), grouped, (width, 1)], l2=l2)
            grouped = (width, 3, 1, width // group_width)
    x = layers.GlobalAveragePooling2D()(x)
    return classifier(images, x, classes, l2, name)
