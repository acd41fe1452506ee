"""
Title: Pictures of the measurements
Description: Draws docs/performance/*.png from the CSV files beside them.

    pip install matplotlib
    python benchmarks/pictures.py docs/performance
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, THEIRS, LINE = "#1f77b4", "#9a9a9a", "#d62728"


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def medians(rows, key, *by):
    """The median of `key` for each combination of the columns `by`."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in by)].append(float(row[key]))
    return {key: statistics.median(values) for key, values in found.items()}


def color(name):
    """Of a bar: ours, or somebody else's."""
    others = ("keras ", "torch ", "optax ", "pytorch_optimizer ")
    return THEIRS if name.startswith(others) else OURS


def bars(axes, values, unit):
    """Horizontal bars, the first on top, each with its value."""
    names = list(values)
    axes.barh(names, values.values(), color=[color(name) for name in names])
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:.3g}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_words(folder):
    """Words of the program for an H100, and the bound as a mark."""
    rows = read(folder / "h100.csv")
    figure, axes = plt.subplots(figsize=(8, 8), layout="constrained")
    bars(axes, {r["optimizer"]: float(r["words"]) for r in rows}, "")
    bounds = [float(row["bound"]) for row in rows]
    axes.scatter(bounds, range(len(rows)), marker="|", s=160, color=LINE, zorder=3)
    axes.set_xlabel("4-byte words moved per parameter and step; red: the bound")
    axes.set_title("Memory traffic of an update, counted in the program for an H100")
    return figure


def draw_step_time(folder):
    """Graph and XLA, ours, Keras' and other libraries'."""
    found = medians(read(folder / "step_time.csv"), "ms", "optimizer", "how")
    figure, sides = plt.subplots(1, 2, figsize=(12, 8), layout="constrained")
    for axes, how in zip(sides, ("graph", "XLA")):
        values = {n: v for (n, way), v in found.items() if way == how}
        others = {
            f"{n} ({way})": v
            for (n, way), v in found.items()
            if way not in ("graph", "XLA")
        }
        bars(axes, values | others, "milliseconds, median")
        axes.axvline(values["keras Adam"], color=LINE, linewidth=0.8)
        axes.set_title(f"TensorFlow, {how}; red: Keras' Adam there")
    figure.suptitle("One update of ResNet-50's variables on a CPU")
    return figure


def draw_tracing(folder):
    """Seconds until the first update is done."""
    rows = read(folder / "tracing.csv")
    keys = {
        "trace_s": "tracing the graph",
        "first_call_s": "first call of the graph",
        "xla_first_call_s": "first call, the whole compiled by XLA",
    }
    figure, sides = plt.subplots(1, 3, figsize=(15, 6), layout="constrained")
    networks = list(dict.fromkeys(row["network"] for row in rows))
    for axes, (key, title) in zip(sides, keys.items()):
        for place, name in enumerate(networks):
            mine = [row for row in rows if row["network"] == name]
            values = {n: v for (n,), v in medians(mine, key, "optimizer").items()}
            places = [i + 0.4 * place - 0.2 for i in range(len(values))]
            kind = [color(n) for n in values]
            axes.barh(
                places, values.values(), 0.38, color=kind, alpha=1 - 0.5 * place,
                label=name,
            )  # fmt: skip
            axes.axvline(
                values["keras Adam"], color=LINE, linewidth=0.8, alpha=1 - 0.5 * place
            )
        axes.set_yticks(range(len(values)), values, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.set_title(title, fontsize=10)
    sides[0].legend(fontsize=8)
    figure.suptitle("Until the first update is done; red: Keras' Adam")
    return figure


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("folder", type=Path)
    folder = make.parse_args().folder
    for name, draw in (
        ("words", draw_words),
        ("step_time", draw_step_time),
        ("tracing", draw_tracing),
    ):
        figure = draw(folder)
        figure.savefig(folder / f"{name}.png", dpi=110)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
