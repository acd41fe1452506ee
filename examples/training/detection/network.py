"""SSD300 with the backbone VGG16 (Liu et al. 2016, Fig. 2), in layers of Keras.

A saved or exported model needs none of this to load. KerasHub has VGG and RetinaNet,
but no SSD, and needs packages for text: of its detector, default boxes, matching and
loss are others, so only the backbone would be left, which is the loop below.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from training.detection.boxes import boxes_per_place
from training.models.blocks import batch_norm, image_input, penalty

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
SMALLEST_IMAGE = 257  # whose last feature map is a single place


def ssd_network(
    classes: int,
    image_size: int = 300,
    *,
    width: float = 1.0,
    normalize: bool = False,
    l2: float = 5e-4,
    adapt_to: Any = None,
) -> keras.Model:
    """From images, pixels 0-255, to offsets and class logits of all default boxes.

    Args:
        classes: number of classes, without the background.
        image_size: height and width of the images. Default: 300, for which there are
            8732 default boxes.
        width: multiple of the published number of channels. Default: 1, as published.
        normalize: whether batch normalization follows each convolution but those of
            the heads; it makes training from scratch easier. Default: False, as
            published.
        l2: weight decay of the kernels; the penalty's gradient is `l2` times the
            kernel.
        adapt_to: images whose mean and variance per channel normalize the input.

    Returns:
        A model with one output, `(batch, boxes, 4 + 1 + classes)`: offsets, the logit
        of the background, the logits of the classes.
    """
    if image_size < SMALLEST_IMAGE:
        raise ValueError(
            f"image_size must be at least {SMALLEST_IMAGE}, not {image_size}: the last "
            "feature map would be empty"
        )

    def convolve(x, channels, size=3, **settings):
        x = layers.Conv2D(
            max(1, math.ceil(channels * width)),
            size,
            padding=settings.pop("padding", "same"),
            use_bias=not normalize,
            kernel_initializer="he_normal" if normalize else "glorot_uniform",
            kernel_regularizer=penalty(l2),
            **settings,
        )(x)
        return layers.ReLU()(batch_norm(x) if normalize else x)

    images, x = image_input((image_size, image_size, 3), adapt_to)
    features = []
    for index, (channels, count) in enumerate(BLOCKS):
        for _ in range(count):
            x = convolve(x, channels)
        if index == 3:  # conv4_3
            features.append(x)
        pool, strides = (3, 1) if index == 4 else (2, 2)
        x = layers.MaxPooling2D(pool, strides, padding="same")(x)
    x = convolve(x, 1024, dilation_rate=6)  # fc6
    features.append(x := convolve(x, 1024, 1))  # fc7
    for inner, channels, how in (
        (256, 512, {"strides": 2}),
        (128, 256, {"strides": 2}),
        (128, 256, {"padding": "valid"}),
        (128, 256, {"padding": "valid"}),
    ):
        features.append(x := convolve(convolve(x, inner, 1), channels, **how))

    features[0] = _rescaled(features[0])
    outputs = []
    for x, count in zip(features, boxes_per_place()):
        heads = [
            layers.Reshape((-1, values))(
                layers.Conv2D(
                    count * values,
                    3,
                    padding="same",
                    kernel_initializer="glorot_uniform",
                    kernel_regularizer=penalty(l2),
                    dtype="float32",  # under mixed precision, too
                )(x)
            )
            for values in (4, 1 + classes)
        ]
        outputs.append(layers.Concatenate(dtype="float32")(heads))
    predicted = layers.Concatenate(axis=1, dtype="float32", name="boxes")(outputs)
    return keras.Model(images, predicted, name=f"ssd{image_size}")


def _rescaled(x):
    """conv4_3 with the L2 norm of each place a learned 20 (section 3.1).

    The mean square instead of the sum, so that it does not depend on the width.
    """
    layer = layers.RMSNormalization(name="conv4_3_norm")
    y = layer(x)
    layer.scale.assign(np.full(x.shape[-1], 20 / math.sqrt(512)))
    return y


def load_backbone(model: keras.Model, source: keras.Model) -> int:
    """Copies the convolutions of a VGG16 into the first ones of an SSD.

    Args:
        model: of `ssd_network`, as wide as published and not normalized.
        source: of `keras.applications.VGG16`. It takes BGR pixels minus a mean, so the
            first kernel and the normalization are changed to that.

    Returns:
        The number of convolutions copied.

    Raises:
        ValueError: if the model's convolutions are of other shapes.
    """
    target, given = (
        [layer for layer in m.layers if isinstance(layer, layers.Conv2D)]
        for m in (model, source)
    )
    for new, old in zip(target, given):
        kernel, bias = old.get_weights()
        if [w.shape for w in new.get_weights()] != [kernel.shape, bias.shape]:
            raise ValueError("the weights of VGG16 fit --width 1 without --normalize")
        new.set_weights([kernel, bias])
    target[0].kernel.assign(given[0].get_weights()[0][:, :, ::-1])  # RGB
    normalization = next(
        layer for layer in model.layers if isinstance(layer, layers.Normalization)
    )
    means, _, *others = normalization.get_weights()
    means = np.array([123.68, 116.779, 103.939], means.dtype)
    normalization.set_weights([means, np.ones_like(means), *others])
    normalization.finalize_state()
    return len(given)
