"""
Title: Three functions of one number
Description: AngularGrad's Fig. 2: where optimizers settle that start at -1.

    python examples/figures/toy_functions.py

The settings are the paper's (section 5): beta_1 0.95, beta_2 0.999, learning rate 0.1,
theta_0 = -1, 300 iterations, moments and previous gradient 0 at first. SGDM is its eq.
1-2, `m <- gamma m + (1 - gamma) g`, `theta <- theta - alpha m`; it does not print
gamma, so gamma is the first moment's decay, 0.95, that all its optimizers share. Keras'
SGD has no factor 1 - gamma, and gets the learning rate alpha (1 - gamma) to be the
same. The table also has Keras' own form at the rate alpha, as the paper's text about
SGDM (the lowest point of F1, not of F2) fits that one.

"Adam, half rate" is a control: AngularGrad's coefficient is between 0.5 and 1, and
0.5 where gradients do not change (tan), so what half a rate does needs no angle.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from figures import drawing
from keras import ops
from matplotlib.figure import Figure

"""
## The functions, eq. 36-38, and their derivatives

At a kink the derivative is that of the piece to which the paper gives the point.
"""


def piecewise(x, bounds, pieces):
    """`pieces[i](x)` up to and with `bounds[i]`; the last one beyond all bounds."""
    value = pieces[-1](x)
    for bound, piece in reversed(list(zip(bounds, pieces))):
        value = ops.where(x <= bound, piece(x), value)
    return value


def constant(number):
    """A piece with this derivative everywhere."""
    return lambda x: number * ops.ones_like(x)


FUNCTIONS = {
    "F1": (
        [0.0],
        [lambda x: (x + 0.3) ** 2, lambda x: (x - 0.2) ** 2 + 0.05],
        [lambda x: 2 * (x + 0.3), lambda x: 2 * (x - 0.2)],
    ),
    "F2": (
        [-0.9],
        [lambda x: -40 * x - 35.15, lambda x: x**3 + x * ops.sin(8 * x) + 0.85],
        [
            constant(-40.0),
            lambda x: 3 * x**2 + ops.sin(8 * x) + 8 * x * ops.cos(8 * x),
        ],
    ),
    "F3": (
        [-0.5, -0.4, 0.0, 0.4, 0.5],
        [
            lambda x: x**2,
            lambda x: 0.75 + x,
            lambda x: -7 * x / 8,
            lambda x: 7 * x / 8,
            lambda x: 0.75 - x,
            lambda x: x**2,
        ],
        [
            lambda x: 2 * x,
            constant(1.0),
            constant(-7 / 8),
            constant(7 / 8),
            constant(-1.0),
            lambda x: 2 * x,
        ],
    ),
}


def loss(name, x):
    """F1, F2 or F3 of a float64 tensor or array."""
    bounds, pieces, _ = FUNCTIONS[name]
    return piecewise(ops.convert_to_tensor(x, "float64"), bounds, pieces)


def slope(name, x):
    """Its derivative."""
    bounds, _, slopes = FUNCTIONS[name]
    return piecewise(ops.convert_to_tensor(x, "float64"), bounds, slopes)


"""
## Running
"""

RATE, START, STEPS = 0.1, -1.0, 300
ADAM = {"beta_1": 0.95, "beta_2": 0.999}
TITLES = {
    "SGD": "SGDM",
    "Adam": "Adam",
    "DiffGrad": "diffGrad",
    "AdaBelief": "AdaBelief",
    "AngularGrad": "AngularGrad cos",
    "AngularGrad tan": "AngularGrad tan",
    "Adam, half rate": "Adam at half rate (control)",
}
UNDAMPED = "SGDM without the factor 1 - gamma"


def optimizer(name):
    """One of `TITLES`, or `UNDAMPED`, with the paper's settings."""
    if name == UNDAMPED:
        return drawing.make("SGD", RATE, momentum=ADAM["beta_1"])
    if name == "SGD":
        return drawing.make("SGD", RATE * (1 - ADAM["beta_1"]), momentum=ADAM["beta_1"])
    return drawing.make(name, RATE, **ADAM)


def paths(function, steps=STEPS):
    """theta_0 to theta_steps for every optimizer on one function."""
    with drawing.float64():
        return {
            name: drawing.Descent(
                optimizer(name), lambda x: slope(function, x), [START], steps
            )()[:, 0]
            for name in [*TITLES, UNDAMPED]
        }


def minimum(function):
    """The lowest point on [-1, 1], by trying 200,001 points."""
    x = np.linspace(-1, 1, 200_001)
    y = ops.convert_to_numpy(loss(function, x))
    return x[y.argmin()], y.min() + 0.0  # and not -0


def settled(function, thetas, tail=50):
    """Loss at the end, and how far theta still moves over the last steps."""
    value = float(ops.convert_to_numpy(loss(function, thetas[-1:]))[0])
    return value, float(np.ptp(thetas[-tail:]))


"""
## Drawing
"""


def draw(found):
    """Function, loss over the iterations, theta over the iterations."""
    figure = Figure(figsize=(11, 2.8 * len(found) + 0.6), layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False)
    for (shape, losses, thetas), (function, lines) in zip(grid, found.items()):
        x = np.linspace(-1.02, 1.02, 2000)
        shape.plot(x, ops.convert_to_numpy(loss(function, x)), color="#444444")
        lowest, _ = minimum(function)
        thetas.axhline(lowest, color="#444444", linestyle=":", linewidth=1)
        for number, (name, title) in enumerate(TITLES.items()):
            path = lines[name]
            values = ops.convert_to_numpy(loss(function, path))
            control = name == "Adam, half rate"
            look = {
                "color": drawing.COLORS[name],
                "linestyle": (0, (4, 2)) if control else "-",
                "linewidth": 3 - 0.25 * number,  # what comes later is above
            }
            losses.plot(np.maximum(values, 1e-12), label=title, **look)
            thetas.plot(path, **look)
            # where it ends, one row of marks a method, so that none hides another
            height = shape.get_ylim()[1]
            shape.plot(
                path[-1], values[-1] + (0.1 + 0.055 * number) * height, "v",
                color=look["color"], markersize=7, clip_on=False,
            )  # fmt: skip
        shape.set(xlabel=r"$\theta$", ylabel=rf"{function}($\theta$)")
        shape.set_title(f"{function}; marks above: where each ends", size=10)
        losses.set(xlabel="iteration", ylabel="loss", yscale="log")
        losses.set_title(f"{function}: loss (log scale)", size=10)
        thetas.set(xlabel="iteration", ylabel=r"$\theta$")
        thetas.set_title(rf"{function}: $\theta$ (dotted: the lowest point)", size=10)
        for axis in (shape, losses, thetas):
            axis.grid(alpha=0.25)
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(
        "Three functions, by the equations: start $-1$, learning rate 0.1, "
        r"$\beta_1$ 0.95, $\beta_2$ 0.999"
    )
    return figure


def main(arguments=None):
    """Draws the figure; prints where each optimizer settles and returns the paths."""
    args = drawing.arguments("toy_functions", __doc__, arguments)
    functions, steps = (["F2"], 60) if args.small else (FUNCTIONS, STEPS)
    found = {name: paths(name, steps) for name in functions}
    rows = []
    for function, lines in found.items():
        lowest, value = minimum(function)
        rows.append([function, "(the lowest point)", f"{lowest:.4f}", value, ""])
        for name, path in lines.items():
            end, moving = settled(function, path)
            title = TITLES.get(name, name)
            rows.append([function, title, f"{path[-1]:.4f}", end, moving])
    head = ["function", "optimizer", "theta", "loss", "range of the last 50 thetas"]
    print(drawing.table(head, rows))
    drawing.save(draw(found), args.output)
    return found


if __name__ == "__main__":
    main()
