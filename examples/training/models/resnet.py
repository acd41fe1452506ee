"""Residual networks: He et al. 2015 and 2016, and their descendants.

All are one builder, `residual_network`, with other numbers:

- He et al. 2015, "Deep Residual Learning for Image Recognition": ResNet-18, 34, 50 and
  101 (Table 1), ResNet-20 and 56 (section 4.2).
- He et al. 2016, "Identity Mappings in Deep Residual Networks": pre-activation.
- Xie et al. 2017, "Aggregated Residual Transformations": ResNeXt.
- Hu et al. 2018, "Squeeze-and-Excitation Networks": SE-ResNet.
- Qiao et al. 2019, "Micro-Batch Training with Batch-Channel Normalization and Weight
  Standardization": ResNet with standardized kernels.
"""

from typing import Any

import keras
from keras import layers, ops

from training.models.blocks import (
    activate,
    batch_norm,
    classifier,
    convolution,
    dense,
    image_input,
    stem,
)


def residual_network(
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    *,
    name: str,
    blocks: tuple[int, ...],
    width: int = 64,
    inner: int | None = None,
    groups: int = 1,
    stem_width: int = 64,
    projection: bool = True,
    pre_activation: bool = False,
    reduction: int | None = None,
    standardize: bool = False,
) -> keras.Model:
    """A residual network.

    A block has two 3x3 convolutions or, with `inner`, is a bottleneck: 1x1, 3x3, 1x1.
    The first block of every stage but the first halves the size, in its 3x3
    convolution (in a bottleneck He et al. 2015 did so in the 1x1; PyTorch's networks,
    which the papers trained, do it here).

    Args:
        input_shape: height, width, channels; any size from 4x4. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels.
        adapt_to: images whose mean and variance per channel normalize the input.
        name: name of the model.
        blocks: number of blocks in each stage.
        width: channels that the first stage puts out; each later stage doubles them.
        inner: channels inside the first stage's bottlenecks, doubled alike; `None`
            for blocks of two convolutions.
        groups: of the 3x3 convolution of a bottleneck, Xie et al.'s cardinality.
        stem_width: channels of the first convolution.
        projection: whether a shortcut between unequal sizes is a 1x1 convolution
            (option B of He et al. 2015), or has no parameters (option A).
        pre_activation: whether normalization and ReLU come before each convolution
            (He et al. 2016, Fig. 4e) instead of after it.
        reduction: of squeeze-and-excitation, which is left out if `None`.
        standardize: whether all kernels are standardized (Qiao et al. 2019); not with
            `groups` or `pre_activation`.

    Returns:
        A model from images to class probabilities.
    """
    if standardize and (groups > 1 or pre_activation):
        raise ValueError("standardize is not for groups, nor for pre_activation")

    def convolve(x, channels, size, strides=1, groups=1):
        if not standardize:
            return convolution(channels, size, strides, groups, l2=l2)(x)
        x = layers.ZeroPadding2D(size // 2)(x)
        return _standardized(
            convolution(channels, size, strides, l2=l2, padding="valid"), x
        )

    def shorten(x, channels, strides):
        if projection:
            x = convolve(x, channels, 1, strides)
            return x if pre_activation else batch_norm(x)
        x = layers.MaxPooling2D(1, strides)(x)  # every n-th pixel
        missing = channels - x.shape[-1]  # the new channels are zero
        return ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, missing]])

    def block(x, width, inner, strides):
        if inner is None:
            convolutions = [(width, 3, strides), (width, 3)]
        else:
            convolutions = [(inner, 1), (inner, 3, strides, groups), (width, 1)]
        branch = activate(x) if pre_activation else x
        # where activations come first, a projection follows one, as in He et al.'s code
        unequal = strides > 1 or x.shape[-1] != width
        shortcut = shorten(branch, width, strides) if unequal else x
        for index, settings in enumerate(convolutions):
            if index:
                branch = activate(branch)
            branch = convolve(branch, *settings)
        if not pre_activation:
            branch = batch_norm(branch)
        if reduction is not None:
            branch = _excite(branch, reduction, l2)
        x = layers.Add()([shortcut, branch])
        return x if pre_activation else layers.ReLU()(x)

    images, x = image_input(input_shape, adapt_to)
    x = stem(x, stem_width, convolve, pre_activation)
    for stage, count in enumerate(blocks):
        scale = 2**stage
        for index in range(count):
            x = block(
                x,
                width * scale,
                None if inner is None else inner * scale,
                strides=2 if stage and not index else 1,
            )
    if pre_activation:
        x = activate(x)
    x = layers.GlobalAveragePooling2D()(x)
    return classifier(images, x, classes, l2, name)


def _excite(x, reduction, l2):
    """Scales the channels by weights that their means determine (Hu et al., Fig. 3)."""
    channels = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = dense(channels // reduction, "relu", l2=l2)(weights)
    weights = dense(channels, "sigmoid", l2=l2)(weights)
    return layers.Multiply()([x, weights])


def _standardized(convolution, x):
    """The convolution with kernels of mean 0, for a batch normalization to follow.

    Weight standardization subtracts from each output channel's kernel its mean and
    divides by its standard deviation, and gradients pass through both. Here, as in the
    code released with AngularGrad (section 6.2.3), batch normalization follows, which
    removes any scale of a channel. So the division changes neither the outputs of the
    network nor its gradients, up to the epsilons, and is left out.
    """
    # Not a layer of our own: it would have to be imported before a saved model loads.
    # Nor a constraint on the kernel: no gradient passes through it. With w the kernel
    # and x a patch of the image,
    #     sum((w - mean(w)) x) = sum(w x) - sum(w) mean(x),
    # and sum(w) is what the layer itself gives for a patch of ones.
    size, strides = convolution.kernel_size[0], convolution.strides
    kernel_sums = convolution(ops.ones_like(x[:1, :size, :size]))
    patch_means = layers.AveragePooling2D(size, strides)(
        ops.mean(x, axis=-1, keepdims=True)
    )
    return convolution(x) - kernel_sums * patch_means
