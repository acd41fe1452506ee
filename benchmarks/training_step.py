"""
Title: The whole training step
Description: ResNet-18 on CIFAR shapes: what an optimizer adds to forward and backward.

    python benchmarks/training_step.py --csv docs/performance/training_step.csv

`train_on_batch` of the same network on the same batch with each optimizer, in turns,
in one process; the table shows medians, ranges and the ratio to the first of them
(Keras' Adam) in the same round: its median, with the 95 % bootstrap interval of that.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import keras
import numpy as np
from measurements import (
    add_rounds,
    environment,
    interleaved,
    known_rows,
    milliseconds,
    next_round,
    optimizers,
    write_csv,
)
from scipy.stats import bootstrap
from training.models import create_model

NAMES = ["keras Adam", "AngularGrad", "AdamNorm", "DiffGradNorm"]  # the most bytes


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--optimizers", nargs="+", default=NAMES)
    make.add_argument("--model", default="resnet18")
    make.add_argument("--batch-size", type=int, default=128)
    make.add_argument("--jit", action="store_true", help="compile the step by XLA")
    add_rounds(make, 60)
    args = make.parse_args()
    rows = known_rows(args)
    if args.rounds:
        rows += measured(args, next_round(rows))
        write_csv(args.csv, rows)
        print(f"{args.model}, batch {args.batch_size}; {environment('tensorflow')}")
    seconds = {row["optimizer"]: [] for row in rows}
    for row in rows:
        seconds[row["optimizer"]].append(row["ms"] / 1e3)
    reference, first = next(iter(seconds.items()))
    print(f"\n| optimizer | ms (range of {len(first)}) | to {reference} |")
    print("|---|---|---|")
    for name, taken in seconds.items():
        ratios = np.array(taken) / first  # of neighbours in time
        ratio = f"{statistics.median(ratios):.3f}"
        if name != reference:
            low, high = bootstrap((ratios,), np.median, rng=0).confidence_interval
            ratio += f" ({low:.3f}-{high:.3f})"
        print(f"| {name} | {milliseconds(taken)} | {ratio} |")


def measured(args: argparse.Namespace, first: int) -> list[dict]:
    """New rounds, numbered from `first`."""
    random = np.random.default_rng(0)
    images = random.random((args.batch_size, 32, 32, 3), "float32") * 255
    labels = random.integers(0, 10, args.batch_size)

    calls = {}
    for name in args.optimizers:
        keras.utils.set_random_seed(0)
        model = create_model(args.model, (32, 32, 3), 10)
        model.compile(
            optimizers()[name](),
            "sparse_categorical_crossentropy",
            jit_compile=args.jit,
        )
        calls[name] = lambda model=model: model.train_on_batch(images, labels)
    reference = args.optimizers[0]
    calls[f"{reference} again"] = calls[reference]  # how far apart equals are
    seconds = interleaved(calls, args.rounds)
    return [
        {"optimizer": name, "round": first + i, "ms": round(1e3 * s, 2)}
        for name, taken in seconds.items()
        for i, s in enumerate(taken)
    ]


if __name__ == "__main__":
    sys.exit(main())
