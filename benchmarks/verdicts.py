"""
Title: How near is barely alive
Description: GradientMonitor's distances, and how alike the base at that factor trains.

    python benchmarks/verdicts.py     # the table of docs/guide/compose.md; minutes

Optimizers on scikit-learn's digits, as in examples/figures/alive.py: how far they are
from a constant factor c, and the root mean square of the logarithm of their validation
loss over that of their base at c times the learning rate, over four epochs and the
seeds. c is rounded in the table of bases below, and 1 where there is no such factor.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import keras
import numpy as np
from figures import drawing

import keras_gradopt as kg
from keras_gradopt.callbacks import GradientMonitor


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


ROWS = [  # name, optimizer, base, its learning rate
    ("AngularGrad", kg.AngularGrad, kg.AdamCore, 0.8808e-3),
    ("GAFSGD", kg.GAFSGD, sgd, 2e-2),
    ("DiffGrad", kg.DiffGrad, kg.AdamCore, 0.503e-3),
    ("AngularGrad tan", lambda: kg.AngularGrad(angle="tan"), kg.AdamCore, 0.503e-3),
    ("RAdamNorm", kg.RAdamNorm, kg.RAdam, 1e-3),
    ("GAFAdam", kg.GAFAdam, kg.AdamCore, 1e-3),
    ("WGDAdam", kg.WGDAdam, kg.AdamCore, 1e-3),
    ("AdamNorm", kg.AdamNorm, kg.AdamCore, 1e-3),
    ("Adam, rate 5 % off", lambda: kg.AdamCore(1.05e-3), kg.AdamCore, 1e-3),
]


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    make.add_argument("--seeds", type=int, default=5)
    seeds = make.parse_args().seeds
    images, labels, *validation = drawing.digits()

    def losses(optimizer, seed, *callbacks):
        history = drawing.small_network(optimizer, seed).fit(
            images, labels, 16, 4, shuffle=False, verbose=0,
            validation_data=validation, callbacks=list(callbacks),
        )  # fmt: skip
        return np.log(history.history["val_loss"])

    print("| | degree | distance | base, learning rate | validation loss differs by |")
    print("|---|---|---|---|---|", flush=True)
    for name, make_optimizer, make_base, rate in ROWS:
        monitor = GradientMonitor(1)
        monitors = [[monitor], *[[]] * (seeds - 1)]
        apart = [
            losses(make_optimizer(), seed, *monitors[seed])
            - losses(make_base(rate), seed)
            for seed in range(seeds)
        ]
        verdict = monitor.verdict
        degree = verdict.degree or "-"
        distance = f"{100 * verdict.distance:.2g} %" if verdict.degree else "-"
        base = type(make_base(rate)).__name__
        differs = 100 * np.sqrt(np.mean(np.square(apart)))
        cells = [name, degree, distance, f"{base}, {rate:g}", f"{differs:.1f} %"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
