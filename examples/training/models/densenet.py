"""Densely connected networks (Huang et al. 2017)."""

from typing import Any

import keras
from keras import layers

from training.models.blocks import activate, classifier, convolution, image_input, stem


def dense_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    blocks: tuple[int, ...],
    growth: int,
) -> keras.Model:
    """A DenseNet-BC: bottlenecks, and transitions that halve the channels.

    Huang et al. 2017, section 3 and Table 1. The first convolution has twice `growth`
    channels, the bottlenecks four times.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        blocks: number of layers in each dense block.
        growth: channels that a layer adds, k in the paper.

    Returns:
        A model from images to class probabilities.
    """

    def convolve(x, channels, size, strides=1):
        return convolution(channels, size, strides, l2=l2)(x)

    def layer(x):
        new = convolve(activate(x), 4 * growth, 1)
        new = convolve(activate(new), growth, 3)
        return layers.Concatenate()([x, new])

    def transition(x):
        x = convolve(activate(x), x.shape[-1] // 2, 1)
        # "same": an odd size, or a single pixel, does not lose its last row
        return layers.AveragePooling2D(2, padding="same")(x)

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, 2 * growth, convolve, pre_activation=True)
    for index, count in enumerate(blocks):
        if index:
            x = transition(x)
        for _ in range(count):
            x = layer(x)
    x = layers.GlobalAveragePooling2D()(activate(x))
    return classifier(images, x, classes, l2, name)
