"""
Title: On real images: curves, gradients, losses around solutions
Description: AdaL's Fig. 1-2 and 5-8, GAF's Fig. 3 and 5, AngularGrad's Fig. 8, smaller.

    python examples/figures/real_images.py --data-dir DIR

`DIR` holds CIFAR-10, CIFAR-100 and Tiny ImageNet as TFDS prepares them. Every network
is trained by `examples/train.py`, in a folder of its own within `--runs`, where the
same command finds it again, or goes on with it if it was interrupted.

Smaller than the papers' in everything: ResNet-20 and DenseNet-22 where they have
ResNet-34, ResNet-18, ResNet-50 and DenseNet-121, Tiny ImageNet at 32 pixels for
mini-ImageNet at 84, 5,000 images of each split, six epochs, one seed. So these
pictures show what the papers' pictures show, and not whether one optimizer is better
than another: that is what the studies are for. Rates are 0.001, and 0.1 for SGD with
momentum 0.9, a tenth of that in the last two epochs; weight decay and augmentation are
those of AdaL's recipe.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import train
from figures import drawing, gradient_norms, loss_landscape
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from training import datasets

"""
## Training

Names are those of the other figures; behind each stands what `train.py` is told.
"""

FLAGS = {
    "SGD": ["SGD", "--set", "momentum=0.9", "--learning-rate", "0.1"],
    "RMSprop": ["RMSprop"],
    "Adam": ["AdamCore"],
    "AdamW": ["AdamW"],
    "DiffGrad": ["DiffGrad"],
    "AdaBelief": ["AdaBelief"],
    "AdaL": ["AdaL"],
    "AngularGrad": ["AngularGrad"],
    "AngularGrad tan": ["AngularGrad", "--set", "angle=tan"],
}
TITLES = {
    "resnet20": "ResNet-20",
    "densenet22": "DenseNet-22",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny_imagenet": "Tiny ImageNet",
    "digits": "digits",
}


class Runs:
    """Networks trained by `train.py`, each once.

    Args:
        folder: where their folders are.
        data_dir: where TFDS keeps data sets.
        size: flags that say how much is trained.
    """

    def __init__(self, folder: Path, data_dir: str | None, size: list[str]) -> None:
        self.folder, self.data_dir, self.size = folder, data_dir, size

    def __call__(
        self, network: str, dataset: str, optimizer: str, monitored: bool = False
    ) -> Path:
        """The folder of a run, which is made or finished if need be."""
        folder = self.folder / f"{dataset}-{network}-{optimizer.replace(' ', '_')}"
        flags = ["--dataset", dataset, "--model", network, "--learning-rate", "0.001"]
        flags += ["--preprocessing", "cifar", "--image-size", "32", "--l2", "5e-4"]
        flags += ["--batch-size", "128", *self.size]
        if monitored:
            flags += ["--monitor", "5"]
        if self.data_dir:
            flags += ["--data-dir", self.data_dir]
        flags += ["--optimizer", *FLAGS[optimizer], "--output", str(folder), "--resume"]
        print(f"\n{folder}", flush=True)
        train.main(flags)
        return folder


def columns(path: Path) -> dict[str, np.ndarray]:
    """A CSV file with a head, by column; empty cells are NaN, text stays text."""
    with open(path) as file:
        rows = list(csv.DictReader(file))

    def number(cell):
        try:
            return float(cell or "nan")
        except ValueError:
            return cell

    return {name: np.array([number(row[name]) for row in rows]) for name in rows[0]}


def images_of(runs: Runs, dataset: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images, not augmented, and their classes."""
    data = datasets.load(
        dataset, data_dir=runs.data_dir, image_size=32, preprocessing="cifar"
    )
    batches, _ = datasets.training_batches(data, count, seed=0, augment=False)
    images, labels = next(iter(batches))
    return np.asarray(images), np.asarray(labels)


def solution(folder: Path, images: np.ndarray, labels: np.ndarray):
    """The weights after the last epoch, and the loss as a function of weights."""
    network = keras.saving.load_model(folder / "last.keras")
    loss = loss_landscape.loss_of(network, images, labels, from_logits=False)
    return network.get_weights(), loss


"""
## Drawing
"""


def draw_curves(found):
    """A row for each network and data set: losses, and test accuracy."""
    panels = {
        "loss": "training loss",
        "val_loss": "test loss",
        "val_accuracy": "test accuracy",
    }
    figure = Figure(figsize=(10.5, 2.9 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(panels), squeeze=False)
    for row, (title, histories) in zip(axes, found.items()):
        for axis, (column, label) in zip(row, panels.items()):
            for name, history in histories.items():
                axis.plot(
                    history["epoch"], history[column], marker=".",
                    color=drawing.COLORS[name], label=name,
                )  # fmt: skip
            axis.set(xlabel="epoch", ylabel=label)
            axis.grid(alpha=0.25)
        row[1].set_title(title)
        row[2].yaxis.set_major_formatter(PercentFormatter(1))
        row[0].legend(fontsize=8)
    return figure


def draw_gradients(records, window):
    """Largest entries of all gradients, and L1 norms of two layers."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for name, record in records.items():
        look = {"color": drawing.COLORS[name], "label": name, "window": window}
        steps = np.unique(record["step"])
        largest = [record["gradient_max"][record["step"] == s].max() for s in steps]
        draw_line(left, steps, np.array(largest), **look)
        for axis, layer in zip(others, (record["group"][0], record["group"][-1])):
            norms = record["gradient_l1"][record["group"] == layer]
            draw_line(axis, steps, norms, **look)
    left.set_title("largest entry of any gradient", size=10.5)
    for axis, which in zip(others, ("first", "last")):
        axis.set_title(f"L1 norm, {which} layer", size=10.5)
    for axis in (left, *others):
        axis.set(xlabel="step", yscale="log")
        axis.grid(alpha=0.25)
    left.axhline(0.1, color="#666666", linestyle=":", linewidth=1)
    left.legend(fontsize=8)
    return figure


def draw_line(axis, steps, values, window, label, color):
    """Sampled steps as a thin line, means as a thick one."""
    axis.plot(steps, values, linewidth=0.5, alpha=0.3, color=color)
    places, means = gradient_norms.smooth(values, window)
    axis.plot(
        np.interp(places, np.arange(len(steps)) + 1, steps), means, label=label,
        color=color,
    )  # fmt: skip


def draw_lines(lines, amounts):
    """Losses along a random direction, with the parabola of their middle."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    for axis, (title, losses) in zip(
        figure.subplots(1, len(lines), squeeze=False)[0], lines.items()
    ):
        middle = np.abs(amounts) <= amounts[-1] / 2
        parabola = np.polynomial.Polynomial.fit(amounts[middle], losses[middle], 2)
        axis.plot(amounts, losses, color=drawing.COLORS["SGD"], label="loss")
        axis.plot(amounts, parabola(amounts), ":", color="#666666", label="parabola")
        axis.set(title=title, xlabel="distance, in norms of each filter", ylabel="loss")
        axis.set_ylim(0, 1.1 * losses.max())
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return figure


def draw_surfaces(planes, amounts):
    """Losses over a plane through each solution, all on one scale."""
    figure = Figure(figsize=(10.5, 2.9 * -(-len(planes) // 4)), layout="constrained")
    heights = {name: np.log10(plane) for name, plane in planes.items()}
    bottom = min(z.min() for z in heights.values())
    top = max(z.max() for z in heights.values())
    x, y = np.meshgrid(amounts, amounts)
    for number, (name, z) in enumerate(heights.items(), 1):
        axis = figure.add_subplot(-(-len(planes) // 4), 4, number, projection="3d")
        axis.plot_surface(
            x, y, z, cmap="cividis", vmin=bottom, vmax=top, rcount=60, ccount=60
        )
        axis.set(title=name, xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
        axis.set_zlim(bottom, top)
        axis.tick_params(labelsize=7, pad=-2)
        axis.set_box_aspect(None, zoom=0.9)
    figure.supxlabel("two random directions, in norms of each filter", size=10)
    figure.suptitle("log10 of the training loss", size=11)
    return figure


"""
## The four figures

Each trains what it needs and is not yet trained.
"""


@dataclass(frozen=True)
class Size:
    """What is trained and drawn.

    Attributes:
        pairs: networks and data sets of the curves; of the first are the gradients.
        lines: networks and data sets of the losses along lines.
        photos: data set of the surfaces.
        of_curves: optimizers of the curves.
        of_surfaces: optimizers of the surfaces.
        flags: of `train.py`.
        points: of a line.
        side: points of a side of a plane.
        images: that a loss is of.
        directions: that the mean rise is over.
    """

    pairs: Sequence[tuple[str, str]]
    lines: Sequence[tuple[str, str]]
    photos: str
    of_curves: Sequence[str]
    of_surfaces: Sequence[str]
    flags: Sequence[str]
    points: int
    side: int
    images: int
    directions: int


SMALL = Size(
    pairs=[("resnet20", "digits")],
    lines=[("resnet20", "digits")],
    photos="digits",
    of_curves=["SGD", "AdaL"],
    of_surfaces=["SGD"],
    flags=["--limit", "256", "--epochs", "1"],
    points=5,
    side=3,
    images=32,
    directions=2,
)
FULL = Size(
    pairs=[(n, d) for d in ("cifar10", "cifar100") for n in ("resnet20", "densenet22")],
    lines=[("resnet20", "cifar10"), ("densenet22", "cifar100")],
    photos="tiny_imagenet",
    of_curves=["SGD", "Adam", "AdaBelief", "AdaL"],
    of_surfaces=[name for name in FLAGS if name != "AdaL"],
    flags=["--limit", "5000", "--epochs", "6", "--schedule", "step:4"],
    points=81,
    side=9,
    images=500,
    directions=10,
)


def title(network: str, dataset: str) -> str:
    """A network and a data set, for people."""
    return f"{TITLES[network]} on {TITLES[dataset]}"


def curves(runs, size):
    """The figure, and a table of the last epochs."""
    found, rows = {}, []
    for pair in size.pairs:
        histories = {
            name: columns(runs(*pair, name, pair == size.pairs[0]) / "history.csv")
            for name in size.of_curves
        }
        found[title(*pair)] = histories
        for name, history in histories.items():
            last = [float(history[c][-1]) for c in ("loss", "val_loss", "val_accuracy")]
            rows.append([title(*pair), name, *last])
    head = ["", "optimizer", "training loss", "test loss", "test accuracy"]
    return draw_curves(found), head, rows


def gradients(runs, size):
    """The figure, and a table of the largest entries."""
    records = {
        name: columns(runs(*size.pairs[0], name, True) / "monitor.csv")
        for name in size.of_curves
        if name != "AdaBelief"
    }
    rows = [
        [name, float(record["gradient_max"].max())] for name, record in records.items()
    ]
    return draw_gradients(records, 6), ["optimizer", "largest gradient entry"], rows


def lines(runs, size):
    """The figure, and a table of the losses in the middle and at both ends."""
    amounts, found = np.linspace(-1, 1, size.points), {}
    for network, dataset in size.lines:
        sample = images_of(runs, dataset, size.images)
        weights, loss = solution(runs(network, dataset, "SGD"), *sample)
        random = np.random.default_rng(0)
        direction = loss_landscape.filter_normalized(weights, random)
        found[title(network, dataset)] = loss_landscape.along(
            loss, weights, direction, amounts
        )
    rows = [
        [name, *map(float, (x[0], x[size.points // 2], x[-1]))]
        for name, x in found.items()
    ]
    return draw_lines(found, amounts), ["", "at -1", "at 0", "at 1"], rows


def surfaces(runs, size):
    """The figure, and a table of heights and unevenness, as of `loss_landscape`."""
    amounts = np.linspace(-0.5, 0.5, size.side)
    sample, planes, rows = images_of(runs, size.photos, size.images), {}, []
    for name in size.of_surfaces:
        weights, loss = solution(runs("resnet20", size.photos, name), *sample)
        random = np.random.default_rng(0)  # the same noise for all
        directions = [
            loss_landscape.filter_normalized(weights, random) for _ in range(2)
        ]
        planes[name] = loss_landscape.plane(loss, weights, directions, amounts)
        shape = loss_landscape.shape(loss, weights, 0, size.directions)
        rows.append([name, *shape])
    head = ["optimizer", "training loss", "mean rise at 0.5", "unevenness"]
    return draw_surfaces(planes, amounts), head, rows


FIGURES = {draw.__name__: draw for draw in (curves, gradients, lines, surfaces)}


def parse(arguments):
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="where TFDS keeps data sets")
    names = list(FIGURES)
    parser.add_argument("--figures", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/real_images"),
        help="where the trainings are kept (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, help="folder of the pictures (default: docs/figures)"
    )
    parser.add_argument(
        "--small", action="store_true",
        help="digits alone, in a minute; then the default of --output is runs/figures",
    )  # fmt: skip
    found = parser.parse_args(arguments)
    default = "runs/figures" if found.small else "docs/figures"  # never a trial's
    found.output = found.output or Path(default)
    return found


def main(arguments=None):
    """Trains what is not yet trained, and draws; returns the rows of each table."""
    args = parse(arguments)
    size = SMALL if args.small else FULL
    runs, found = Runs(args.runs, args.data_dir, list(size.flags)), {}
    for name in args.figures:
        figure, head, found[name] = FIGURES[name](runs, size)
        drawing.save(figure, args.output / f"real_{name}.png")
        print(drawing.table(head, found[name]))
    return found


if __name__ == "__main__":
    main()
