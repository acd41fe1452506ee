"""The networks of the examples, by name.

The papers' networks are in `MODELS`; `create_model` also makes those of
`keras.applications`. A saved or exported model needs none of this to load: all layers
are Keras' own.
"""

from difflib import get_close_matches
from functools import partial
from typing import Any

import keras

from training.models.applications import APPLICATIONS, application
from training.models.densenet import dense_network
from training.models.dla import aggregated_network
from training.models.dpn import dual_path_network
from training.models.googlenet import inception_network
from training.models.regnet import regnet
from training.models.resnet import residual_network
from training.models.vgg import vgg_network

__all__ = ["MODELS", "create_model"]

_NETWORKS = {
    # He et al. 2015, section 4.2 and Table 6
    "resnet20": partial(
        residual_network, blocks=(3, 3, 3), width=16, stem_width=16, projection=False
    ),
    "resnet56": partial(
        residual_network, blocks=(9, 9, 9), width=16, stem_width=16, projection=False
    ),
    # He et al. 2015, Table 1
    "resnet18": partial(residual_network, blocks=(2, 2, 2, 2)),
    "resnet34": partial(residual_network, blocks=(3, 4, 6, 3)),
    "resnet50": partial(residual_network, blocks=(3, 4, 6, 3), width=256, inner=64),
    "resnet101": partial(residual_network, blocks=(3, 4, 23, 3), width=256, inner=64),
    # He et al. 2016; GAF, Table III
    "preact_resnet34": partial(
        residual_network, blocks=(3, 4, 6, 3), pre_activation=True
    ),
    "preact_resnet50": partial(
        residual_network, blocks=(3, 4, 6, 3), width=256, inner=64, pre_activation=True
    ),
    # Hu et al. 2018, Fig. 3, with their reduction ratio; GAF, Table I
    "se_resnet18": partial(residual_network, blocks=(2, 2, 2, 2), reduction=16),
    "se_resnet34": partial(residual_network, blocks=(3, 4, 6, 3), reduction=16),
    "se_resnet50": partial(
        residual_network, blocks=(3, 4, 6, 3), width=256, inner=64, reduction=16
    ),
    # Qiao et al. 2019; AngularGrad, Table 3
    "resnet18_ws": partial(residual_network, blocks=(2, 2, 2, 2), standardize=True),
    "resnet50_ws": partial(
        residual_network, blocks=(3, 4, 6, 3), width=256, inner=64, standardize=True
    ),
    "resnet101_ws": partial(
        residual_network, blocks=(3, 4, 23, 3), width=256, inner=64, standardize=True
    ),
    # Xie et al. 2017, section 5.3: the first stage puts out 256 channels. In 4x64d, of
    # the code released with AngularGrad, it puts out twice the inner width.
    "resnext29_32x4d": partial(
        residual_network, blocks=(3, 3, 3), width=256, inner=128, groups=32
    ),
    "resnext29_8x64d": partial(
        residual_network, blocks=(3, 3, 3), width=256, inner=512, groups=8
    ),
    "resnext29_4x64d": partial(
        residual_network, blocks=(3, 3, 3), width=512, inner=256, groups=4
    ),
    # Huang et al. 2017, Table 1
    "densenet121": partial(dense_network, blocks=(6, 12, 24, 16), growth=32),
    "densenet169": partial(dense_network, blocks=(6, 12, 32, 32), growth=32),
    # GAF, Table II: DenseNet-CIFAR, k = 12 and depth 121
    "densenet_cifar": partial(dense_network, blocks=(6, 12, 24, 16), growth=12),
    # Huang et al. 2017, section 4.2: the smallest; and a narrower one
    "densenet40": partial(dense_network, blocks=(6, 6, 6), growth=12),
    "densenet22": partial(dense_network, blocks=(3, 3, 3), growth=8),
    # Simonyan & Zisserman 2015, configuration D
    "vgg16": partial(vgg_network, blocks=(2, 2, 3, 3, 3)),
    # Yu et al. 2018, Table 1 (DLA-34), with the roots of the code released with
    # AngularGrad (Tables 1 and 2)
    "dla": partial(
        aggregated_network,
        widths=(16, 16, 32),
        trees=((64, 1), (128, 2), (256, 2), (512, 1)),
    ),
    # GAF, Table II, as in kuangliu/pytorch-cifar: the stages of Chen et al. 2017's
    # DPN-92 with two blocks each
    "dpn26": partial(
        dual_path_network,
        stages=(
            (2, 96, 256, 16),
            (2, 192, 512, 32),
            (2, 384, 1024, 24),
            (2, 768, 2048, 128),
        ),
    ),
    # Szegedy et al. 2015, Table 1; GAF, Table II
    "googlenet": inception_network,
    # Radosavovic et al. 2020, Fig. 21; GAF, Table II
    "regnetx_200mf": partial(
        regnet,
        stages=((1, 24, 1), (1, 56, 1), (4, 152, 2), (7, 368, 2)),
        group_width=8,
    ),
}

MODELS = {name: partial(make, name=name) for name, make in _NETWORKS.items()}
"""Each is called as `(input_shape, classes, l2=1e-4, adapt_to=None)`."""


def create_model(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    adapt_to: Any = None,
    weights: str | None = None,
) -> keras.Model:
    """A network of `MODELS` or of `keras.applications`, from pixels to probabilities.

    Case matters: "resnet50" is ours, "ResNet50" is Keras'.

    Args:
        name: of the network.
        input_shape: height, width, channels. Pixels are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels; the penalty's gradient is `l2` times the
            kernel.
        adapt_to: images whose mean and variance per channel normalize the input of a
            network of `MODELS`. Those of `keras.applications` have their own
            preprocessing.
        weights: for `keras.applications`: "imagenet", the path of a weights file, or
            `None` for random weights.

    Returns:
        A model from images to class probabilities.

    Raises:
        ValueError: for an unknown name, and for weights of a network that has none.
    """
    if name in APPLICATIONS:
        return application(name, input_shape, classes, l2, weights)
    if name not in MODELS:
        raise ValueError(_unknown(name))
    if weights is not None:
        raise ValueError(
            f"weights={weights!r}: {name!r} has no pretrained weights; the networks of "
            f"keras.applications have: {', '.join(sorted(APPLICATIONS))}"
        )
    return MODELS[name](input_shape, classes, l2, adapt_to)


def _unknown(name):
    known = sorted([*MODELS, *APPLICATIONS])
    close = get_close_matches(name.lower(), {other.lower() for other in known})
    close = [other for match in close for other in known if other.lower() == match]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"unknown model {name!r}{hint}; known are {', '.join(known)}"
