"""
Title: Equivalent loss surfaces
Description: GAF's Fig. 1: the surface whose plain gradient is the changed gradient.

    python examples/figures/equivalent_surfaces.py

The loss is the paper's eq. 28, `L = w_1^2 + 0.2 w_2^2`. The paper gives neither the
activations' scales nor the clipping thresholds of its figure; here they are those of
its experiments, alpha = 0.1, beta = 20 and a threshold of 0.1, on the square of
-1 <= w_1, w_2 <= 1.

**How a surface is obtained.** The height at w is the work against the changed gradient
g' on the way there from the minimum, `integral of g'(s w) . w ds, s from 0 to 1`, the
straight way (trapezoids, 400 a way). An activation or a clipping of each entry makes a
gradient field again, as entry n depends on w_n alone here, and any way gives the same
height. Clipping by norm does not: entry 1 then depends on w_2, the field has curl, and
no surface has it as its gradient. What is drawn for it is the surface of the straight
ways, and the table says how much the way along w_1 and then w_2, and the other way
around, disagree about the height of the corner. (The paper sees norm clipping make the
condition worse. It integrated symbolically; adding the antiderivatives of both entries
would give a surface proportional to ||g||, whose contours have 25 instead of 5.)

**Condition numbers**, for the paper's Theorem 3 ("the GAF decreases the condition
number"), three ways:

- zeta = l / c by its Definitions 2 and 3: the largest and the smallest ratio of a
  difference of gradients to the distance, over the square. They are the largest and
  the smallest singular value of the field's Jacobian, which are computed on a grid.
- at the minimum: the ratio of the curvatures there.
- of the contour through (1, 0): (length along w_2 / length along w_1)^2, which is zeta
  for a quadratic. This is what one sees in the paper's figure.

The theorem supposes that the gradient's slope is larger where the gradient is large, in
the loss (strictly, which eq. 28, a quadratic, does not meet) and still so after the
activation, which flattens large gradients. So it does not apply to eq. 28. The second
table is of a loss to which it applies with arctan, `-sum of ln cos(k_n w_n) / 30`
(k = 1.4, 1.2): its gradient tan(k_n w_n) k_n / 30 grows faster than arctan flattens
it. (tanh flattens faster.)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from figures import drawing
from keras import ops
from matplotlib.figure import Figure

from keras_gradopt.transforms import Activate

"""
## Fields: what an optimizer would get as gradient at each point
"""

THRESHOLD = 0.1


def clip_by_value(g):
    """Each entry within the threshold."""
    return ops.where(ops.abs(g) > THRESHOLD, THRESHOLD * ops.sign(g), g)


def clip_by_norm(g):
    """The whole gradient shortened to the threshold."""
    norm = ops.sqrt(ops.sum(g**2, axis=-1, keepdims=True))
    # ops.maximum and ops.clip round to float32 on some backends
    return g * ops.where(norm > THRESHOLD, THRESHOLD / norm, 1.0)


CHANGES = {
    "original": lambda g: g,
    "arctan GAF": Activate("arctan"),
    "tanh GAF": Activate("tanh"),
    "log GAF": Activate("log"),
    "clipping by value": clip_by_value,
    "clipping by norm": clip_by_norm,
}


def quadratic_gradient(w):
    """Of eq. 28, `w_1^2 + 0.2 w_2^2`, at points of shape `(..., 2)`."""
    return w * np.array([2.0, 0.4])


STEEPNESS = np.array([1.4, 1.2])


def steep_gradient(w):
    """Of `-sum of ln cos(k_n w_n) / 30`, at points of shape `(..., 2)`."""
    return np.tan(STEEPNESS * w) * STEEPNESS / 30


def changed(change, gradient):
    """The changed gradient at points of shape `(..., 2)`, as a float64 array."""

    def field(w):
        g = ops.convert_to_tensor(gradient(np.asarray(w)), "float64")
        return ops.convert_to_numpy(CHANGES[change](g))

    return field


"""
## Heights: the work against the field
"""


def work(field, begin, end, pieces=400):
    """The line integral of a field from `begin` to `end`, points `(..., 2)`."""
    way = np.subtract(end, begin)
    s = np.linspace(0, 1, pieces + 1).reshape(-1, *[1] * way.ndim)
    along = np.sum(field(begin + s * way) * way, axis=-1)
    return np.trapezoid(along, dx=1 / pieces, axis=0)


def surface(field, points, pieces=400):
    """Heights over the minimum at the origin, by straight ways."""
    return work(field, np.zeros(2), points, pieces)


def disagreement(field):
    """Relative difference of two ways to the corner (1, 1), each along the axes."""
    origin, corner = np.zeros(2), np.ones(2)
    first, second = (
        work(field, origin, turn) + work(field, turn, corner)
        for turn in (np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    )
    return float(abs(first - second) / max(first, second))


"""
## Condition numbers
"""


def jacobians(field, points, step=1e-6):
    """Of a field at points of shape `(count, 2)`: `(count, 2, 2)`, by differences."""
    columns = [
        (field(points + step * axis) - field(points - step * axis)) / (2 * step)
        for axis in np.eye(2)
    ]
    return np.stack(columns, axis=-1)


def extreme_slopes(field, size=161):
    """The paper's l and c on the square: a grid that includes minimum and corners."""
    line = np.linspace(-1, 1, size)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    values = np.linalg.svd(jacobians(field, points), compute_uv=False)
    smallest = values.min()
    # differences of what clipping made constant are 0 but for rounding
    return float(values.max()), float(smallest if smallest > 1e-9 else 0.0)


def at_minimum(field):
    """Ratio of the largest to the smallest curvature at the origin."""
    values = np.linalg.svd(jacobians(field, np.zeros((1, 2)))[0], compute_uv=False)
    return float(values[0] / values[1])


def of_contour(field):
    """Squared ratio of the lengths of the contour through (1, 0) along the axes."""
    level = surface(field, np.array([1.0, 0.0]))
    low, high = 0.0, 1.0
    while surface(field, np.array([0.0, high])) < level:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        below = surface(field, np.array([0.0, middle])) < level
        low, high = (middle, high) if below else (low, middle)
    return float(high**2)


def conditions(gradient, contour=True):
    """`{change: (l, c, zeta, at the minimum, of the contour, disagreement)}`."""
    found = {}
    for change in CHANGES:
        field = changed(change, gradient)
        largest, smallest = extreme_slopes(field)
        zeta = largest / smallest if smallest else float("inf")
        shape = of_contour(field) if contour else float("nan")
        found[change] = (
            largest, smallest, zeta, at_minimum(field), shape, disagreement(field)
        )  # fmt: skip
    return found


"""
## Drawing
"""


def draw(heights, line, numbers):
    """Surfaces, each over its contours, three side by side."""
    figure = Figure(figsize=(10, 12.5), layout="constrained")
    x, y = np.meshgrid(line, line)
    for number, (change, z) in enumerate(heights.items()):
        place = number % 3 + 6 * (number // 3) + 1
        upper = figure.add_subplot(4, 3, place, projection="3d")
        upper.plot_surface(x, y, z, cmap="cividis", linewidth=0, antialiased=True)
        upper.set_title(change, size=11)
        upper.set_xlabel("$w_1$", labelpad=-8)
        upper.set_ylabel("$w_2$", labelpad=-8)
        upper.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        upper.tick_params(labelsize=7, pad=-3)
        upper.view_init(elev=28, azim=-55)
        upper.set_box_aspect(None, zoom=1.25)
        lower = figure.add_subplot(4, 3, place + 3)
        lower.contourf(x, y, z, 14, cmap="cividis")
        lower.contour(x, y, z, 14, colors="white", linewidths=0.5)
        _, _, zeta, center, shape, _ = numbers[change]
        lower.set_title(
            f"condition numbers: of slopes {zeta:.4g},\n"
            f"at the minimum {center:.2g}, of the contour {shape:.2g}",
            size=9,
        )
        lower.set(xlabel="$w_1$", aspect="equal")
        lower.set_ylabel("$w_2$", labelpad=-4)
        lower.tick_params(labelsize=7)
    figure.suptitle(
        "Equivalent loss surfaces of $w_1^2 + 0.2 w_2^2$: GAF (0.1, 20), clipping at "
        "0.1\n(clipping by norm has none: work on straight ways from the minimum)"
    )
    return figure


def main(arguments=None):
    """Draws the figure; prints and returns the condition numbers of both losses."""
    args = drawing.arguments("equivalent_surfaces", __doc__, arguments)
    line = np.linspace(-1, 1, 21 if args.small else 101)
    points = np.stack(np.meshgrid(line, line), -1)
    heights = {
        change: surface(changed(change, quadratic_gradient), points)
        for change in CHANGES
    }
    numbers = {
        "w_1^2 + 0.2 w_2^2": conditions(quadratic_gradient),
        "-sum ln cos(k_n w_n) / 30": conditions(steep_gradient, contour=False),
    }
    head = ["gradient", "l", "c", "zeta = l / c", "at the minimum", "of the contour"]
    head.append("two ways disagree")
    for loss, found in numbers.items():
        print(f"\n{loss}\n")
        print(drawing.table(head, [[change, *row] for change, row in found.items()]))
    drawing.save(draw(heights, line, numbers["w_1^2 + 0.2 w_2^2"]), args.output)
    return numbers


if __name__ == "__main__":
    main()
