"""
Title: The loss around and between solutions
Description: Filter-normalized landscapes of networks trained by Adam and AngularGrad.

    python examples/figures/loss_landscape.py

Li et al. (2018, "Visualizing the loss landscape of neural nets"), which AngularGrad's
Fig. 8 uses: from a solution, the loss along random directions in which every filter has
the norm of the filter that it is added to, so that landscapes of networks whose weights
differ in scale can be compared. Biases and normalization scales (all variables with
fewer than two axes) stay as they are. A filter is what makes one output: in Keras'
layouts all entries with one index on the last axis, `(height, width, in, out)` and
`(in, out)`. (PyTorch has it first; depthwise and transposed kernels would need an axis
of their own.)

Adam, AngularGrad and, as a control, Adam at half the learning rate start from the same
weights and see the same batches. The table repeats this for several seeds: with one
seed any two solutions look different.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from figures import drawing
from matplotlib.figure import Figure

from keras_gradopt.monitoring import advice

"""
## Training
"""

OPTIMIZERS = ["Adam", "AngularGrad", "Adam, half rate"]
RATE = 3e-3


def train(name, seed, images, labels, epochs, run_eagerly=False):
    """A network trained by one optimizer, and its weights."""
    network = drawing.small_network(drawing.make(name, RATE), seed, run_eagerly)
    network.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    return network, network.get_weights()


def loss_of(network, images, labels, from_logits=True):
    """The loss on these images as a function of the weights."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits)

    def loss(weights):
        network.set_weights(weights)
        return float(cross_entropy(labels, network.predict_on_batch(images)))

    return loss


"""
## Directions
"""


def filter_normalized(weights, random):
    """A random direction, scaled filter by filter to the norms of these weights."""
    return [advice.filter_normalized(random, w).astype(w.dtype) for w in weights]


def moved(weights, *steps):
    """The weights plus `amount * direction` for each `(amount, direction)`."""
    for amount, direction in steps:
        weights = [w + amount * d for w, d in zip(weights, direction)]
    return weights


def along(loss, weights, direction, amounts):
    """The loss on a line."""
    return np.array([loss(moved(weights, (a, direction))) for a in amounts])


def plane(loss, weights, directions, amounts):
    """The loss on a square: rows along the second direction."""
    first, second = directions
    return np.array(
        [
            along(loss, moved(weights, (amount, second)), first, amounts)
            for amount in amounts
        ]
    )


def shape(loss, weights, seed, lines, radius=0.5):
    """Mean rise of the loss at a radius, and how uneven opposite sides are.

    The unevenness of a line is `|rise right - rise left| / (rise right + rise left)`,
    0 for equal sides and 1 for a slope on one side only.
    """
    random = np.random.default_rng(seed)
    center = loss(weights)
    rises = []
    for _ in range(lines):
        direction = filter_normalized(weights, random)
        rises.append(along(loss, weights, direction, [-radius, radius]) - center)
    left, right = np.maximum(np.transpose(rises), 0)
    uneven = np.abs(right - left) / np.maximum(right + left, 1e-12)
    return center, float(np.mean([left, right])), float(np.mean(uneven))


"""
## Drawing
"""


def draw(between, around, planes, amounts):
    """Two columns of one dimension, then contours over landscapes."""
    figure = Figure(figsize=(11.5, 7.4), layout="constrained")
    shares, train_loss, test_loss = between
    axis = figure.add_subplot(2, 3, 1)
    axis.plot(shares, train_loss, color="#333333", label="training images")
    axis.plot(shares, test_loss, "--", color="#777777", label="test images")
    for place, name in enumerate(planes):
        axis.axvline(place, color=drawing.COLORS[name], linewidth=2, label=name)
    axis.set(
        yscale="log", ylabel="loss", title="Between: straight from one to the other"
    )
    axis.set_xlabel("share of the way from Adam (0) to AngularGrad (1)")
    axis.legend(fontsize=8)
    axis = figure.add_subplot(2, 3, 4)
    for name, (line, values) in around.items():
        style = "--" if name == "Adam, half rate" else "-"
        axis.plot(line, values, style, color=drawing.COLORS[name], label=name)
    axis.set(yscale="log", ylabel="loss", title="Around: along a random direction")
    axis.set_xlabel("distance, in norms of each filter")
    axis.legend(fontsize=8)
    top = max(z.max() for z in planes.values())
    bottom = min(z.min() for z in planes.values())
    levels = np.geomspace(bottom, top, 18)
    x, y = np.meshgrid(amounts, amounts)
    for number, (name, z) in enumerate(planes.items(), 2):
        axis = figure.add_subplot(2, 3, number)
        lines = axis.contour(
            x, y, z, levels, norm="log", cmap="cividis", linewidths=1.2
        )
        axis.clabel(lines, fmt=lambda value: f"{value:.2g}", fontsize=6.5)
        axis.plot(0, 0, "o", color=drawing.COLORS[name], markeredgecolor="black")
        axis.set(title=f"{name}: training loss", aspect="equal")
        axis.set(xlabel="first direction", ylabel="second direction")
        axis = figure.add_subplot(2, 3, number + 3, projection="3d")
        axis.plot_surface(x, y, np.log10(z), cmap="cividis", rcount=60, ccount=60)
        axis.set(title=name, xlabel="first direction", ylabel="second direction")
        axis.set_zlabel("log10 of the loss")
        axis.set_zlim(np.log10(bottom), np.log10(top))
        axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axis.tick_params(labelsize=7)
    for axis in figure.axes:
        axis.grid(alpha=0.25)
    figure.suptitle(
        "Loss of a small network on digits, filter-normalized directions "
        "(unit: the norm of each filter)"
    )
    return figure


def main(arguments=None):
    """Draws the figure; prints and returns the table over the seeds."""
    args = drawing.arguments("loss_landscape", __doc__, arguments)
    small = args.small
    train_x, train_y, test_x, test_y = drawing.digits()
    if small:
        train_x, train_y = train_x[:256], train_y[:256]
    epochs, seeds, lines = (2, [0], 2) if small else (40, [0, 1, 2], 10)
    amounts = np.linspace(-1, 1, 5 if small else 31)
    kept, rows = {}, []
    for seed in seeds:
        for name in OPTIMIZERS:
            network, weights = train(name, seed, train_x, train_y, epochs, small)
            accuracy = network.evaluate(test_x, test_y, verbose=0, return_dict=True)
            loss = loss_of(network, train_x, train_y)
            rows.append(
                [seed, name, *shape(loss, weights, seed, lines), accuracy["accuracy"]]
            )
            if seed == seeds[0]:
                kept[name] = network, weights, loss
    head = ["seed", "optimizer", "training loss", "mean rise at 0.5", "unevenness"]
    print(drawing.table([*head, "test accuracy"], rows))

    around, planes = {}, {}
    line = np.linspace(-1, 1, 7 if small else 81)
    for name, (_, weights, loss) in kept.items():
        random = np.random.default_rng(0)  # the same noise for all
        directions = [filter_normalized(weights, random) for _ in range(2)]
        around[name] = line, along(loss, weights, directions[0], line)
        if name != "Adam, half rate":
            planes[name] = plane(loss, weights, directions, amounts)
    network, begin, train_loss = kept["Adam"]
    way = [b - a for a, b in zip(begin, kept["AngularGrad"][1])]
    shares = np.linspace(-0.5, 1.5, 9 if small else 81)
    test_loss = loss_of(network, test_x, test_y)
    between = (
        shares,
        along(train_loss, begin, way, shares),
        along(test_loss, begin, way, shares),
    )
    drawing.save(draw(between, around, planes, amounts), args.output)
    return rows


if __name__ == "__main__":
    main()
