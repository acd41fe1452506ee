"""The papers' experiments as settings of `train.py`.

Each states what the paper states, with the place, and under `assumed` what it leaves
open. Weight decay is the papers': L2 added to the gradient (a regularizer here).
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Attributes:
        source: where the paper states them.
        dataset: name of the data set; another one can be put in its place.
        model: name of the network.
        optimizer: name of the optimizer.
        epochs: number of epochs.
        batch_size: images per step, over all devices together.
        learning_rate: at its highest.
        schedule: "constant", "cosine", "cosine:W" (W epochs of warm-up first) or
            "step:E,F" (divided by 10 after E and after F epochs).
        l2: weight decay.
        settings: further arguments of the optimizer.
        preprocessing: what is done to the images, a name in `PREPROCESSINGS`, if not
            what is usual for the data set.
        image_size: side of the images that the network gets, if not the data set's.
        precision: Keras' dtype policy.
        weights: "imagenet" for pretrained ones.
        backbone_rate: learning rate of all but the last layer, as a multiple.
        balance: against unequal numbers of images: "weights" (of the classes, in the
            loss), "sampler" (all classes are drawn equally often) or "none".
        assumed: what the paper does not state.
    """

    source: str
    dataset: str
    model: str
    optimizer: str
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    l2: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: str | None = None
    image_size: int | None = None
    precision: str = "float32"
    weights: str | None = None
    backbone_rate: float = 1.0
    balance: str = "none"
    assumed: str = ""


RECIPES = {
    "angulargrad-cifar": Recipe(
        source="AngularGrad, section 6.2.2, footnotes 3 and 4, Tables 1 and 2",
        dataset="cifar10",
        model="resnet18",
        optimizer="AngularGrad",
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        schedule="step:80",
        preprocessing="cifar",
        settings={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
        assumed="100 epochs, batch size 128",
    ),
    "angulargrad-finegrained": Recipe(
        source="AngularGrad, section 6.2.4, footnote 6, Table 4",
        dataset="cars196",
        model="ResNet50",
        optimizer="AngularGrad",
        epochs=60,
        batch_size=16,
        learning_rate=1e-3,
        schedule="step:30,50",
        preprocessing="fine_grained",
        settings={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
        image_size=448,
        weights="imagenet",
        backbone_rate=0.1,
        assumed="60 epochs, batch size 16",
    ),
    "angulargrad-miniimagenet": Recipe(
        source="AngularGrad, section 6.2.3, footnote 5, Table 3",
        dataset="mini_imagenet",
        model="resnet50_ws",
        optimizer="AngularGrad",
        epochs=100,
        batch_size=128,
        learning_rate=1e-3,
        schedule="step:80",
        preprocessing="resize",
        settings={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
        image_size=224,
        assumed="100 epochs, batch size 128, which the released code has too; its "
        "images are cropped as ImageNet's (--preprocessing imagenet)",
    ),
    "adanorm-cifar": Recipe(
        source="AdaNorm, section 4 and Table 1",
        dataset="cifar10",
        model="vgg16",
        optimizer="AdamNorm",
        epochs=100,
        batch_size=64,
        learning_rate=1e-3,
        schedule="step:80",
        preprocessing="cifar",
        settings={"beta_1": 0.9, "beta_2": 0.999, "gamma": 0.95},
    ),
    "adanorm-tinyimagenet": Recipe(
        source="AdaNorm, section 4 and Table 1",
        dataset="tiny_imagenet",
        model="resnet18",
        optimizer="AdamNorm",
        epochs=100,
        batch_size=64,
        learning_rate=1e-3,
        schedule="step:80",
        preprocessing="cifar",
        settings={"beta_1": 0.9, "beta_2": 0.999, "gamma": 0.95},
    ),
    "gaf-cifar": Recipe(
        source="GAF, section IV-C",
        dataset="cifar100",
        model="resnet50",
        optimizer="GAFSGD",
        epochs=200,
        batch_size=256,
        learning_rate=0.1,
        schedule="cosine",
        l2=5e-4,
        preprocessing="cifar",
        settings={"momentum": 0.9},
        assumed="the activation: its defaults, arctan with alpha 0.1 and beta 20; the "
        "augmentation",
    ),
    "gaf-imagenet": Recipe(
        source="GAF, section IV-C",
        dataset="imagenet2012",
        model="resnet50",
        optimizer="GAFSGD",
        epochs=150,
        batch_size=64,
        learning_rate=0.1,
        schedule="cosine:5",
        l2=4e-5,
        preprocessing="imagenet",
        settings={"momentum": 0.9},
        image_size=224,
        precision="mixed_float16",
        assumed="the activation: its defaults, arctan with alpha 0.1 and beta 20; the "
        "augmentation",
    ),
    "adal-cifar": Recipe(
        source="AdaL, section 3 and Table 1",
        dataset="cifar10",
        model="resnet34",
        optimizer="AdaL",
        epochs=150,
        batch_size=128,
        learning_rate=1e-3,
        schedule="step:50,100",
        l2=5e-4,
        preprocessing="cifar",
        settings={"beta_1": 0.9, "beta_2": 0.999},
        assumed="the learning rate, which the paper searches in 0.01, 0.001, 0.0001; "
        "the augmentation",
    ),
    "wgd-cifar": Recipe(
        source="WGD, section 4.1, Table 1, and section 4.4.2",
        dataset="cifar100",
        model="resnet18",
        optimizer="WGDSGD",
        epochs=50,
        batch_size=32,
        learning_rate=0.01,
        schedule="constant",
        l2=1e-3,
        preprocessing="resize",
        settings={"momentum": 0.9},
        image_size=224,
        assumed="a constant learning rate; flips",
    ),
    "wgd-animals": Recipe(
        source="WGD, section 4.1, Table 1, and section 4.4.1",
        dataset="animals10",
        model="densenet121",
        optimizer="WGDRAdam",
        epochs=50,
        batch_size=32,
        learning_rate=0.01,
        schedule="constant",
        l2=1e-3,
        preprocessing="resize",
        settings={"epsilon": 1e-10},
        image_size=224,
        balance="sampler",
        assumed="a constant learning rate; flips",
    ),
}
