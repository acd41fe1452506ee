"""The page of the CIFAR-100 study: statistics of its rows, tables, curves, verdicts."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cifar100 import ARMS, FEWEST_SEEDS, SAME, SEEDS, key, planned, read, scouted
from papers_tables import values as printed_values
from scipy import stats

LEVEL = 0.05
MARGIN = 0.5  # points of accuracy within which two arms are equivalent
ABOUT = {  # what each comparison asks
    "H1": "AdamNorm, at the rate of the papers",
    "H2": "AngularGrad, at that rate",
    "H3": "AdamNorm at that rate, Adam at the best rate that its scouting found",
    "control": "Adam twice, from other initial weights: must show no difference",
}
FAMILY = {  # the primary family: ours, other
    "H1": ("adamnorm", "adam"),
    "H2": ("angulargrad", "adam"),
    "H3": ("adamnorm", "adam_control"),
}
CONTROL = ("adam_again", "adam")
CLAIMED = {  # the authors' own tables, and what is compared in them
    "H1": ("adanorm-1", "AdamNorm"),
    "H2": ("angulargrad-2", "AngularGrad cos"),
}
EXPECTED_SPREAD = 0.45  # points, the plan's, of a paired difference
TITLES = {
    "adam": "Adam",
    "adamnorm": "AdamNorm",
    "angulargrad": "AngularGrad `cos`",
    "adam_control": "Adam, scouted rate",
    "adam_again": "Adam again",
}


"""
## Statistics
"""


@functools.cache
def _signs(count):
    """All signs of `count` values, the first fixed: its opposite counts the same."""
    rest = np.array(list(itertools.product((1, -1), repeat=count - 1)))
    return np.hstack([np.ones((len(rest), 1)), rest.reshape(len(rest), count - 1)])


def sign_flip(differences: np.ndarray, greater: bool = False) -> np.ndarray:
    """The exact p of the mean of paired differences, over the last axis.

    Under the hypothesis of no effect each difference is as likely as its opposite, so
    p is the share of all sign patterns whose sum is at least as far from 0.

    Args:
        differences: one for each seed.
        greater: whether to ask only if they are above 0.
    """
    differences = np.asarray(differences, float)
    sums = differences @ _signs(differences.shape[-1]).T
    observed = differences.sum(-1, keepdims=True)
    slack = 1e-9 * np.abs(differences).sum(-1, keepdims=True)  # equal but for rounding
    if not greater:
        return (np.abs(sums) >= np.abs(observed) - slack).mean(-1)
    return (
        (sums >= observed - slack).mean(-1) + (-sums >= observed - slack).mean(-1)
    ) / 2


def equivalence(differences: np.ndarray, margin: float = MARGIN) -> float:
    """The p of two one-sided tests: the mean is above `-margin` and below `margin`."""
    differences = np.asarray(differences, float)
    return float(
        max(
            sign_flip(differences + margin, greater=True),
            sign_flip(margin - differences, greater=True),
        )
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction."""
    order = np.argsort(p_values)
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


@functools.cache
def detectable(count: int, level: float = LEVEL / len(FAMILY)) -> float:
    """The effect, in standard deviations of the differences, found 4 times of 5.

    By simulation of normal differences; the level is that of Holm's first step, the
    strictest.
    """
    noise = np.random.default_rng(0).normal(size=(2000, count))
    low, high = 0.0, 8.0
    while high - low > 0.01:
        middle = (low + high) / 2
        if (sign_flip(noise + middle) <= level).mean() < 0.8:
            low = middle
        else:
            high = middle
    return high


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean difference."""
    count = len(differences)
    half = stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / count**0.5
    return float(np.mean(differences) - half), float(np.mean(differences) + half)


def verdict(mean: float, p: float, p_equivalent: float) -> str:
    """In words, from Holm's p of both questions."""
    words = []
    if p < LEVEL:
        words.append("better" if mean > 0 else "worse")
    if p_equivalent < LEVEL:
        words.append(f"equivalent within {MARGIN:g} points")
    return ", but ".join(words) or "undecided"


"""
## The page
"""


def compare(
    accuracy: dict[tuple[str, int], float], seeds: Sequence[int]
) -> list[dict[str, object]]:
    """Every comparison of the family, and the control, in points of accuracy.

    Args:
        accuracy: from 0 to 1, by arm and seed.
        seeds: those with all arms.
    """
    found = []
    for name, (ours, other) in {**FAMILY, "control": CONTROL}.items():
        differences = 100 * np.array(
            [accuracy[ours, seed] - accuracy[other, seed] for seed in seeds]
        )
        found.append(
            {
                "name": name, "ours": ours, "other": other, "differences": differences,
                "mean": float(differences.mean()), "interval": interval(differences),
                "p": float(sign_flip(differences)),
                "p_equivalent": equivalence(differences),
                "detectable": detectable(len(seeds)) * float(differences.std(ddof=1)),
            }
        )  # fmt: skip
    family, control = found[:-1], found[-1]
    for kind in ("p", "p_equivalent"):
        for row, value in zip(family, holm([row[kind] for row in family])):
            row[f"{kind}_holm"] = value
        control[f"{kind}_holm"] = control[kind]  # a family of its own
    for row in family:
        row["verdict"] = verdict(row["mean"], row["p_holm"], row["p_equivalent_holm"])
    control["verdict"] = "passed" if control["p"] > LEVEL else "FAILED"
    return found


def complete_seeds(rows: list[dict[str, str]]) -> list[int]:
    """The seeds that have a row of every arm."""
    have = {(row["arm"], int(row["seed"])) for row in rows if row["stage"] == "final"}
    seeds = {seed for _, seed in have}
    return sorted(s for s in seeds if all((arm, s) in have for arm in ARMS))


def finals(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows that are compared: the final ones of the complete seeds."""
    seeds = complete_seeds(rows)
    return [r for r in rows if r["stage"] == "final" and int(r["seed"]) in seeds]


def compare_rows(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """`compare`, of the rows of complete seeds."""
    accuracy = {(r["arm"], int(r["seed"])): float(r["accuracy"]) for r in finals(rows)}
    return compare(accuracy, complete_seeds(rows))


def page(rows: list[dict[str, str]], final: bool = False) -> str:
    """The page, whatever is missing.

    No arm is set against another before all planned seeds are complete or `final` says
    that none will be added, so that nobody stops because of what is seen.
    """
    lines = ["# ResNet-20 on CIFAR-100", ""]
    lines += ["Registered before any run was finished: [the plan](plan.md), which says"]
    lines += ["what was changed before that. Every run is in [runs.csv](runs.csv), and"]
    lines += ["this page is written from it by", ""]
    lines += ["```sh", "python examples/studies/cifar100.py report", "```", ""]
    mixed = [n for n in SAME if len({row[n] for row in rows}) > 1]
    if mixed:
        raise ValueError(f"rows that cannot be compared: they differ in {mixed}")
    runs, control = scouted(rows)
    seeds = complete_seeds(rows)
    lines += _missing(rows, runs, control, seeds, final)
    unclean = sorted({r["commit"] for r in rows if not _clean(r["commit"])})
    if unclean:
        lines += [f"**Rows of no commit**: {', '.join(unclean)}.", ""]
    if len(seeds) >= (FEWEST_SEEDS if final else len(SEEDS)):
        lines += _results(finals(rows), seeds)
    lines += _scouting(rows, runs, control)
    if rows:
        lines += ["## How the rows were made", "", _made(rows), ""]
    return "\n".join(lines)


def _clean(commit):
    return commit and not any(word in commit for word in ("dirty", "unknown"))


def _scouting(rows, runs, control):
    scouts = [row for row in rows if row["stage"] == "scout"]
    if not scouts:
        return []
    lines = ["## Scouting of Adam's rate", ""]
    lines += ["On 5,000 training images held out, after the last epoch.", ""]
    lines += ["| rate | seed | accuracy, % |", "|---|---|---|"]
    lines += [
        f"| {float(r['rate']):g} | {r['seed']} | {100 * float(r['accuracy']):.2f} |"
        for r in sorted(scouts, key=lambda r: (float(r["rate"]), int(r["seed"])))
    ]
    lines += ["", f"The control is Adam at {control:g}." if not runs else "Unfinished."]
    return [*lines, ""]


def _missing(rows, runs, control, seeds, final):
    done = set(map(key, rows))
    todo = runs or [run for run in planned(control) if run not in done]
    lines = ["## What is missing", ""]
    if not todo:
        return [*lines, "Nothing: all planned runs are here.", ""]
    lines += [f"{len(seeds)} of {len(SEEDS)} seeds are complete. Missing:"]
    if runs:
        lines += [f"the final runs, and of scouting {', '.join(r.name for r in runs)}."]
    else:
        lines += [f"{len(todo)} runs: {', '.join(run.name for run in todo)}."]
    if len(seeds) < FEWEST_SEEDS:
        lines += [f"Below {FEWEST_SEEDS} seeds there is no verdict."]
    elif not final:
        lines += ["There is no verdict before that (`--final` if it ends here)."]
    return [*lines, ""]


def _results(rows, seeds):
    def mean(arm, name, scale=1.0):
        values = [scale * float(row[name]) for row in rows if row["arm"] == arm]
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"

    lines = ["## Accuracy", "", "After the last epoch; mean ± standard deviation of"]
    lines += [f"{len(seeds)} seeds.", ""]
    lines += ["| arm | rate | test accuracy, % | test loss | training loss |"]
    lines += ["|---|---|---|---|---|"]
    for arm in ARMS:
        rate = next(float(row["rate"]) for row in rows if row["arm"] == arm)
        lines += [
            f"| {TITLES[arm]} | {rate:g} | {mean(arm, 'accuracy', 100)} "
            f"| {mean(arm, 'loss')} | {mean(arm, 'train_loss')} |"
        ]
    found = compare_rows(rows)
    lines += ["", "## Verdicts", "", "Paired differences in points of test accuracy,"]
    lines += ["with 95 % intervals:", ""]
    for row in found:
        lines += [f"- {row['name']} ({ABOUT[row['name']]}): {answer(row)}."]
    lines += ["", "Holm's correction over the three hypotheses. The control passes"]
    lines += [
        f"with an uncorrected p above {LEVEL:g}, which does not show that Adam is"
    ]
    lines += [f"like Adam: detectable are {found[-1]['detectable']:.2f} points."]
    lines += ["", "| | | difference | 95 % interval | p | Holm's p | Holm's p of"]
    lines[-1] += f" equivalence within {MARGIN:g} | detectable | verdict |"
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in found:
        low, high = row["interval"]
        lines += [
            f"| {row['name']} | {TITLES[row['ours']]} - {TITLES[row['other']]} "
            f"| {row['mean']:+.2f} | {low:+.2f} to {high:+.2f} | {row['p']:.4f} "
            f"| {row['p_holm']:.4f} | {row['p_equivalent_holm']:.4f} "
            f"| {row['detectable']:.2f} | **{row['verdict']}** |"
        ]
    lines += ["", "*Detectable*: what this many seeds with the differences' standard"]
    lines += ["deviation find four times of five at Holm's strictest level.", ""]
    lines += [_spread(found), ""]
    lines += ["![Paired differences of all seeds](differences.png)", "", "Stars:"]
    stars = [f"{n} {claimed(n):+.2f} ({table})" for n, (table, _) in CLAIMED.items()]
    lines += ["what the authors print for ResNet-18 (tables as in `papers.py --list`),"]
    lines += [f"{', '.join(stars)}.", ""]
    lines += ["![Training loss of every arm](curves.png)", ""]
    lines += ["## What it does not show", "", "All that [the plan](plan.md"]
    lines[-1] += "#what-it-does-not-show) names: one data set, one small network, a"
    lines += ["short training; and the methods have the papers' rate, not their best,"]
    lines += ["while Adam's was searched for H3."]
    return [*lines, ""]


def answer(row: dict[str, object]) -> str:
    """What came of one comparison, in words that other pages repeat."""
    low, high = row["interval"]
    return (
        f"{TITLES[row['ours']]} - {TITLES[row['other']]}: {row['mean']:+.2f} points "
        f"({low:+.2f} to {high:+.2f}), **{row['verdict']}**"
    )


def claimed(name: str) -> float:
    """The points that the authors of a method claim over Adam, for ResNet-18."""
    table, ours = CLAIMED[name]
    cells = printed_values(table)
    mine, adam = (cells["cifar100", "resnet18", x].value for x in (ours, "Adam"))
    return mine - adam


def _spread(found):
    spread = [float(np.std(row["differences"], ddof=1)) for row in found]
    return (
        f"The differences' standard deviations are {min(spread):.2f} to "
        f"{max(spread):.2f} points; the plan expected {EXPECTED_SPREAD:g}."
    )


def _made(rows):
    def values(name):
        return ", ".join(sorted({row[name] for row in rows}))

    hours = sum(float(row["cpu_seconds"]) for row in rows) / 3600
    took: dict[str, list[float]] = {}
    for row in rows:
        if row["stage"] == "final":
            took.setdefault(row["seed"], []).append(float(row["cpu_seconds"]))
    speed = ""  # of what kind the CPU was is not in a row
    if took:
        every = [seconds for seed in took.values() for seconds in seed]
        within = max(max(seed) / min(seed) for seed in took.values())
        speed = (
            f" A final run took {min(every):.0f} to {max(every):.0f} processor seconds;"
            f" within a seed, at most {within:.2f} times as long as another."
        )
    return (
        f"{rows[0]['network']}, {values('epochs')} epochs, batch "
        f"{values('batch_size')}, {values('precision')}, on {values('backend')} "
        f"{values('backend_version')} ({values('device')}, threads: "
        f"{values('threads')}), Keras {values('keras')}, NumPy {values('numpy')}; data "
        f"{values('data')}; commits {values('commit')}; {hours:.1f} hours of one core."
        + speed
    )


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """The mean training loss of every arm, epoch by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm in ARMS:
        curves = [
            [float(value) for value in row["train_losses"].split()]
            for row in rows
            if row["arm"] == arm
        ]
        style = ":" if arm == "adam_again" else "-"
        epochs = range(1, len(curves[0]) + 1)
        label = TITLES[arm].replace("`", "")
        axes.plot(epochs, np.mean(curves, axis=0), style, label=label)
    axes.set(xlabel="epoch", ylabel="training loss", xticks=epochs)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_differences(found: list[dict[str, object]], path: Path) -> None:
    """Each comparison's paired differences, their mean and its interval.

    Narrow, with large letters: it is read on phones, too.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-MARGIN, MARGIN, color="0.9", label=f"within {MARGIN:g} points")
    axis.axvline(0, color="0.5", linewidth=0.8)
    for place, row in enumerate(found):
        values, (low, high) = row["differences"], row["interval"]
        above = place - 0.22 + 0.02 * (np.arange(len(values)) % 3)  # so none is hidden
        axis.plot(values, above, "o", color="C0", alpha=0.6, markersize=4)
        axis.plot([low, high], [place, place], color="k", linewidth=2)
        axis.plot(row["mean"], place, "D", color="k", markersize=6)
        if row["name"] in CLAIMED:
            points = claimed(row["name"])
            axis.plot(points, place, "*", color="C3", markersize=12)
    axis.plot([], [], "o", color="C0", alpha=0.6, markersize=4, label="a seed")
    axis.plot([], [], "D-", color="k", label="mean, 95 % interval")
    axis.plot([], [], "*", color="C3", markersize=12, linestyle="", label="claimed")
    titles = {arm: title.replace("`", "") for arm, title in TITLES.items()}
    names = [
        f"{row['name']}: {titles[row['ours']]}\n- {titles[row['other']]}"
        for row in found
    ]
    axis.set_yticks(range(len(found)), names)
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlabel("points of test accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def write(results: Path, final: bool = False) -> None:
    """Writes `README.md`, and its pictures once there are verdicts."""
    rows = read(results)
    text = page(rows, final)
    (results / "README.md").write_text(text, encoding="utf-8")
    if "curves.png" in text:
        plot(finals(rows), results / "curves.png")
        plot_differences(compare_rows(rows), results / "differences.png")
    print(text)
