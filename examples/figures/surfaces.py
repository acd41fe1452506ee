"""
Title: Two test surfaces
Description: Every optimizer on Rosenbrock's and Rastrigin's function, tuned alike.

    python examples/figures/surfaces.py

Each optimizer runs with every learning rate of one grid, half-decades from 1e-6 to 30,
for the same number of steps from the same start. The rate with the lowest mean loss
over the last tenth of the steps is drawn; only the loss is used, not where the minimum
is. (A mean, so that an optimizer that swings through the minimum does not win by
chance.)

Two numbers are no convolution kernel: what WGD's optimizers do here is what their bases
do, and the test of this script says so. On Rastrigin's function, whose dozens of minima
surround the global one at the origin, a tuned rate is also a lucky rate: one long first
step can land in the right hollow.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import math

import numpy as np
from figures import drawing
from keras import ops
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from studies.fashion_mnist import half_decade

"""
## The surfaces
"""


def rosenbrock(p):
    """`(1 - x)^2 + 100 (y - x^2)^2`; the minimum is 0, at (1, 1)."""
    x, y = p[..., 0], p[..., 1]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(p):
    """Of a tensor of shape `(2,)`."""
    x, y = p[0], p[1]
    return ops.stack([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)])


def rastrigin(p):
    """`20 + sum of p_i^2 - 10 cos(2 pi p_i)`; the minimum is 0, at (0, 0)."""
    return 20 + ops.sum(p**2 - 10 * ops.cos(2 * math.pi * p), axis=-1)


def rastrigin_gradient(p):
    """Of a tensor of shape `(2,)`."""
    return 2 * p + 20 * math.pi * ops.sin(2 * math.pi * p)


# function, gradient, start, minimum, and the part that is drawn
SURFACES = {
    "Rosenbrock": (
        rosenbrock,
        rosenbrock_gradient,
        (-2.0, 2.0),
        (1.0, 1.0),
        ((-2.4, 2.4), (-1.4, 3.4)),
    ),
    "Rastrigin": (
        rastrigin,
        rastrigin_gradient,
        (-2.0, 3.5),
        (0.0, 0.0),
        ((-4.5, 4.5), (-4.5, 4.5)),
    ),
}
OPTIMIZERS = ["SGD", "Adam", *drawing.NAMED]
OPTIMIZERS.insert(OPTIMIZERS.index("AngularGrad") + 1, "AngularGrad tan")
RATES = [half_decade(index) for index in range(-6, 10)]
STEPS = 500


def height(surface, points):
    """The surface at points of shape `(..., 2)`, as an array."""
    function = SURFACES[surface][0]
    return ops.convert_to_numpy(function(ops.convert_to_tensor(points, "float64")))


"""
## The search
"""


def score(losses):
    """Mean loss over the last tenth of the steps; infinite if it diverged."""
    value = np.mean(losses[-max(1, len(losses) // 10) :])
    return float(value) if np.isfinite(value) else math.inf


def search(surface, name, rates=RATES, steps=STEPS):
    """The rate with the lowest score: `(rate, score, path)`."""
    _, gradient, start, _, _ = SURFACES[surface]
    with drawing.float64(), np.errstate(all="ignore"):
        descent = drawing.Descent(drawing.make(name, rates[0]), gradient, start, steps)
        runs = []
        for rate in rates:
            path = descent(rate)
            runs.append((rate, score(height(surface, path)), path))
    return min(runs, key=lambda run: run[1])


"""
## Drawing
"""


def draw_path(axis, surface, name, run):
    """One optimizer's path over the contours."""
    rate, value, path = run
    _, _, start, lowest, (wide, high) = SURFACES[surface]
    x, y = np.linspace(*wide, 241), np.linspace(*high, 241)
    z = height(surface, np.stack(np.meshgrid(x, y), axis=-1))
    if surface == "Rosenbrock":
        z, levels = np.maximum(z, 0.01), np.geomspace(0.05, 3000, 16)
        axis.contour(
            x, y, z, levels, norm=LogNorm(0.01, 3000), cmap="Greys", linewidths=0.6
        )
    else:
        axis.imshow(z, extent=(*wide, *high), origin="lower", cmap="Greys", alpha=0.6)
    color = drawing.COLORS[name]
    axis.plot(*path.T, color=color, linewidth=1.1, marker=".", markersize=2.5)
    axis.plot(*start, "o", color="white", markeredgecolor="black", markersize=5)
    axis.plot(*lowest, "*", color="#F0E442", markeredgecolor="black", markersize=11)
    axis.plot(*path[-1], "s", color=color, markeredgecolor="black", markersize=5)
    axis.set(xlim=wide, ylim=high)
    axis.set_title(f"{name}\nrate {rate:g}, loss {value:.2g}", size=8.5)
    axis.tick_params(labelsize=6)


def draw(found):
    """Seven panels a row, one block of rows a surface."""
    columns = 7
    rows = math.ceil(max(map(len, found.values())) / columns)
    figure = Figure(figsize=(13, 2.2 * rows * len(found) + 0.9), layout="constrained")
    blocks = figure.subfigures(len(found), 1)
    for block, (surface, runs) in zip(np.atleast_1d(blocks), found.items()):
        axes = block.subplots(rows, columns, sharex=True, sharey=True).ravel()
        for axis, (name, run) in zip(axes, runs.items()):
            draw_path(axis, surface, name, run)
        for axis in axes[len(runs) :]:
            axis.remove()
        block.suptitle(
            f"{surface}: from the circle, {len(run[2]) - 1} steps, to the square "
            "(star: the minimum); mean loss of the last tenth"
        )
    return figure


def main(arguments=None):
    """Draws the figure; prints rates, losses and ends, and returns the runs."""
    args = drawing.arguments("surfaces", __doc__, arguments)
    names, rates, steps = OPTIMIZERS, RATES, STEPS
    if args.small:
        names, rates, steps = OPTIMIZERS[::3], RATES[1::4], 100
    found, rows = {}, []
    for surface, (_, _, _, lowest, _) in SURFACES.items():
        found[surface] = {}
        for name in names:
            rate, value, path = found[surface][name] = search(
                surface, name, rates, steps
            )
            end = f"({path[-1][0]:.3f}, {path[-1][1]:.3f})"
            away = float(np.linalg.norm(path[-1] - lowest))
            edge = "yes" if rate in (rates[0], rates[-1]) else ""
            rows.append([surface, name, f"{rate:g}", value, end, away, edge])
    head = ["surface", "optimizer", "rate", "loss", "end", "distance", "rate at edge"]
    print(drawing.table(head, rows))
    drawing.save(draw(found), args.output)
    return found


if __name__ == "__main__":
    main()
