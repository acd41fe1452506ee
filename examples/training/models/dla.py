"""Networks of aggregated layers (Yu et al. 2018, "Deep Layer Aggregation")."""

from typing import Any

import keras
from keras import layers

from training.models.blocks import (
    activate,
    classifier,
    convolution,
    image_input,
    residual_block,
    stem,
)


def aggregated_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    widths: tuple[int, ...],
    trees: tuple[tuple[int, int], ...],
) -> keras.Model:
    """Convolutions, then trees of residual blocks, as AngularGrad trained them.

    A tree is made of two blocks and a root, a 1x1 convolution of all that the tree has
    collected. One of two levels has a tree of one level before its two blocks, whose
    result the root gets too. As in the code released with AngularGrad, the root of a
    tree of two levels also gets a block of the tree's own input, where Yu et al. 2018,
    section 4.2, only reduce that input's size.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        widths: channels of the convolutions before the trees.
        trees: channels and levels (1 or 2) of each. All but the first halve the size.

    Returns:
        A model from images to class probabilities.
    """

    def block(x, channels, strides=1):
        return residual_block(x, [(channels, 3, strides), (channels, 3)], l2=l2)

    def root(inputs, channels):
        x = layers.Concatenate()(inputs)
        return activate(convolution(channels, 1, l2=l2)(x))

    def tree(x, channels, levels, strides):
        collected = []
        if levels == 1:
            first = block(x, channels, strides)
        else:
            collected = [block(x, channels, strides), tree(x, channels, 1, strides)]
            first = block(collected[-1], channels)
        return root([*collected, first, block(first, channels)], channels)

    def convolve(x, channels, size, strides=1):
        return convolution(channels, size, strides, l2=l2)(x)

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, widths[0], convolve)
    for channels in widths[1:]:
        x = activate(convolve(x, channels, 3))
    for index, (channels, levels) in enumerate(trees):
        x = tree(x, channels, levels, strides=2 if index else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return classifier(images, x, classes, l2, name)
