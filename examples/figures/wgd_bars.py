"""
Title: Accuracy with and without whitened gradients
Description: WGD's Fig. 6 and 9, from its tables, and the same of our study.

    python examples/figures/wgd_bars.py

Nothing is trained: the bars above are the numbers that the paper prints (Tables 3 to 8,
one run each), those below the test accuracies of the study of this project, whose rates
were tuned for each optimizer: means over twelve seeds, with standard deviations. Over
each pair stands what WGD adds, in points.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import numpy as np
import papers_tables
from figures import drawing
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from optimizers_tasks import TITLES

ROWS = Path(__file__).parents[2] / "docs/studies/optimizers/runs.csv"
PAIRS = {"SGD": "WGDSGD", "Adam": "WGDAdam", "Nadam": "WGDNadam", "RAdam": "WGDRAdam"}
NETWORKS = {"densenet121": "DenseNet-121", "resnet18": "ResNet-18"}
NETWORKS["resnet50"] = "ResNet-50"


def printed(tables):
    """The paper's accuracies: `{(network, base): [(base's, WGD's)]}`."""
    found = {}
    for table in tables:
        cells = papers_tables.values(table, "accuracy")
        ((dataset, network),) = {key[:2] for key in cells}
        for base, whitened in PAIRS.items():
            name = "SGDM" if base == "SGD" else base
            pair = [cells[dataset, network, x].value for x in (name, whitened)]
            found[NETWORKS[network], base] = [pair]
    return found


def measured(path=ROWS):
    """Our accuracies, of all seeds: `{(task, base): [(base's, WGD's), ...]}`."""
    accuracies = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if (
                row["stage"] == "report"
                and row["test_accuracy"]
                and not row["arguments"]
            ):
                key = row["task"], row["optimizer"]
                value = 100 * float(row["test_accuracy"])
                accuracies.setdefault(key, {})[row["seed"]] = value
    found = {}
    for (task, base), of_base in accuracies.items():
        whitened = accuracies.get((task, PAIRS.get(base)))
        if whitened:
            seeds = sorted(of_base.keys() & whitened.keys(), key=int)
            pairs = [(of_base[seed], whitened[seed]) for seed in seeds]
            found[TITLES[task], base] = pairs
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def bars(axis, found, title):
    """A pair of bars for each network or task and base."""
    place, middles = 0.0, {}
    for (network, base), pairs in found.items():
        before = middles.setdefault(network, [])
        place += 1.0 if before else 1.6
        before.append(place)
        for offset, name, values in zip(
            (-0.2, 0.2), (base, PAIRS[base]), np.transpose(pairs)
        ):
            spread = np.std(values, ddof=1) if len(values) > 1 else None
            axis.bar(
                place + offset, values.mean(), 0.4, yerr=spread, capsize=2,
                color="#999999" if name == base else drawing.COLORS["WGDSGD"],
            )  # fmt: skip
        gain = np.mean(np.diff(pairs, axis=1))
        top = np.mean(pairs, axis=0).max()
        axis.text(place, top + 3, f"{gain:+.2f}", ha="center", fontsize=7, rotation=90)
        axis.text(place, -3, base, ha="center", va="top", fontsize=7, rotation=90)
    for network, places in middles.items():
        axis.text(np.mean(places), -25, network, ha="center", va="top", fontsize=8)
    axis.set(title=title, xticks=[], ylim=(0, 128), yticks=range(0, 101, 20))
    axis.set_ylabel("accuracy, %")
    axis.grid(alpha=0.25, axis="y")
    axis.set_axisbelow(True)


def main(arguments=None):
    """Draws the figure, prints the numbers and returns ours."""
    args = drawing.arguments("wgd_bars", __doc__, arguments)
    ours = measured()
    panels = {
        "The paper: Animals-10 (Fig. 6)": printed(["wgd-3", "wgd-4", "wgd-5"]),
        "The paper: CIFAR-100 (Fig. 9)": printed(["wgd-6", "wgd-7", "wgd-8"]),
        "Our study: tuned rates, twelve seeds": ours,
    }
    figure = Figure(figsize=(7.2, 9.6))
    figure.subplots_adjust(0.09, 0.1, 0.98, 0.96, hspace=0.5)
    for axis, (title, found) in zip(figure.subplots(3, 1), panels.items()):
        bars(axis, found, title)
    looks = {"base": "#999999", "with WGD": drawing.COLORS["WGDSGD"]}
    figure.legend(
        [Patch(color=color) for color in looks.values()], list(looks),
        loc="lower center", ncols=2, frameon=False,
    )  # fmt: skip
    rows = []
    for (task, base), pairs in ours.items():
        gains = np.diff(pairs, axis=1)
        error = float(gains.std(ddof=1) / len(gains) ** 0.5)
        means = map(float, np.mean(pairs, axis=0))
        rows.append([task, PAIRS[base], *means, float(gains.mean()), error, len(gains)])
    head = [
        "task",
        "optimizer",
        "base, %",
        "WGD, %",
        "difference",
        "its error",
        "seeds",
    ]
    print(drawing.table(head, rows))
    drawing.save(figure, args.output)
    return ours


if __name__ == "__main__":
    main()
