"""
Title: Norms of gradients during training
Description: AdaNorm's Fig. 3 and AdaL's Fig. 1-2, on digits.

    python examples/figures/gradient_norms.py

A small convolutional network learns scikit-learn's digits, and a `GradientMonitor`
notes the norm of each variable's gradient in each step.

Upper row, as AdaNorm's Fig. 3: the L2 norm, mean over the variables, with and without
the correction. The paper says that its optimizers have the larger "gradient norm",
which may mean two things, so both are drawn: the norm of the gradient g at the place to
which the optimizer has come, and that of the corrected gradient s, which the first
moment takes and which is longer by construction.

Lower row, as AdaL's Fig. 1 and 2: the L1 norm, by which AdaL multiplies, of single
variables. The paper assumes that it "is decreasing with oscillation".

Learning rates are the papers' 0.001, and 0.01 for SGD with momentum 0.9; each optimizer
begins with the same weights and sees the same batches of 64. Thin lines are steps,
thick lines means over an epoch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from figures import drawing
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from keras_gradopt.callbacks import GradientMonitor

"""
## Training
"""

PAIRS = [
    ("Adam", "AdamNorm"),
    ("DiffGrad", "DiffGradNorm"),
    ("RAdam", "RAdamNorm"),
    ("AdaBelief", "AdaBeliefNorm"),
]
OF_ADAL = ["SGD", "Adam", "AdaL"]
VARIABLES = {
    "first_convolution/kernel": "first convolution, kernel",
    "second_convolution/kernel": "second convolution, kernel",
    "dense/kernel": "dense layer, kernel",
    "dense/bias": "dense layer, bias",
}


def norms(name, images, labels, epochs, seed=0, run_eagerly=False):
    """Trains with one optimizer.

    Returns:
        `{variable: {"l1", "l2", "corrected": arrays over the steps}}`, where
        `corrected` is the L2 norm of what the transforms made of the gradient.
    """
    rate = 0.01 if name == "SGD" else 0.001
    network = drawing.small_network(drawing.make(name, rate), seed, run_eagerly)
    monitor = GradientMonitor(every=1, group_by="variable")
    network.fit(
        images, labels, batch_size=64, epochs=epochs, verbose=0, callbacks=[monitor]
    )
    found = {}
    for row in monitor.records:
        own = found.setdefault(row["group"], {"l1": [], "l2": [], "corrected": []})
        gains = [value for key, value in row.items() if key.endswith(".gain")]
        own["l1"].append(row["gradient_l1"])
        own["l2"].append(row["gradient_l2"])
        # a zero gradient has no gain, and stays zero
        own["corrected"].append(np.nan_to_num(row["gradient_l2"] * np.prod(gains)))
    return {v: {k: np.array(x) for k, x in own.items()} for v, own in found.items()}


def mean_over_variables(found, key):
    """The mean of a norm over the variables, in each step."""
    return np.mean([own[key] for own in found.values()], axis=0)


def smooth(values, window):
    """Means over as many steps, and the steps in their middles."""
    window = min(window, len(values))
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    return np.arange(len(means)) + 1 + (window - 1) / 2, means


"""
## Drawing
"""


def draw_line(axis, values, window, label, width=1.6, **look):
    """Steps as a thin line, means over an epoch as a thick one."""
    steps = np.arange(1, len(values) + 1)
    axis.plot(steps, values, linewidth=0.4, alpha=0.25, color=look["color"])
    axis.plot(*smooth(values, window), linewidth=width, label=label, **look)


def draw(found, pairs, window):
    """Pairs of AdaNorm over variables of AdaL."""
    figure = Figure(figsize=(10, 12), layout="constrained")
    axes = figure.subplots(4, 2, sharex=True)
    upper, lower = axes[:2].ravel(), axes[2:].ravel()
    for axis, (base, normed) in zip(upper, pairs):
        for name, key, label, width, style in (
            (base, "l2", f"{base}: $g$", 3.5, "-"),
            (normed, "l2", f"{normed}: $g$", 1.6, "-"),
            (normed, "corrected", f"{normed}: $s$, corrected", 1.6, (0, (3, 1.5))),
        ):
            draw_line(
                axis, mean_over_variables(found[name], key), window, label, width,
                color=drawing.COLORS[name], linestyle=style,
            )  # fmt: skip
        axis.set_title(f"{base} and {normed}", size=10.5)
        axis.set(ylabel="L2 norm, mean over variables", ylim=(0, None))
        axis.legend(fontsize=8)
    for axis, (variable, title) in zip(lower, VARIABLES.items()):
        for name in OF_ADAL:
            (values,) = (
                own["l1"] for path, own in found[name].items() if variable in path
            )
            draw_line(axis, values, window, name, color=drawing.COLORS[name])
        axis.set_title(title, size=10.5)
        axis.set(ylabel="L1 norm", yscale="log")
        axis.legend(fontsize=8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    for axis in axes.ravel():
        axis.set(xlabel="step")
        axis.grid(alpha=0.25)
    figure.suptitle(
        "Gradient norms on digits: AdaNorm's pairs (above), what AdaL multiplies by "
        "(below)"
    )
    return figure


def main(arguments=None):
    """Draws the figure; prints ratios of norms, and returns all of them."""
    args = drawing.arguments("gradient_norms", __doc__, arguments)
    images, labels, _, _ = drawing.digits()
    epochs, pairs = 20, PAIRS
    if args.small:
        images, labels, epochs, pairs = images[:128], labels[:128], 1, PAIRS[:1]
    window = -(-len(images) // 64)
    found = {
        name: norms(name, images, labels, epochs, run_eagerly=args.small)
        for name in dict.fromkeys([*sum(pairs, ()), *OF_ADAL])
    }

    def of(name, key):
        return mean_over_variables(found[name], key)[-window:].mean()

    rows = []
    for base, normed in pairs:
        raw, plain, corrected = (
            of(base, "l2"),
            of(normed, "l2"),
            of(normed, "corrected"),
        )
        rows.append([base, raw, plain, corrected, plain / raw, corrected / plain])
    head = ["base", "g", "g with AdaNorm", "s", "ratio of the g", "s / g"]
    print("Mean L2 norm in the last epoch\n")
    print(drawing.table(head, [[a, *map(float, b)] for a, *b in rows]))
    rows = []
    for name in OF_ADAL:
        for path, own in found[name].items():
            first, last = own["l1"][:window].mean(), own["l1"][-window:].mean()
            path = path.partition("/")[2]
            rows.append([name, path, float(first), float(last), float(first / last)])
    head = ["optimizer", "variable", "first epoch", "last epoch", "first / last"]
    print("\nL1 norm\n")
    print(drawing.table(head, rows))
    drawing.save(draw(found, pairs, window), args.output)
    return found


if __name__ == "__main__":
    main()
