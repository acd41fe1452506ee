"""What the networks share: input, convolution, normalization, stem and classifier."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers


def image_input(
    input_shape: tuple[int, int, int], adapt_to: Any = None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The images as given, pixels 0-255, and with mean 0 and variance 1 per channel.

    Without `adapt_to` the two are the same until the model's `Normalization` layer is
    given a mean and a variance.
    """
    images = keras.Input(input_shape, name="image")
    normalize = layers.Normalization(axis=-1)
    if adapt_to is not None:
        normalize.adapt(adapt_to)
    return images, normalize(images)


def is_small(input_shape: tuple[int, int, int]) -> bool:
    """Whether images are too small for a stem that divides their size by four."""
    return min(input_shape[:2]) < 64


def penalty(l2: float) -> keras.Regularizer | None:
    """The regularizer whose gradient is `l2` times the kernel.

    That is the weight decay of the papers and of PyTorch; Keras' `L2(x)` has the
    gradient `2 x` times the kernel.
    """
    return keras.regularizers.L2(l2 / 2) if l2 else None


def convolution(
    channels: int,
    size: int,
    strides: int = 1,
    groups: int = 1,
    *,
    l2: float,
    padding: str = "same",
    use_bias: bool = False,
) -> layers.Conv2D:
    """A convolution without bias, since batch normalization follows."""
    return layers.Conv2D(
        channels,
        size,
        strides=strides,
        groups=groups,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        kernel_regularizer=penalty(l2),
    )


def dense(units: int, activation: str, *, l2: float, dtype: Any = None) -> layers.Dense:
    """A fully connected layer, initialized and penalized as the convolutions are."""
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer="he_normal",
        kernel_regularizer=penalty(l2),
        dtype=dtype,
    )


def batch_norm(x: keras.KerasTensor) -> keras.KerasTensor:
    """Batch normalization with the constants of PyTorch, which the papers used."""
    # Keras' default momentum, 0.99, needs more steps than short runs have.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def activate(x: keras.KerasTensor) -> keras.KerasTensor:
    """Batch normalization, then ReLU."""
    return layers.ReLU()(batch_norm(x))


def residual_block(
    x: keras.KerasTensor, convolutions: list[tuple[int, ...]], *, l2: float
) -> keras.KerasTensor:
    """Convolutions in turn, added to what they began with (He et al. 2015, Fig. 5).

    Args:
        x: activated.
        convolutions: `(channels, size, strides, groups)` of each; the last two default
            to 1. Where the result is of another shape than `x`, a 1x1 convolution of
            `x` is added.
        l2: weight decay of the kernels.
    """
    branch = x
    for index, settings in enumerate(convolutions):
        if index:
            branch = activate(branch)
        branch = convolution(*settings, l2=l2)(branch)
    branch = batch_norm(branch)
    if branch.shape != x.shape:
        strides = math.prod(settings[2] for settings in convolutions if settings[2:])
        x = batch_norm(convolution(branch.shape[-1], 1, strides, l2=l2)(x))
    return layers.ReLU()(layers.Add()([x, branch]))


def stem(
    x: keras.KerasTensor,
    channels: int,
    convolve: Callable[..., keras.KerasTensor],
    pre_activation: bool = False,
) -> keras.KerasTensor:
    """The first convolution, by the size of the images.

    From 64 pixels it is that of the ImageNet networks, 7x7 with stride 2, and a 3x3
    max pooling with stride 2 follows (He et al. 2015, Table 1). Below 64 pixels it is
    3x3 with stride 1, as in section 4.2 there.

    Args:
        x: normalized images.
        channels: of the output.
        convolve: called as `convolve(x, channels, size, strides)`.
        pre_activation: whether every block begins with an activation of its own, so
            that none is needed here when no pooling follows.
    """
    if is_small(x.shape[1:]):
        x = convolve(x, channels, 3, 1)
        return x if pre_activation else activate(x)
    x = activate(convolve(x, channels, 7, 2))
    return layers.MaxPooling2D(3, 2, padding="same")(x)


def classifier(
    images: keras.KerasTensor,
    x: keras.KerasTensor,
    classes: int,
    l2: float,
    name: str,
) -> keras.Model:
    """The model from `images` to class probabilities, given one vector per image."""
    # probabilities stay in float32 under mixed precision
    probabilities = dense(classes, "softmax", l2=l2, dtype="float32")(x)
    return keras.Model(images, probabilities, name=name)
