"""The pictures of the study on optimizers."""

import math
import textwrap
from pathlib import Path

from optimizers_entries import EXPLORATORY
from optimizers_report import Study
from optimizers_tasks import TITLES

COLUMNS = {
    "friction": "Adam; DiffGrad; AngularGrad; AngularGrad tan",
    "AdaNorm": (
        "Adam; AdamNorm; DiffGradNorm; RAdam; RAdamNorm; AdaBelief; AdaBeliefNorm"
    ),
    "GAF": "Adam; GAFAdam; SGD; SGD, clipped values; SGD, clipped norms; GAFSGD",
    "AdaL": "Adam; NosAdam; AMSGrad; AdaL",
    "WGD": "Adam; WGDAdam; SGD; WGDSGD; Nadam; WGDNadam; RAdam; WGDRAdam",
}
COLORS = {"better": "C0", "worse": "C3", "equivalent": "C2", "undecided": "0.6"}


def plot_sensitivity(study: Study, path: Path) -> None:
    """Validation loss over learning rates: a row a task, a column a method."""
    from matplotlib.figure import Figure

    rows = len(study.tasks)
    figure = Figure(figsize=(16, 3 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, len(COLUMNS), squeeze=False, sharey="row")
    for row, task in zip(axes, study.tasks):
        best = math.inf
        for axis, (title, names) in zip(row, COLUMNS.items()):
            for i, name in enumerate(names.split("; ")):
                found = study.results.sensitivity(task, name)
                rates, losses = found.get("", ([], []))
                if not any(study.results.sensitivity(t, name) for t in study.tasks):
                    continue  # still to be run
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
                axis.set_title(title)
            if axis in axes[-1]:
                axis.set_xlabel("learning rate")
                axis.legend(
                    fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.25)
                )
        row[0].set_ylabel(f"{TITLES[task]}\nvalidation loss")
        if math.isfinite(best):
            row[0].set_ylim(0.9 * best, 8 * best)
    figure.savefig(path, dpi=90)


def plot_differences(study: Study, path: Path) -> None:
    """Paired differences of the primary families, in per cent of the other's loss.

    Narrow, with large letters: it is read on phones, too.
    """
    from matplotlib.figure import Figure

    lines: list[tuple[str, str] | str] = []  # a family's title, or a comparison
    for family, pairs in study.plan.families.items():
        if family != EXPLORATORY:
            lines += [family, *pairs]
    width, height = 4.5, 1.9 + 0.25 * len(lines)
    figure = Figure(figsize=(width, height))
    room = {"left": 1.5 / width, "right": 1 - 0.12 / width, "wspace": 0.1}
    room |= {"bottom": 0.8 / height, "top": 1 - 1.1 / height}
    axes = figure.subplots(
        1, len(study.tasks), squeeze=False, sharey=True, gridspec_kw=room
    )[0]
    for axis, task in zip(axes, study.tasks):
        axis.axvspan(-100 * study.plan.margin, 100 * study.plan.margin, color="0.9")
        for row in study.verdicts:
            if row.task != task or row.family == EXPLORATORY or row.diverged:
                continue
            to_percent = 100 * row.share / row.mean if row.mean else 0.0
            middle, low, high = (to_percent * v for v in (row.mean, row.low, row.high))
            axis.errorbar(
                middle, lines.index((row.optimizer, row.other)),
                xerr=[[middle - low], [high - middle]], fmt="|", markersize=6,
                markeredgewidth=1.3, linewidth=1.8,
                color=COLORS[row.verdict.split(",")[0]],
            )  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.5)
        axis.set_title(textwrap.fill(TITLES[task], 14), size=7.5, rotation=90)
        axis.set_xscale("symlog", linthresh=10)
        widest = 1.3 * max(20.0, *map(abs, axis.get_xlim()))
        tick = next(tick for tick in (1000, 100, 10) if tick <= widest)
        axis.set_xticks([-tick, 0, tick], ["", "", f"+{tick}"])
        axis.set_xticks([], minor=True)
        axis.set_xlim(-widest, widest)
        axis.tick_params(labelsize=6.2, length=0, pad=2)
        axis.grid(alpha=0.3)
    labels = [line if isinstance(line, str) else label(*line) for line in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for line, text in zip(lines, axes[0].get_yticklabels()):
        text.set(size=7.5, weight="bold" if isinstance(line, str) else "normal")
    figure.text(
        0.02, 0.02,
        "Difference of test loss with 95 % interval, in % of the other's;\n"
        "linear to 10, logarithmic beyond; the black line is 0, light grey\n"
        "what counts as equivalent. Blue: better, red: worse,\n"
        "green: equivalent, grey: undecided",
        size=7.5,
    )  # fmt: skip
    figure.savefig(path, dpi=200)


def label(ours: str, other: str) -> str:
    """A comparison on two lines."""
    return f"{ours}\n- {other.replace(' of ' + ours, '')}"
