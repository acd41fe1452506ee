"""
Title: What each method multiplies by
Description: Coefficients, gains and schedules, from the package's own equations.

    python examples/figures/coefficients.py

Every curve is what a function of `keras_gradopt.equations` returns (NosAdam's weights
come from the optimizer, which has the only copy of them).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from figures import drawing
from keras import ops
from matplotlib.figure import Figure

import keras_gradopt
from keras_gradopt import equations

"""
## Curves
"""


def tensor(values):
    """A float64 tensor."""
    return ops.convert_to_tensor(np.asarray(values, "float64"))


def array(values):
    """A NumPy array."""
    return ops.convert_to_numpy(values)


def angular(gradient, previous, angle):
    """AngularGrad's coefficient, default weights, without an earlier angle."""
    ratio = equations.angular_ratio(tensor(gradient), tensor(previous))
    before = tensor(np.full(np.shape(gradient), np.inf))
    return array(equations.angular_friction(ratio, before, angle, 0.5, 0.5))


def difference(gradient, previous):
    """diffGrad's coefficient."""
    return array(equations.difference_friction(tensor(gradient), tensor(previous)))


def norm_gain(norms, average, gamma=0.95):
    """AdaNorm's `||s|| / ||g||` for gradients of these norms after an average norm."""
    direction = np.array([0.6, -0.8])
    gains = []
    for norm in norms:
        corrected, _ = equations.norm_correction(
            tensor(norm * direction), tensor(average), gamma
        )
        gains.append(np.linalg.norm(array(corrected)) / norm)
    return np.array(gains)


def activated(gradient, activation, alpha=0.1, beta=20.0):
    """GAF's activated gradient."""
    return array(
        equations.gradient_activation(tensor(gradient), activation, alpha, beta)
    )


def l1_gain(sizes, entries):
    """AdaL's factor for tensors of `entries` entries, each of one of these sizes."""
    signs = np.resize([1.0, -1.0], entries)
    return np.array(
        [array(equations.l1_scaling(tensor(s * signs)))[0] / s for s in sizes]
    )


def rectification(steps, beta_2, threshold=4.0):
    """RAdam's r over the steps, NaN where it is not rectified (a momentum step)."""
    rectified, r = equations.rectification(tensor(steps), beta_2, threshold)
    return np.where(array(rectified), array(r), np.nan)


def nosadam_decay(steps, gamma):
    """NosAdam's `beta_2,t = B_{t-1} / B_t` for steps 1, 2, ... without a gap."""
    scalars = keras_gradopt.NosAdam(gamma=gamma).step_scalars(tensor(steps))
    weights = array(scalars["weight"])
    return 1 - weights / np.cumsum(weights)


def adam_decay(steps, beta_2):
    """The same number for Adam: the weight of `v_hat_{t-1}` in `v_hat_t`."""
    now = array(equations.bias_correction(beta_2, tensor(steps)))
    return 1 - (1 - beta_2) / now


def removed_energy(shares, kernels, mean_over, seed=0):
    """Share of the squared norm that WGD takes from 3x3x16 kernels' gradients.

    Args:
        shares: share of the energy that is common to what is averaged: all kernels
            (`"kernels"`) or all entries of a kernel (`"entries"`).
        kernels: how many kernels the layer has.
        mean_over: as WGD's argument.
        seed: of the normal noise that makes up the gradients.
    """
    random = np.random.default_rng(seed)
    shape = (3, 3, 16, kernels)
    axes = (3,) if mean_over == "kernels" else (0, 1, 2)
    one = [1 if axis in axes else size for axis, size in enumerate(shape)]
    own, shared = random.standard_normal(shape), random.standard_normal(one)
    own, shared = own / np.sqrt(np.mean(own**2)), shared / np.sqrt(np.mean(shared**2))
    removed = []
    for share in shares:
        gradient = np.sqrt(share) * shared + np.sqrt(1 - share) * own
        white = array(equations.whiten(tensor(gradient), axes))
        removed.append(1 - np.sum(white**2) / np.sum(gradient**2))
    return np.array(removed)


"""
## Drawing
"""

RELEASED = {"color": "#444444", "linestyle": ":", "linewidth": 2}


def draw_frictions(axis, points):
    """Coefficients of a first gradient, or of one after a gradient of zero."""
    change = np.geomspace(1e-4, 1e3, points)
    zero = np.zeros(points)
    for name, values in (
        ("AngularGrad", angular(change, zero, "cos")),
        ("AngularGrad tan", angular(change, zero, "tan")),
        ("DiffGrad", difference(change, zero)),
    ):
        title = {"AngularGrad": "AngularGrad cos", "DiffGrad": "diffGrad"}
        axis.plot(
            change, values, color=drawing.COLORS[name], label=title.get(name, name)
        )
    axis.axhline(0.5, label="released AngularGrad", **RELEASED)
    axis.set(
        xscale="log", xlabel="$|g_t|$ after $g_{t-1} = 0$", ylim=(0.46, 1.22),
        ylabel="coefficient of the step",
    )  # fmt: skip
    axis.set_title("Frictions: small gradients all look alike")


def draw_pairs(axis, points):
    """AngularGrad's coefficient where the previous gradient is not zero."""
    gradient = np.linspace(-3, 3, points)
    for previous, style in ((1.0, "-"), (0.1, "--")):
        for name, angle in (("AngularGrad", "cos"), ("AngularGrad tan", "tan")):
            values = angular(gradient, np.full(points, previous), angle)
            axis.plot(
                gradient, values, style, color=drawing.COLORS[name],
                label=f"{angle}, $g_{{t-1}}$ = {previous:g}",
            )  # fmt: skip
    axis.axhline(0.5, label="released code", **RELEASED)
    axis.set(xlabel="$g_t$", ylabel="coefficient of the step", ylim=(0.46, 1.3))
    axis.set_title("AngularGrad on pairs of gradients")


def draw_norm(axis, points):
    """AdaNorm's gain, for two averages."""
    norms = np.geomspace(1e-3, 10, points)
    for average, style in ((1.0, "-"), (0.1, "--")):
        axis.plot(
            norms, norm_gain(norms, average), style, color=drawing.COLORS["AdamNorm"],
            label=f"average norm before: {average:g}",
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel=r"$\|g\|$", ylabel=r"$\|s\| / \|g\|$")
    axis.set_title(r"AdaNorm: gain, $\gamma$ 0.95")


ACTIVATIONS = {"arctan": "#D55E00", "tanh": "#0072B2", "log": "#009E73"}


def draw_activations(axis, points):
    """GAF's activations and clipping, near zero."""
    gradient = np.linspace(-0.5, 0.5, points)
    for name, color in ACTIVATIONS.items():
        axis.plot(gradient, activated(gradient, name), color=color, label=name)
    axis.plot(
        gradient, np.clip(gradient, -0.1, 0.1), label="clipping at 0.1", **RELEASED
    )
    axis.set(xlabel="g", ylabel="activated g")
    axis.set_title("GAF: activations (0.1, 20)")


def draw_activation_gain(axis, points):
    """The same as a factor."""
    gradient = np.geomspace(1e-4, 1e2, points)
    for name, color in ACTIVATIONS.items():
        gain = activated(gradient, name) / gradient
        axis.plot(gradient, gain, color=color, label=name)
    gain = np.clip(gradient, -0.1, 0.1) / gradient
    axis.plot(gradient, gain, label="clipping at 0.1", **RELEASED)
    axis.set(xscale="log", yscale="log", xlabel="|g|", ylabel="activated g / g")
    axis.set_title("GAF: gain; small gradients double")


def draw_l1(axis, points):
    """AdaL's factor, for tensors of three sizes."""
    sizes = np.geomspace(1e-7, 1, max(4, points // 40))
    for entries, style in ((10, "-"), (1_000, "--"), (100_000, "-.")):
        axis.plot(
            sizes, l1_gain(sizes, entries), style, color=drawing.COLORS["AdaL"],
            label=f"{entries:,} entries",
        )  # fmt: skip
    axis.axhline(1, color="#444444", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="size of an entry", ylabel=r"$\|g\|_1$")
    axis.set_title("AdaL: factor of a tensor's gradient")


def draw_rectification(axis, points):
    """RAdam's r; where there is no line, the step is not adaptive."""
    steps = np.unique(np.geomspace(1, 1e4, points).astype(int)).astype(float)
    for beta_2, style in ((0.999, "-"), (0.99, "--"), (0.9, "-.")):
        axis.plot(
            steps, rectification(steps, beta_2), style, color=drawing.COLORS["RAdam"],
            label=rf"$\beta_2$ = {beta_2:g}",
        )  # fmt: skip
    axis.set(xscale="log", xlabel="step", ylabel="r", ylim=(0, 1.05))
    axis.set_title("RAdam: rectification (no line: momentum step)")


def draw_decays(axis, points):
    """How much of the past second moment stays, NosAdam against Adam."""
    steps = np.arange(1.0, max(100, 10 * points) + 1)
    for gamma, style in ((0.1, "-"), (0.5, "--")):
        axis.plot(
            steps[1:], 1 - nosadam_decay(steps, gamma)[1:], style,
            color=drawing.COLORS["NosAdam"], label=rf"NosAdam, $\gamma$ = {gamma:g}",
        )  # fmt: skip
    axis.plot(
        steps[1:], 1 - adam_decay(steps, 0.999)[1:], color=drawing.COLORS["Adam"],
        label=r"Adam's $\hat v$, $\beta_2$ = 0.999",
    )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="step t", ylabel=r"$1 - \beta_{2,t}$")
    axis.set_title("NosAdam: weight of the newest gradient")


def draw_removed(axis, points):
    """Share of the gradient that WGD removes."""
    shares = np.linspace(0, 1, max(5, points // 40))
    for kernels, style in ((4, "-"), (64, "--")):
        axis.plot(
            shares, removed_energy(shares, kernels, "kernels"), style,
            color=drawing.COLORS["WGDSGD"], label=f"kernels, {kernels} of them",
        )  # fmt: skip
    axis.plot(
        shares, removed_energy(shares, 64, "entries"), ":", linewidth=2,
        color=drawing.COLORS["WGDRAdam"], label="entries, 144 a kernel",
    )  # fmt: skip
    axis.set(xlabel=r"share of $\|g\|^2$ that is common")
    axis.set(ylabel=r"share of $\|g\|^2$ removed")
    axis.set_title("WGD: what whitening removes")


PANELS = [
    draw_frictions,
    draw_pairs,
    draw_norm,
    draw_activations,
    draw_activation_gain,
    draw_l1,
    draw_rectification,
    draw_decays,
    draw_removed,
]


TWO_COLUMNS = [draw_frictions, draw_pairs]


def main(arguments=None):
    """Draws the figure."""
    args = drawing.arguments("coefficients", __doc__, arguments)
    points = 40 if args.small else 600
    figure = Figure(figsize=(11.5, 9.8), layout="constrained")
    for axis, panel in zip(figure.subplots(3, 3).ravel(), PANELS):
        panel(axis, points)
        axis.title.set_size(10.5)
        axis.legend(fontsize=7.5, ncols=2 if panel in TWO_COLUMNS else 1)
        axis.grid(alpha=0.25)
    figure.suptitle("What each method multiplies by, from the package's equations")
    drawing.save(figure, args.output)


if __name__ == "__main__":
    main()
