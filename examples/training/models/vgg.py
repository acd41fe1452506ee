"""VGG networks (Simonyan & Zisserman 2015), with batch normalization."""

from typing import Any

import keras
from keras import layers

from training.models.blocks import (
    activate,
    classifier,
    convolution,
    dense,
    image_input,
    is_small,
)


def vgg_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    blocks: tuple[int, ...],
) -> keras.Model:
    """A VGG network with batch normalization after each convolution.

    Simonyan & Zisserman 2015, Table 1; `(2, 2, 3, 3, 3)` is their configuration D. From
    64 pixels, two layers of 4096 units with dropout come before the classifier, as
    there. Below, the classifier follows the mean over the image, as is common for
    CIFAR.

    Args:
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        blocks: number of convolutions before each max pooling.

    Returns:
        A model from images to class probabilities.
    """
    images, x = image_input(input_shape, adapt_to)
    for channels, count in zip((64, 128, 256, 512, 512), blocks):
        for _ in range(count):
            # the common implementations keep the bias
            x = activate(convolution(channels, 3, l2=l2, use_bias=True)(x))
        # "same": an odd size, or a single pixel, does not lose its last row
        x = layers.MaxPooling2D(2, padding="same")(x)
    if is_small(input_shape):
        x = layers.GlobalAveragePooling2D()(x)
    else:
        x = layers.Flatten()(x)
        for _ in range(2):
            x = layers.Dropout(0.5)(dense(4096, "relu", l2=l2)(x))
    return classifier(images, x, classes, l2, name)
