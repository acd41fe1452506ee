"""What `detect.py` is asked to run: a recipe, or the defaults."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from training import flags
from training.command_line import (
    add_data_flags,
    add_optimization_flags,
    add_place_flags,
    check_place,
    show_names,
    with_optimizer,
)
from training.detection.data import DATASETS
from training.detection.network import SMALLEST_IMAGE


@dataclass(frozen=True)
class Detection:
    """Settings of a run.

    Attributes:
        source: where the paper states them.
        dataset: name of the data set; another one can be put in its place.
        optimizer: name of the optimizer.
        iterations: batches trained on, rounded up to whole epochs.
        batch_size: images per step, over all devices together.
        learning_rate: at its highest.
        schedule: "constant", "cosine", "cosine:W" (W iterations of warm-up first) or
            "step:I,J" (divided by 10 after I and after J iterations).
        l2: weight decay.
        settings: further arguments of the optimizer.
        steps_per_epoch: batches after which the run is evaluated and kept; by default
            as many as it takes to see every image.
        image_size: side of the images that the network gets.
        width: multiple of the published number of channels.
        normalize: whether batch normalization follows the convolutions.
        weights: "imagenet" for the backbone of `keras.applications`, or None.
        precision: Keras' dtype policy.
        assumed: what the paper does not state.
        epochs: how many that makes; found out from the data.
    """

    source: str
    dataset: str | None
    optimizer: str
    iterations: int
    batch_size: int
    learning_rate: float
    schedule: str
    l2: float = 5e-4
    settings: dict[str, Any] = field(default_factory=dict)
    steps_per_epoch: int | None = None
    image_size: int = 300
    width: float = 1.0
    normalize: bool = False
    weights: str | None = None
    precision: str = "float32"
    assumed: str = ""
    epochs: int = 0


NARROW = Detection(
    source="none: a quarter as wide, normalized, for some hundred images on two cores",
    dataset=None,
    optimizer="GAFSGD",
    iterations=2220,
    batch_size=8,
    learning_rate=0.01,
    schedule="cosine:100",
    settings={"momentum": 0.9},
    width=0.25,
    normalize=True,
)
VOC = Detection(
    source="GAF, section IV-C and Table IV",
    dataset="voc",
    optimizer="GAFSGD",
    iterations=120_000,
    batch_size=32,
    learning_rate=1e-3,
    schedule="cosine:500",
    settings={"momentum": 0.9},
    steps_per_epoch=1000,
    assumed="the activation: its defaults, arctan with alpha 0.1 and beta 20. It says "
    "from scratch; SSD300's published accuracy, which is that of its table, was had "
    "with --weights imagenet",
)
RECIPES = {
    "narrow": NARROW,
    "gaf-voc": VOC,
    "gaf-voc-sgd": dataclasses.replace(
        VOC,
        source="GAF, Table IV, without the activation",
        optimizer="SGD",
        assumed=VOC.assumed.partition(". ")[2],
    ),
}
RECIPE_FLAGS = {f.name for f in dataclasses.fields(Detection)} - {"settings", "epochs"}


def parser(description: str | None = None) -> argparse.ArgumentParser:
    make = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--list", action="store_true", help="print all names, and stop")
    make.add_argument(
        "--recipe", choices=sorted(RECIPES), metavar="NAME", help="default: narrow"
    )

    what = add_data_flags(make)
    what.add_argument(
        "--faults",
        choices=["stop", "repair"],
        default="stop",
        help="where boxes of a folder have no area or reach beyond the image",
    )
    what.add_argument(
        "--width", type=flags.POSITIVE, metavar="X", help="multiple of the channels"
    )
    what.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="batch normalization after each convolution",
    )
    what.add_argument("--weights", choices=["imagenet", "none"])

    how = add_optimization_flags(
        make,
        "constant, cosine, cosine:WARMUP_ITERATIONS or step:ITERATION[,ITERATION...]",
    )
    how.add_argument("--iterations", type=flags.COUNT, metavar="N")
    add_place_flags(make, "runs/detector")
    return make


def settle(args: argparse.Namespace) -> Detection:
    """The settings of the run: flags over recipe.

    Raises:
        ValueError: in one sentence, for flags that are wrong or do not go together.
    """
    recipe = RECIPES[args.recipe] if args.recipe else NARROW
    given = {name: getattr(args, name, None) for name in RECIPE_FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    run = dataclasses.replace(recipe, **given)
    if run.weights == "none":
        run = dataclasses.replace(run, weights=None)
    if run.dataset is None:
        raise ValueError(
            "--dataset is missing: voc, folder:PATH or an object detection of TFDS"
        )
    if run.image_size < SMALLEST_IMAGE:
        raise ValueError(
            f"--image-size must be at least {SMALLEST_IMAGE}, not {run.image_size}"
        )
    if run.weights and (run.width != 1 or run.normalize):
        raise ValueError("--weights imagenet needs --width 1 and --no-normalize")
    if args.processes > 1:
        raise ValueError("detect.py trains in a single process, on all of its devices")
    run = with_optimizer(args, run, recipe)
    check_place(args, run)
    return run


def print_names() -> None:
    """Prints what `detect.py` knows by name."""
    show_names(
        ("data sets (and any of TFDS' object detection, or folder:PATH)", DATASETS),
        ("networks", ["ssd300: VGG16, --width 1 as published"]),
        RECIPES,
    )
