"""
Title: What GradientMonitor costs
Description: A training step with and without it, sampling every tenth step.

    python benchmarks/monitor.py --csv docs/performance/monitor.csv
    python benchmarks/monitor.py --csv docs/performance/monitor.csv --append --rounds 7
    python benchmarks/monitor.py --csv docs/performance/monitor.csv --rounds 0  # table

`fit` of ResNet-20 on CIFAR shapes, with and without the monitor in turns; the mean of
the steps after the first ten, so five sampled steps of fifty are in it. Beside it, in
the first steps, is the time that the new compilation of the training step takes.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import keras
import numpy as np
from measurements import (
    add_rounds,
    environment,
    known_rows,
    milliseconds,
    next_round,
    write_csv,
)
from scipy.stats import bootstrap
from training.models import create_model

import keras_gradopt

WARM = 10


class Clock(keras.callbacks.Callback):
    """Seconds from the end of one step to that of the next."""

    def on_train_begin(self, logs=None):
        self.ends = [time.perf_counter()]

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--model", default="resnet20")
    make.add_argument("--optimizer", default="AngularGrad")
    make.add_argument("--batch-size", type=int, default=128)
    make.add_argument("--steps", type=int, default=50)
    make.add_argument("--every", type=int, default=10)
    add_rounds(make, 5)
    args = make.parse_args()
    rows = known_rows(args)
    if args.rounds:
        rows += measured(args, next_round(rows))
        write_csv(args.csv, rows)
        print(f"{args.model}, {args.optimizer}; {environment('tensorflow')}")
    without, with_it = (
        np.array([row["step_ms"] for row in rows if row["monitored"] == m])
        for m in (0, 1)
    )
    ratios = with_it / without
    low, high = bootstrap((ratios,), np.median, rng=0).confidence_interval
    print(f"\n| | ms of a step (range of {len(ratios)}) | ratio |")
    print("|---|---|---|")
    print(f"| without | {milliseconds(without / 1e3)} | 1 |")
    ratio = f"{statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"
    print(f"| every {args.every} steps | {milliseconds(with_it / 1e3)} | {ratio} |")


def measured(args: argparse.Namespace, first: int) -> list[dict[str, float]]:
    """New rounds, numbered from `first`."""
    count = (WARM + args.steps) * args.batch_size
    random = np.random.default_rng(0)
    images = random.random((count, 32, 32, 3), "float32") * 255
    labels = random.integers(0, 10, count)
    model = create_model(args.model, (32, 32, 3), 10)
    model.compile(
        getattr(keras_gradopt, args.optimizer)(), "sparse_categorical_crossentropy"
    )
    rows = []
    for number in range(first, first + args.rounds):
        for monitored in (False, True):
            clock = Clock()
            monitor = keras_gradopt.callbacks.GradientMonitor(args.every)
            callbacks = [monitor, clock] if monitored else [clock]
            model.fit(images, labels, args.batch_size, verbose=0, callbacks=callbacks)
            steps = np.diff(clock.ends)
            row = {"monitored": int(monitored), "round": number}
            row["first_steps_s"] = round(float(steps[:WARM].sum()), 3)
            rows.append(row | {"step_ms": round(1e3 * float(steps[WARM:].mean()), 3)})
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
