"""Results as a picture."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_gradopt.comparison.statistics import needed

if TYPE_CHECKING:
    from keras_gradopt.comparison.results import Results

COLORS = {"better": "C0", "worse": "C3", "equivalent": "C2", "undecided": "0.6"}


def draw(results: "Results", path: str | os.PathLike[str]) -> None:
    """A row a task: the search, and the differences with their intervals."""
    figures = needed("matplotlib.figure")
    tasks = [task for task in results.tasks if results.optimizers(task)]
    most = max((len(_of(results, task)) for task in tasks), default=1)
    height = max(3.2, 1.2 + 0.28 * most)
    figure = figures.Figure(
        figsize=(11, height * max(1, len(tasks))), layout="constrained"
    )
    axes = figure.subplots(max(1, len(tasks)), 2, squeeze=False)
    for (left, right), task in zip(axes, tasks):
        _rates(left, results, task)
        _differences(right, results, task)
    figure.savefig(path, dpi=110)


def _of(results: "Results", task: str) -> list[Any]:
    return [verdict for verdict in results.verdicts if verdict.task == task]


def _rates(axis: Any, results: "Results", task: str) -> None:
    low, high = np.inf, -np.inf
    for i, name in enumerate(results.optimizers(task)):
        for arguments, (rates, values) in results.sensitivity(task, name).items():
            label = f"{name} ({arguments})" if arguments else name
            axis.plot(rates, values, marker=".", color=f"C{i % 10}", label=label)
            finite = [value for value in values if np.isfinite(value)]
            low, high = min([low, *finite]), max([high, *finite])
    axis.set(xscale="log", xlabel="learning rate", title=task)
    axis.set_ylabel(results.plan.tuned_by.replace("_", " "))
    axis.grid(alpha=0.3)
    if low < high:
        axis.legend(fontsize="small")
        if 0 < low and high > 10 * low:
            axis.set_yscale("log")


def _differences(axis: Any, results: "Results", task: str) -> None:
    verdicts = _of(results, task)
    labels = []
    for place, row in enumerate(verdicts):
        labels.append(f"{row.optimizer} - {row.other}: {row.verdict}")
        if row.diverged:
            continue
        color = COLORS[row.verdict.split(", ")[0]]
        axis.errorbar(
            row.mean, place, xerr=[[row.mean - row.low], [row.high - row.mean]],
            fmt="o", markersize=4, color=color,
        )  # fmt: skip
        side = [row.margin] * 2
        axis.plot([-row.margin, row.margin], [place, place], "|", color="0.4")
        axis.fill_betweenx(
            [place - 0.35, place + 0.35], [-m for m in side], side, color="0.92"
        )
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(range(len(labels)), labels, size="small")
    axis.set_ylim(len(labels) - 0.5, -0.5)
    better = "right" if results.plan.higher_is_better else "left"
    measure = results.plan.measure.replace("_", " ")
    axis.set_xlabel(f"difference of {measure}, 95 % interval; {better}: better")
    axis.set_title("grey: the margin", size="small")
