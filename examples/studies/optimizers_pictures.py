"""The pictures of the study on optimizers."""

import itertools
import math
import textwrap
from pathlib import Path

from optimizers_report import Study
from optimizers_tasks import TITLES

FAMILIES = {
    "friction": "Adam; DiffGrad; AngularGrad; AngularGrad tan",
    "AdaNorm": (
        "Adam; AdamNorm; DiffGradNorm; RAdam; RAdamNorm; AdaBelief; AdaBeliefNorm"
    ),
    "GAF": "Adam; GAFAdam; SGD; SGD, clipped values; SGD, clipped norms; GAFSGD",
    "AdaL": "Adam; NosAdam; AMSGrad; AdaL",
    "WGD": "Adam; WGDAdam; SGD; WGDSGD; Nadam; WGDNadam; RAdam; WGDRAdam",
}


def plot_sensitivity(study: Study, path: Path) -> None:
    """Validation loss over learning rates: a row a workload, a column a method."""
    from matplotlib.figure import Figure

    rows = len(results.workloads)
    figure = Figure(figsize=(16, 3 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, len(FAMILIES), squeeze=False, sharey="row")
    for row, workload in zip(axes, results.workloads):
        best = math.inf
        for axis, (family, names) in zip(row, FAMILIES.items()):
            for i, name in enumerate(names.split("; ")):
                rates, losses = results.sensitivity(workload, name)
                best = min(best, *losses, math.inf)
                style = "--" if name in ("RAdam", "AdaBelief", "SGD", "Nadam") else "-"
                axis.plot(
                    rates, losses, style, marker=".", label=name,
                    color="0.6" if name == "Adam" else f"C{i - 1}",
                    linewidth=3 if name == "Adam" else 1.2,
                )  # fmt: skip
            axis.set(xscale="log", yscale="log")
            axis.grid(alpha=0.3)
            if axis in axes[0]:
                axis.set_title(family)
            if axis in axes[-1]:
                axis.set_xlabel("learning rate")
                axis.legend(
                    fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.25)
                )
        row[0].set_ylabel(f"{TITLES[workload]}\nvalidation loss")
        if math.isfinite(best):
            row[0].set_ylim(0.9 * best, 8 * best)
    figure.savefig(path, dpi=90)


def plot_differences(study: Study, path: Path) -> None:
    """Paired differences with intervals, in per cent of the other's loss.

    Narrow, with large letters: it is read on phones, too.
    """
    from matplotlib.figure import Figure

    found = {workload: results.comparisons(workload) for workload in results.workloads}
    groups: dict[str, dict[str, None]] = {"Adam": {}}  # against -> optimizers, in order
    for row in itertools.chain(*found.values()):
        groups.setdefault(row["against"], {})[row["optimizer"]] = None
    lines = [
        (optimizer, against)
        for against, optimizers in groups.items()
        for optimizer in (None, *optimizers)  # None: the group's title
    ]
    width, height = 4.5, 1.75 + 0.135 * len(lines)
    figure = Figure(figsize=(width, height))
    room = {"left": 1.5 / width, "right": 1 - 0.12 / width, "wspace": 0.1}
    room |= {"bottom": 0.65 / height, "top": 1 - 1.1 / height}
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True, gridspec_kw=room)[
        0
    ]
    colors = {"better": "C0", "worse": "C3", "no detectable difference": "0.6"}
    for axis, (workload, rows) in zip(axes, found.items()):
        for row in rows:
            if row["verdict"] == "diverged":
                continue
            other = results.column(workload, row["against"], "test_loss").mean()
            middle, low, high = (100 * row[k] / other for k in ("mean", "low", "high"))
            axis.errorbar(
                middle, lines.index((row["optimizer"], row["against"])),
                xerr=[[middle - low], [high - middle]], fmt="|", markersize=6,
                markeredgewidth=1.3, linewidth=1.8, color=colors[row["verdict"]],
            )  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.5)
        title = textwrap.fill(TITLES[workload], 14)
        axis.set_title(title, size=7.5, rotation=90)
        axis.set_xscale("symlog", linthresh=10)
        widest = 1.3 * max(20.0, *map(abs, axis.get_xlim()))
        tick = next(tick for tick in (1000, 100, 10) if tick <= widest)
        axis.set_xticks([-tick, 0, tick], ["", "", f"+{tick}"])
        axis.set_xticks([], minor=True)
        axis.set_xlim(-widest, widest)
        axis.tick_params(labelsize=6.2, length=0, pad=2)
        axis.grid(alpha=0.3)
    labels = [optimizer or f"vs {against}" for optimizer, against in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for (optimizer, _), label in zip(lines, axes[0].get_yticklabels()):
        label.set(size=7.5, weight="normal" if optimizer else "bold")
    figure.text(
        0.02, 0.02,
        "Difference of test loss with 95 % interval, in % of the other's;\n"
        "linear to 10, logarithmic beyond; the black line is 0.\n"
        "Blue: better, red: worse, grey: no detectable difference",
        size=7.5,
    )  # fmt: skip
    figure.savefig(path, dpi=200)
