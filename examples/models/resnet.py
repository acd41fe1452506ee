"""Residual networks for small images (He et al. 2015, section 4.2)."""

import keras
from keras import layers, ops


def resnet20(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to=None,
) -> keras.Model:
    """ResNet-20: three stages of three blocks, 16, 32 and 64 channels wide.

    Args:
        input_shape: height, width, channels; any size from 4x4. Pixels are 0-255.
        classes: number of classes.
        l2: weight of the L2 penalty on kernels, He et al.'s weight decay.
        adapt_to: images whose mean and variance per channel normalize the input.

    Returns:
        A model from images to class probabilities.
    """
    return _resnet(3, input_shape, classes, l2, adapt_to, name="resnet20")


def _resnet(blocks, input_shape, classes, l2, adapt_to, name):
    def convolve(x, channels, strides=1):
        x = layers.Conv2D(
            channels,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
        )(x)
        # Keras' default momentum, 0.99, needs more steps than short runs have.
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def block(x, channels, strides):
        shortcut = x
        x = layers.ReLU()(convolve(x, channels, strides))
        x = convolve(x, channels)
        if strides > 1:  # He et al.'s option A: no parameters in any shortcut
            # every n-th pixel; the new channels are zero
            shortcut = layers.MaxPooling2D(1, strides)(shortcut)
            missing = channels - shortcut.shape[-1]
            shortcut = ops.pad(shortcut, [[0, 0], [0, 0], [0, 0], [0, missing]])
        return layers.ReLU()(layers.Add()([shortcut, x]))

    inputs = keras.Input(input_shape, name="image")
    normalize = layers.Normalization(axis=-1)
    if adapt_to is not None:
        normalize.adapt(adapt_to)
    x = layers.ReLU()(convolve(normalize(inputs), 16))
    for stage, channels in enumerate((16, 32, 64)):
        for index in range(blocks):
            x = block(x, channels, strides=2 if stage and not index else 1)
    x = layers.GlobalAveragePooling2D()(x)
    # probabilities stay in float32 under mixed precision
    outputs = layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
        dtype="float32",
    )(x)
    return keras.Model(inputs, outputs, name=name)
