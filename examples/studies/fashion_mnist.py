"""
Title: ResNet-20 and a narrow DenseNet on Fashion-MNIST
Description: Three optimizers, three seeds, curves: a small study with train.py.

    python examples/studies/fashion_mnist.py            # begin, or go on
    python examples/studies/fashion_mnist.py --collect  # table and picture only

First every optimizer gets its learning rate: short runs over half-decades, validated on
images of the training split that nothing else sees, with more rates as long as the best
is at an edge. Then it is trained with three seeds, and the last epoch (not the best) is
measured on the test split. Each run is one of `train.py`; what was finished is kept, so
the study can be stopped at any time.

Leaves `runs.csv` (every epoch of every run), `study.json` (commands, versions) and
`curves.png` in the folder `--results`.
"""

import argparse
import concurrent.futures
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from training import flags
from training.run_files import RunError, read_json, replacing, write_json

TRAIN = Path(__file__).parents[1] / "train.py"
NETWORKS = {"resnet20": "ResNet-20", "densenet22": "DenseNet-22, k = 8"}
OPTIMIZERS = {"adam": "Adam", "angulargrad": "AngularGrad", "adamnorm": "AdamNorm"}
SEEDS = (1, 2, 3)
COMMON = ["--dataset", "fashion_mnist", "--no-augment", "--schedule", "cosine"]
COMMON += ["--batch-size", "128", "--precision", "mixed_bfloat16"]
PILOT = ["--splits", "train[20000:28000],train[50000:55000]"]
PILOT += ["--epochs", "2", "--seed", "100"]
STUDY = ["--splits", "train[:10000],test", "--epochs", "12"]


"""
## Running
"""


def command(network, optimizer, rate, flags, folder):
    arguments = ["--model", network, "--optimizer", optimizer]
    arguments += ["--learning-rate", f"{rate:g}", "--output", str(folder)]
    return [sys.executable, str(TRAIN), *COMMON, *flags, *arguments, "--resume"]


def run(task):
    """Runs or resumes one training on one core; its `run.json`."""
    folder = Path(task[-1])
    if not (folder / "run.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        one_core = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        with open(folder / "log.txt", "a") as log:
            subprocess.run(  # of which one that diverges fails, with results
                command(*task), check=False, stdout=log, stderr=log,
                env={**os.environ, **one_core, "KERAS_BACKEND": "tensorflow"},
            )  # fmt: skip
        if not (folder / "run.json").exists():
            raise RunError(f"{folder} has no results; its log.txt says why")
    return read_json(folder / "run.json")


def run_all(tasks, workers, title):
    """All runs, `workers` at a time, with a line after each."""
    start, done = time.monotonic(), []
    waiting = sum(not (Path(task[-1]) / "run.json").exists() for task in tasks)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = {}
        futures = {pool.submit(run, task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            task = futures[future]
            results[task] = future.result()
            done.append(task)
            minutes = (time.monotonic() - start) / 60
            accuracy = results[task]["metrics"]["last_val_accuracy"]
            print(
                f"{title} {len(done)}/{len(tasks)} ({waiting} to run), {minutes:.0f} "
                f"min: {' '.join(map(str, task[:3]))}: {accuracy:.2%}",
                flush=True,
            )
    return results


def half_decade(index):
    """1e-3 at 0, 3e-3 at 1, 1e-2 at 2, and so on."""
    return float(f"{(1, 3)[index % 2]}e{-3 + index // 2}")


def tuned_rates(runs, workers):
    """The learning rate with the lowest validation loss, by network and optimizer."""
    loss, best = {}, {}
    wanted = {(n, o): {-1, 0, 1} for n in NETWORKS for o in OPTIMIZERS}
    while any(wanted.values()):
        tasks = [
            (n, o, half_decade(i), tuple(PILOT), str(runs / f"pilot-{n}-{o}-{i}"))
            for (n, o), indices in wanted.items()
            for i in sorted(indices)
        ]
        results = run_all(tasks, workers, "pilot")
        for task, result in results.items():
            index = int(task[-1].rsplit(f"{task[1]}-", 1)[1])
            value = result["metrics"]["last_val_loss"]
            tried = loss.setdefault(task[:2], {})
            diverged = value is None or not np.isfinite(value)
            tried[index] = np.inf if diverged else value
        for key, tried in loss.items():
            index = min(tried, key=lambda i: (tried[i], i))  # the lowest if all diverge
            best[key] = half_decade(index)
            wanted[key] = {index - 1, index + 1} - set(tried)
    return best


"""
## Collecting
"""


def collect(runs, results):
    """Writes `runs.csv` and `study.json`; returns the rows of the study itself."""
    results.mkdir(parents=True, exist_ok=True)
    rows, seconds, commits, versions = [], 0, set(), None
    for folder in sorted(runs.iterdir()):
        if not (folder / "run.json").exists():
            continue
        written = read_json(folder / "run.json")
        stage, network, optimizer = folder.name.split("-")[:3]
        seconds += written["seconds"]
        versions = written["versions"]
        commits.add(str(written["commit"]))
        with open(folder / "history.csv") as file:
            for epoch in csv.DictReader(file):
                del epoch["learning_rate"]
                rows.append(
                    {
                        "stage": stage,
                        "network": network,
                        "optimizer": optimizer,
                        "learning_rate": f"{written['run']['learning_rate']:g}",
                        "seed": written["arguments"]["seed"],
                        **epoch,
                    }
                )
    if not rows:
        raise RunError(f"there are no finished runs in {runs}")
    with replacing(results / "runs.csv") as new, open(new, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    study = {
        "pilot": " ".join(COMMON + PILOT),
        "study": " ".join(COMMON + STUDY),
        "hours_of_one_core": round(seconds / 3600, 2),
        "commits": sorted(commits),
        "versions": versions,
    }
    write_json(results / "study.json", study)
    return [row for row in rows if row["stage"] == "study"]


def table(rows):
    """Mean and range over the seeds at the last epoch, as Markdown."""
    last = max(int(row["epoch"]) for row in rows)
    lines = [
        "| network | optimizer | learning rate | test accuracy, seeds | mean | "
        "test loss | training loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for optimizer in OPTIMIZERS:
            mine = [
                row
                for row in rows
                if (row["network"], row["optimizer"]) == (network, optimizer)
                and int(row["epoch"]) == last
            ]
            if not mine:
                continue
            value = {
                name: np.array([float(row[name]) for row in mine])
                for name in ("val_accuracy", "val_loss", "loss")
            }
            accuracies = 100 * value["val_accuracy"]
            lines.append(
                f"| {NETWORKS[network]} | {OPTIMIZERS[optimizer]} | "
                f"{mine[0]['learning_rate']} | "
                f"{', '.join(f'{x:.2f}' for x in accuracies)} | "
                f"{accuracies.mean():.2f} % | {value['val_loss'].mean():.3f} | "
                f"{value['loss'].mean():.3f} |"
            )
    return "\n".join(lines)


def plot(rows, path):
    """Training and test curves: mean over the seeds, and the seeds as thin lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measures = [("loss", "val_loss", "loss"), ("accuracy", "val_accuracy", "accuracy")]
    figure, axes = plt.subplots(
        len(NETWORKS), len(measures), figsize=(11, 7.5), layout="constrained"
    )
    for row_of_axes, (network, network_title) in zip(axes, NETWORKS.items()):
        for axis, (train, test, label) in zip(row_of_axes, measures):
            for number, (optimizer, title) in enumerate(OPTIMIZERS.items()):
                runs = {}
                for row in rows:
                    if (row["network"], row["optimizer"]) == (network, optimizer):
                        runs.setdefault(row["seed"], []).append(row)
                if not runs:
                    continue
                for name, style in ((train, "--"), (test, "-")):
                    values = np.array(
                        [[float(row[name]) for row in run] for run in runs.values()]
                    )
                    epochs = range(1, values.shape[1] + 1)
                    look = {"color": f"C{number}", "linestyle": style}
                    axis.plot(epochs, values.T, linewidth=0.5, alpha=0.5, **look)
                    kind = "test" if name == test else "training"
                    axis.plot(epochs, values.mean(0), label=f"{title}, {kind}", **look)
            if label == "loss":
                axis.set_yscale("log")
            else:
                axis.set_ylim(0.8, 1)
            axis.set(title=f"{network_title}: {label}", xlabel="epoch", ylabel=label)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--runs", type=flags.folder, default=Path("runs/fashion_mnist"))
    make.add_argument(
        "--results", type=flags.folder, default=Path("docs/studies/fashion_mnist")
    )
    make.add_argument(
        "--workers", type=flags.COUNT, default=2, help="runs at the same time"
    )
    make.add_argument("--collect", action="store_true", help="train nothing")
    args = make.parse_args(arguments)
    try:
        if not args.collect:
            run_study(args)
        rows = collect(args.runs, args.results)
    except (RunError, OSError) as error:
        make.exit(2, f"{make.prog}: error: {error}\n")
    if rows:
        plot(rows, args.results / "curves.png")
        print(table(rows))


def run_study(args):
    """Searches the rates, then trains with them."""
    rates = tuned_rates(args.runs, args.workers)
    tasks = [
        (n, o, rate, (*STUDY, "--seed", str(seed)), str(args.runs / name))
        for seed in SEEDS
        for (n, o), rate in rates.items()
        for name in [f"study-{n}-{o}-{seed}"]
    ]
    run_all(tasks, args.workers, "study")


if __name__ == "__main__":
    main()
