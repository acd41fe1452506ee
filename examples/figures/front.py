"""
Title: The picture of the front page
Description: Two losses that fall, and what the monitor saw meanwhile.

    python examples/figures/front.py

RAdamNorm, and a copy that is inert as released code is (see alive.py): its average norm
begins at 0 at every step, so its correction never fires.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from figures import alive, drawing
from matplotlib.figure import Figure


def draw(found):
    """Losses to the left, angles to the base's updates to the right."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, (monitor, losses)), style, color in zip(
        found.items(), ("-", "--"), ("#0072B2", "#D55E00")
    ):
        epochs = range(1, len(losses) + 1)
        left.plot(epochs, losses, style, marker="o", color=color, label=name)
        label = alive.in_short(monitor.verdict)
        right.plot(*monitor.series("effect_angle"), style, color=color, label=label)
    left.set(xlabel="epoch", xticks=epochs, title="The loss falls with both")
    left.set_ylabel("training loss")
    right.set(xlabel="step", title="One does something, the other is its base")
    right.set_ylabel("update, angle to the base's (rad)")
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.legend()
    return figure


def main(arguments=None):
    """Draws the figure, and prints what it shows."""
    args = drawing.arguments("front", __doc__, arguments)
    images, labels, epochs = alive.training(args.small)
    _, (real, inert), _ = alive.PAIRS
    found = {}
    for cls, name in ((real, "RAdamNorm"), (inert, "a copy that does nothing")):
        found[name] = monitor, losses = alive.monitored(cls(), images, labels, epochs)
        print(f"{name}: loss {losses[-1]:.3f}, {alive.in_short(monitor.verdict)}")
    drawing.save(draw(found), args.output)


if __name__ == "__main__":
    main()
