"""
Title: Any table of the papers, by one command
Description: The papers' settings, through a comparison; their numbers beside ours.

    python examples/studies/papers.py --list      # all tables and their cost
    python examples/studies/papers.py adanorm-1 --data-dir DIR
    python examples/studies/papers.py adanorm-1 --data-dir DIR --datasets cifar100 \\
        --networks resnet20 --optimizers AdamNorm --seeds 11 12 --epochs 3
    python examples/studies/papers.py --audit     # writes docs/papers.md

Rates are the papers' own. Killed, it goes on when it is called again. Every run is a
row of `runs.csv` in `--output`.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from papers_tables import TABLES, method, names, values
from training import flags

ROOT = Path(__file__).parents[2]
# papers' names of networks: the one of the code released with AngularGrad, GAF's
RENAMED = {"resnext29": "resnext29_4x64d", "regnetx200mf": "regnetx_200mf"}
# images are kept in memory here, of one size; the rest is trained one by one
ELSEWHERE = {
    "mini_imagenet": "train.py --recipe angulargrad-miniimagenet",
    "fgvc_aircraft": "train.py --recipe angulargrad-finegrained --dataset "
    "fgvc_aircraft",
    "cars196": "train.py --recipe angulargrad-finegrained",
    "caltech_birds2011": "train.py --recipe angulargrad-finegrained --dataset "
    "caltech_birds2011",
    "animals10": "train.py --recipe wgd-animals",
    "imagenet2012": "train.py --recipe gaf-imagenet",
    "voc2007": "detect.py",
}
DEFAULT_RUNS = 3  # where a paper does not say

"""
## What there is
"""


def print_list():
    """All tables with their cost in epochs, and what is run elsewhere."""
    print(f"{'table':15}{'runs':>6}{'epochs':>9}{'numbers':>9}")
    for name, it in TABLES.items():
        found = values(name)
        runnable = [key for key in found if key[0] not in ELSEWHERE]
        runs = len(runnable) * (it.runs or DEFAULT_RUNS)
        print(f"{name:15}{runs:>6}{runs * it.epochs:>9,}{len(found):>9}  {it.title}")
        for dataset in names(name, "dataset"):
            if dataset in ELSEWHERE:
                print(f"{'':41}{dataset}: {ELSEWHERE[dataset]}")
    print(
        "\nRuns and epochs are of what is run here, with the paper's number of\n"
        f"runs ({DEFAULT_RUNS} where it has none). A part of a table costs "
        "its part: --datasets,\n--networks, --optimizers, --seeds, --epochs."
    )


"""
## Running
"""


def chosen(given, known, what):
    """The names asked for, all by default.

    Raises:
        ValueError: for one that there is not.
    """
    for name in given or ():
        if name not in known:
            raise ValueError(f"no {what} {name!r} in it; there are: {', '.join(known)}")
    return [name for name in known if not given or name in given]


def pairs_of(table, optimizers):
    """The methods and bases that are compared, of the optimizers asked for.

    Raises:
        ValueError: if there are none.
    """
    wanted = chosen(optimizers, names(table, "method"), "optimizer")
    pairs = [pair for pair in TABLES[table].pairs if pair[0] in wanted]
    if not pairs:
        methods = dict.fromkeys(ours for ours, _ in TABLES[table].pairs)
        raise ValueError(f"--optimizers must name one of {', '.join(methods)}")
    others = [base for _, base in pairs if base not in wanted]
    others = list(dict.fromkeys([*wanted, *others]))
    return [n for n in names(table, "method") if n in others], pairs


def places_of(args):
    """Data sets and networks that are run; what is not is named.

    Raises:
        ValueError: for an unknown name, or if nothing is left.
    """
    from training.models import MODELS

    datasets = chosen(args.datasets, names(args.table, "dataset"), "data set")
    networks = args.networks or names(args.table, "network")
    places = []
    for dataset in datasets:
        if dataset in ELSEWHERE:
            print(f"Not run here: {dataset}; {ELSEWHERE[dataset]}")
            continue
        for network in networks:
            if RENAMED.get(network, network) not in MODELS:
                raise ValueError(
                    f"unknown network {network!r}; train.py --list has all"
                )
            places.append((dataset, network))
    if not places:
        raise ValueError("nothing is left to run")
    return places


def run(args):
    """Makes the runs that are missing and prints the numbers."""
    import papers_runs as runs

    from keras_gradopt import comparison

    it = TABLES[args.table]
    labels, pairs = pairs_of(args.table, args.optimizers)
    places = places_of(args)
    epochs = args.epochs or it.epochs
    seeds = args.seeds or list(range(11, 11 + max(2, it.runs or DEFAULT_RUNS)))
    methods = {label: method(args.table, label) for label in labels}
    sizes = {label: m.batch_size or it.batch_size for label, m in methods.items()}
    tasks = {}
    for dataset, network in places:
        for size in dict.fromkeys(sizes.values()):
            setting = runs.Setting(
                dataset, RENAMED.get(network, network), size, it.l2,
                it.image_size, args.data_dir, args.limit,
            )  # fmt: skip
            name = f"{dataset} {network} {size}"
            rate = runs.schedule(it.schedule, it.epochs)
            tasks[dataset, network, size] = runs.task(name, setting, epochs, rate)
    left_out = [
        (task.name, label)
        for (_, _, size), task in tasks.items()
        for label in labels
        if sizes[label] != size
    ]
    count = len(places) * len(labels) * len(seeds)
    print(f"{count} runs of {epochs} epochs; those that are finished are not repeated.")
    folder = args.output or Path("runs/papers") / args.table / f"{epochs}-epochs"
    results = comparison.compare(
        list(tasks.values()),
        {label: runs.arm(m) for label, m in methods.items()},
        folder=folder,
        seeds=seeds,
        tuning_seeds=[max(seeds) + 1],  # none is made: the rates are given
        measure="test_accuracy",
        margin=0.005,
        test="t",
        comparisons={"the paper's": pairs},
        controls=False,
        leave_out=left_out,
        workers=args.workers,
        keep_every=args.keep_every,
    )
    found = {
        (dataset, network, label): 100 * results.values(task.name, label)
        for (dataset, network, size), task in tasks.items()
        for label in labels
        if sizes[label] == size
    }
    verdicts = {(v.task, v.optimizer, v.other): v for v in results.verdicts}
    by_place = {}
    for (dataset, network, size), task in tasks.items():
        for ours, base in pairs:
            if sizes[ours] == size and (task.name, ours, base) in verdicts:
                by_place[dataset, network, ours, base] = verdicts[task.name, ours, base]
    note = "" if epochs == it.epochs else f" The paper's are after {it.epochs} epochs."
    text = report(args.table, found, by_place, f"After {epochs} epochs.{note}")
    print(f"\n{text}")
    (folder / "paper.md").write_text(text + "\n", encoding="utf-8")
    print(f"\nEvery run is in {folder / 'runs.csv'}.")


def report(table, found, verdicts, title):
    """The paper's numbers beside ours, in Markdown.

    Args:
        table: its name.
        found: our accuracies in per cent, by data set, network and method.
        verdicts: of the comparison, by data set, network, method and base.
        title: a sentence before the tables.
    """
    printed = values(table)

    def of_paper(key):
        cell = printed.get(key)
        if cell is None or cell.value is None:
            return "-"
        return f"{cell.value:.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")

    lines = [title, ""]
    lines += ["| data | network | optimizer | paper | ours | seeds |"]
    lines += ["|---|---|---|---|---|---|"]
    for (dataset, network, label), mine in found.items():
        text = f"{mine.mean():.2f} ± {mine.std(ddof=1):.2f}" if len(mine) > 1 else "-"
        paper = of_paper((dataset, network, label))
        lines.append(
            f"| {dataset} | {network} | {label} | {paper} | {text} | {len(mine)} |"
        )
    lines += [
        "",
        "| data | network | compared | paper's gain | ours, 95 % | detectable |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for (dataset, network, label, base), verdict in verdicts.items():
        pair = [printed.get((dataset, network, name)) for name in (label, base)]
        known = all(cell is not None and cell.value is not None for cell in pair)
        paper = f"{pair[0].value - pair[1].value:+.2f}" if known else "-"
        mean, low, high = (100 * x for x in (verdict.mean, verdict.low, verdict.high))
        lines.append(
            f"| {dataset} | {network} | {label}, {base} | {paper} | {mean:+.2f} "
            f"({low:+.2f} to {high:+.2f}) | {100 * verdict.detectable:.2f} |"
        )
    lines += [
        "",
        "Accuracy in per cent, mean ± standard deviation over seeds. Detectable",
    ]
    lines += ["is the smallest gain that these seeds would find four times of five."]
    return "\n".join(lines)


"""
## The command line
"""


def parser():
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("table", nargs="?", choices=list(TABLES), metavar="TABLE")
    make.add_argument("--list", action="store_true", help="all tables, their cost")
    make.add_argument(
        "--audit",
        nargs="?",
        type=Path,
        const=ROOT / "docs" / "papers.md",
        metavar="PAGE",
        help="write the page of all tables, by default docs/papers.md",
    )
    make.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps data sets")
    make.add_argument("--datasets", nargs="+", metavar="NAME")
    make.add_argument("--networks", nargs="+", metavar="NAME")
    make.add_argument("--optimizers", nargs="+", metavar="NAME", help="bases are added")
    make.add_argument("--seeds", nargs="+", type=flags.SEED, metavar="N")
    make.add_argument("--epochs", type=flags.COUNT, metavar="N")
    make.add_argument("--limit", type=flags.COUNT, help="images of each split")
    make.add_argument("--output", type=flags.folder, metavar="FOLDER")
    make.add_argument(
        "--workers", type=int, default=0, help="processes; 0: this one (default)"
    )
    make.add_argument(
        "--keep-every", type=flags.NOT_NEGATIVE, default=60.0, metavar="SECONDS",
        help="how often an unfinished run is kept",
    )  # fmt: skip
    return make


def main(arguments=None):
    make = parser()
    args = make.parse_args(arguments)
    if args.list:
        print_list()
    elif args.audit:
        from papers_page import page

        args.audit.write_text(page(), encoding="utf-8")
        print(f"Wrote {args.audit}.")
    elif args.table is None:
        make.error("which table? --list names them")
    else:
        from training.datasets import DatasetError

        try:
            run(args)
        except (ValueError, RuntimeError, OSError, DatasetError) as error:
            make.exit(2, f"{make.prog}: error: {error}\n")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
