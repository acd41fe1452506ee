"""GoogLeNet (Szegedy et al. 2015), with batch normalization."""

from typing import Any

import keras
from keras import layers

from training.models.blocks import (
    activate,
    classifier,
    convolution,
    image_input,
    stem,
)

GOOGLENET = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Szegedy et al. 2015, Table 1: the modules 3a-3b, 4a-4e, 5a-5b."""


def inception_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    stages: tuple[tuple[tuple[int, ...], ...], ...] = GOOGLENET,
    stem_width: int = 192,
) -> keras.Model:
    """Inception modules, with a max pooling between stages.

    As in kuangliu/pytorch-cifar, whose networks have the names that GAF uses:
    convolutions keep a bias and are followed by batch normalization, two 3x3
    convolutions are in the place of one 5x5, and there are neither auxiliary
    classifiers nor dropout. There and here images of CIFAR's size get one 3x3
    convolution before the modules.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        stages: for each module of each stage the channels of the 1x1 convolution, those
            before and in the 3x3 one, before and in the 5x5 one, and after the pooling.
        stem_width: channels of the first convolution.

    Returns:
        A model from images to class probabilities.
    """

    def convolve(x, channels, size, strides=1):
        return convolution(channels, size, strides, l2=l2, use_bias=True)(x)

    def branch(x, *convolutions):
        for channels, size in convolutions:
            x = activate(convolve(x, channels, size))
        return x

    def module(x, one, before_three, three, before_five, five, pooled):
        pool = layers.MaxPooling2D(3, 1, padding="same")(x)
        branches = [
            branch(x, (one, 1)),
            branch(x, (before_three, 1), (three, 3)),
            branch(x, (before_five, 1), (five, 3), (five, 3)),
            branch(pool, (pooled, 1)),
        ]
        return layers.Concatenate()(branches)

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, stem_width, convolve)
    for index, modules in enumerate(stages):
        if index:
            x = layers.MaxPooling2D(3, 2, padding="same")(x)
        for channels in modules:
            x = module(x, *channels)
    x = layers.GlobalAveragePooling2D()(x)
    return classifier(images, x, classes, l2, name)
