"""The page `docs/papers.md`: the papers' tables, and what the audit reads in them."""

from papers_audit import (
    STAND_INS,
    Finding,
    adamw,
    best_rates,
    findings,
    misprints,
    noise,
)
from papers_tables import TABLES, Cell, cells, method, names

INTRODUCTION = """\
# The papers' tables

All results tables of the five papers, number by number as printed, and how many of
their gains exceed the noise that the papers themselves print. `python
examples/studies/papers.py --audit` writes this page from `examples/studies/papers.csv`,
and a test holds it to that.

`papers.py --list` names the tables with their cost. `papers.py adanorm-1 --data-dir
DIR` runs one with the paper's own rates, and prints the paper's numbers beside ours
([below](#running-one)).

## The reading

- "Above the noise": a difference that a two-sided test at 5 % would not call chance.
  AngularGrad prints standard deviations over five runs: Welch's test, for each network;
  "after Holm" corrects for the networks of the table.
- AdaNorm prints means of three runs without a deviation, GAF and WGD do not say how
  many runs (read as one). Where AngularGrad's tables have the same data, their root
  mean square deviation stands in: {stand_ins}. For TinyImageNet that is
  mini-ImageNet's, at another size; WGD has CIFAR-100 at 224 pixels. Other networks,
  rates and batch sizes may have more noise or less. Where nothing fits, no count is
  given.
- Each gain is tested for itself, except "after Holm": of 36 true zeros about two are
  above the noise, one in each direction.
- A method has its base's learning rate, and no rate was searched for either (AdaL's
  was, but it prints no numbers). Whether a base at its own best rate would be as good
  is what these numbers cannot show ([claims](claims.md)).

"""

RATES_TEXT = """
In AdaNorm's Table 4 both optimizers have three learning rates. At 0.001, that of its
Table 1, and best rate against best rate, AdamNorm is above Adam by (points):

"""

ADAMW_TEXT = """
AngularGrad's footnote 3 gives all optimizers weight decay 0, with which AdamW is Adam.
If so, their difference is noise alone: on average {0} points in Table 1, {1} in Table
2, {2} in Table 3.

Its section 6.2.4 gives 81.47 ± 0.23 and 81.21 ± 0.54 for CUB; Table 4 has other
numbers. WGD's section 4.4.1 speaks of 24 experiments in Tables 3 to 5, which have
twelve pairs.

Gains and bold marks as printed that do not follow from the numbers beside them:

"""

RUNNING = """
## Running one

```sh
python examples/studies/papers.py --list
python examples/studies/papers.py adanorm-1 --data-dir DIR \\
    --datasets cifar100 --networks resnet18
python examples/studies/papers.py adanorm-1 --data-dir DIR \\
    --networks resnet20 --epochs 3 --seeds 11 12
```

Rates, networks, batch sizes and schedules are the papers'. `--epochs` shortens the
schedule in proportion; `--networks` takes any of `train.py --list`, also where the
paper has no number. A run that is killed goes on when the command is given again. Seeds
are paired: same weights, order and augmentation for all optimizers. The last epoch
counts, on the test split. The output has the paper's number, ours with its standard
deviation, the gain in both, and the smallest gain that these seeds would detect four
times of five.

Data that is not of one shape or does not fit in memory has recipes of `train.py`
([training](training.md)), which `--list` names.

Tried on the real CIFAR-10, CIFAR-100 and Tiny ImageNet, killed after three of its
twelve runs and started again, at commit 04882c5ef5 (TensorFlow, two CPUs;
[rows](studies/papers/adanorm-1_small.csv)):

```sh
python examples/studies/papers.py adanorm-1 --data-dir DIR --networks resnet20 \\
    --datasets cifar10 cifar100 tiny_imagenet --optimizers AdamNorm --seeds 11 12 \\
    --epochs 2 --limit 5000
```

| accuracy, %, mean ± standard deviation of 2 seeds | Adam | AdamNorm |
|---|---|---|
| cifar10 | 41.87 ± 1.06 | 42.01 ± 1.06 |
| cifar100 | 7.02 ± 0.82 | 7.23 ± 0.58 |
| tiny_imagenet | 1.69 ± 0.47 | 1.61 ± 0.47 |

That shows that the command works. It says nothing about the papers: two epochs, a tenth
of the images, two seeds.
"""


def printed(cell: Cell | None) -> str:
    """A number as the paper prints it."""
    if cell is None or cell.value is None:
        return "-"
    digits = 4 if cell.measure == "loss" else 2
    text = f"{cell.value:.{digits}f}"
    if cell.std is not None:
        text += f" ± {cell.std:.2f}"
    return f"**{text}**" if cell.bold else text


def table(name: str) -> str:
    """A table of a paper in Markdown: a line for each network and measure."""
    found = {(c.dataset, c.network, c.measure, c.method): c for c in cells(name)}
    methods = names(name, "method")
    several = len(names(name, "measure")) > 1
    head = ["data", "network", *(["measure"] if several else []), *methods]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for dataset, network, measure in dict.fromkeys(key[:3] for key in found):
        row = [dataset, network, *([measure] if several else [])]
        row += [printed(found.get((dataset, network, measure, m))) for m in methods]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def settings(name: str) -> str:
    """The settings of a table in a sentence."""
    it = TABLES[name]
    runs = {None: "runs not stated", 1: "one run"}.get(
        it.runs, f"mean of {it.runs} runs"
    )
    sizes = sorted(
        {method(name, m).batch_size or it.batch_size for m in names(name, "method")}
    )
    several = "sizes" if len(sizes) > 1 else "size"
    parts = [
        f"{it.epochs} epochs",
        f"batch {several} {', '.join(map(str, sizes))}",
        f"schedule `{it.schedule}`",
        f"L2 {it.l2:g}",
        runs,
        it.source,
    ]
    if it.image_size:
        parts.insert(4, f"{it.image_size} pixels")
    text = "; ".join(parts) + "."
    return text + (f" Assumed: {it.assumed}." if it.assumed else "")


def audit_table(found: list[Finding]) -> str:
    """The lines of the audit in Markdown."""
    lines = ["| table | compared | above the noise | |", "|---|---|---|---|"]
    for line in found:
        count = "-" if line.count < 0 else str(line.count)
        lines.append(
            f"| {line.table} | {line.claim} | {count} of {line.total} | {line.detail} |"
        )
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    stand_ins = ", ".join(
        f"{noise(table):.2f} for {dataset}" for dataset, table in STAND_INS.items()
    )
    parts = [INTRODUCTION.format(stand_ins=stand_ins), audit_table(findings()), "\n"]
    parts += [
        RATES_TEXT,
        "| data | network | at 0.001 | best, best |\n|---|---|---|---|\n",
    ]
    parts += [f"| {d} | {n} | {a:+.2f} | {b:+.2f} |\n" for d, n, a, b in best_rates()]
    parts += [ADAMW_TEXT.format(*(f"{x:.2f}" for x in adamw().values()))]
    parts += [f"- {line}\n" for line in misprints()]
    parts += [RUNNING, "\n## All tables\n\nBold as printed (AngularGrad: best and "]
    parts += ["second best; AdaNorm's marks are not in the text that was read).\n"]
    for name, it in TABLES.items():
        parts += [f"\n### {it.title}\n\n`{name}`: {settings(name)}\n\n"]
        parts += [table(name), "\n"]
    return "".join(parts)
