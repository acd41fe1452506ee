"""
Title: Claims of the papers that need an experiment of their own
Description: Regret, saddle points, batch sizes, learning rates, gradient noise.

    python examples/studies/claims.py                  # all, about a quarter of an hour
    python examples/studies/claims.py regret noise     # some

Each experiment prints a table and writes its rows to `docs/studies/claims/NAME.csv`.
What the comparison of optimizers answers is in `studies/optimizers.py`; what a picture
answers, in `figures/`. The outcomes are collected in docs/claims.md.
"""

import argparse
import csv
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

sys.path.insert(0, str(Path(__file__).parent))

import commits
import keras
import numpy as np
import tensorflow as tf
from optimizers_report import Study
from optimizers_tasks import TASKS, digits, perceptron

import keras_gradopt as ours
from keras_gradopt import comparison
from keras_gradopt.comparison import statistics

"""
## Average regret (AngularGrad, section 4; AdaNorm, section 3.3; AdaL, Theorem 1)

Online least squares: `f_t(w) = (a_t w - b_t)^2 / 2` with a new row at every step, which
the optimizer pays for before it sees it. The papers take the learning rate down as
`1 / sqrt(t)` and prove an average regret of order `1 / sqrt(T)`: on logarithmic axes, a
slope of -1/2 or steeper.
"""


class InverseRoot(keras.optimizers.schedules.LearningRateSchedule):
    """`rate / sqrt(t)`, t from 1."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate / keras.ops.sqrt(keras.ops.cast(step, "float32") + 1)


def regret(steps=20_000, dimension=10, seeds=(1, 2, 3, 4, 5), rate=0.5):
    optimizers = {
        "Adam": ours.AdamCore,
        "AngularGrad cos": ours.AngularGrad,
        "AngularGrad tan": lambda rate: ours.AngularGrad(rate, angle="tan"),
        "AdamNorm": ours.AdamNorm,
        "AdaL": ours.AdaL,
    }
    times = np.unique(np.geomspace(steps // 100, steps, 9).astype(int))
    rows = []
    for name, make in optimizers.items():
        for seed in seeds:
            random = np.random.default_rng(seed)
            a = random.normal(size=(steps, dimension))
            b = a @ random.normal(size=dimension) + random.normal(size=steps)
            costs = online_costs(make(InverseRoot(rate)), a, b)
            found = []
            for t in times:
                best, *_ = np.linalg.lstsq(a[:t], b[:t], rcond=None)
                least = ((a[:t] @ best - b[:t]) ** 2).sum() / 2
                found.append((costs[:t].sum() - least) / t)
            slope, _ = np.polyfit(np.log(times), np.log(found), 1)
            rows.append(
                {
                    "optimizer": name,
                    "seed": seed,
                    "steps": steps,
                    "average_regret": found[-1],
                    "slope": slope,
                }
            )
    return rows


def online_costs(optimizer, a, b):
    """What each step cost, before the optimizer saw it."""
    w = keras.Variable(np.zeros(a.shape[1], "float32"))
    optimizer.build([w])
    a, b = (tf.constant(x, tf.float32) for x in (a, b))

    @tf.function
    def run():
        costs = tf.TensorArray(tf.float32, len(a))
        for t in tf.range(len(a)):
            error = tf.tensordot(a[t], w.value, 1) - b[t]
            costs = costs.write(t, error**2 / 2)
            optimizer.apply([error * a[t]], [w])
        return costs.stack()

    return run().numpy().astype("float64")


"""
## Leaving a saddle point (GAF, Theorem 6)

`f(x, y) = (x^2 - y^2) / 2`, begun beside the saddle: steps until |y| is above 0.1, and
above 1. The theorem's update is gradient descent with the activation of the gradient
(`learning_rate_inside=False`); Algorithm 1 activates the whole step. Both multiply what
is small by alpha beta = 2, so gradient descent at twice the rate is the control.
"""


def saddle(rates=(0.003, 0.01, 0.03, 0.1), start=1e-4, exits=(0.1, 1.0)):
    rows = []
    for rate in rates:
        for name, make in {
            "SGD": keras.optimizers.SGD,
            "SGD at twice the rate": lambda rate: keras.optimizers.SGD(2 * rate),
            "activated gradient": lambda rate: ours.GAFSGD(
                rate, momentum=0.0, learning_rate_inside=False
            ),
            "activated step": lambda rate: ours.GAFSGD(rate, momentum=0.0),
        }.items():
            row = {"optimizer": name, "learning_rate": rate}
            for far in exits:
                row[f"steps_to_{far:g}"] = steps_to_leave(make(rate), start, far)
            rows.append(row)
    return rows


def steps_to_leave(optimizer, start, far=1.0, limit=100_000):
    w = keras.Variable(np.array([0.5, start], "float32"))
    optimizer.build([w])

    @tf.function
    def run():
        count = tf.constant(0)
        while tf.abs(w.value[1]) < far and count < limit:
            optimizer.apply([w.value * tf.constant([1.0, -1.0])], [w])
            count += 1
        return count

    return int(run())


"""
## Fixed learning rates and batch sizes (AdaNorm, Tables 4 and 5)

The tables set AdamNorm against Adam at the same learning rate, without tuning; so does
this, on the convolutional network on digits, with twelve paired seeds and the study's
fixed parts. As the corrected gradient is longer, Adam at 1.25 times the rate is the
control. `keras_gradopt.comparison` runs it: every run is a row of `runs.csv` in a
folder of its own, and is not made again; Holm's correction goes over all six
comparisons of test loss. Accuracy is exploratory, without a verdict.
"""

SEEDS = range(11, 23)


def against_adam(args, name, tasks, rates):
    arms, pairs = {}, []
    for rate in rates:
        names = [f"AdamNorm at {rate:g}", f"Adam at {rate:g}"]
        names.append(f"Adam at {1.25 * rate:g}")
        makes = (ours.AdamNorm, ours.AdamCore, ours.AdamCore)
        for arm, make, factor in zip(names, makes, (1, 1, 1.25)):
            arms[arm] = comparison.Arm(make, rate=factor * rate)
        pairs += [(names[0], other) for other in names[1:]]
    folder = args.results / name
    commits.note_session(folder, args.allow_dirty)
    results = comparison.compare(
        tasks, arms, folder=folder, seeds=SEEDS, comparisons={"AdaNorm": pairs},
        controls=False, workers=0, progress=False,
    )  # fmt: skip
    return summary(results)


def summary(results):
    rows = []
    for found in Study(results).verdicts:
        at = (found.task, found.optimizer), (found.task, found.other)
        accuracy = [results.values(*of, "test_accuracy") for of in at]
        points = statistics.paired(*(100 * values for values in accuracy))
        rows.append(
            {
                "task": found.task,
                "optimizer": found.optimizer,
                "against": found.other,
                "loss": results.values(*at[0]).mean(),
                "other": results.values(*at[1]).mean(),
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "p_equivalent": found.p_equivalent,
                "detectable": found.detectable,
                "verdict": found.verdict,
                "accuracy": 100 * accuracy[0].mean(),
                "points": points.mean,
                "points_low": points.low,
                "points_high": points.high,
            }
        )
    return rows


def learning_rates(args):
    rates = (0.01, 0.001, 0.0001)
    return against_adam(args, "learning_rates", TASKS["digits-cnn"], rates)


def batch_sizes(args):
    tasks = [
        replace(TASKS["digits-cnn"], name=f"batch {size}", batch_size=size)
        for size in (32, 64, 128)
    ]
    return against_adam(args, "batch_sizes", tasks, [0.001])


"""
## The tail of gradient noise (AdaL, Fig. 3)

The paper's noise is `u = mean gradient - gradient of a batch` for SGD, its exponential
average for Adam, and the average of the same with `||g||_1 g` for AdaL. The weights are
held still, after some training. The tail index (2: Gaussian; smaller: heavier) is that
of Simsekli et al. (2019), who estimate it from how sums of the values spread.
"""


def noise(
    after=(0, 50, 200), batches=1000, batch_size=32, seeds=(1, 2, 3, 4, 5), beta=0.9
):
    rows = []
    for seed in seeds:
        rows += noise_of_seed(seed, after, batches, batch_size, beta)
    return rows


def noise_of_seed(seed, after, batches, batch_size, beta):
    images, labels = digits()
    images = np.repeat(np.repeat(images, 4, 1), 4, 2)[:, 2:30, 2:30]
    keras.utils.set_random_seed(seed)
    model = perceptron()
    loss = keras.losses.SparseCategoricalCrossentropy()
    optimizer = ours.AdamCore()
    variables = model.trainable_variables
    optimizer.build(variables)
    random = np.random.default_rng(seed)

    @tf.function
    def gradients(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return tape.gradient(value, [v.value for v in variables])

    def batch():
        chosen = random.choice(len(images), batch_size, replace=False)
        return tf.constant(images[chosen]), tf.constant(labels[chosen])

    rows, done = [], 0
    for steps in after:
        for _ in range(steps - done):
            optimizer.apply(gradients(*batch()), variables)
        done = steps
        kernel = [gradients(*batch())[2].numpy().ravel() for _ in range(batches)]
        plain = np.array(kernel, "float64")  # of the middle layer
        scaled = plain * np.abs(plain).sum(1, keepdims=True)
        u = {"SGD": plain.mean(0) - plain}
        u["Adam"] = averages(u["SGD"], beta)
        u["AdaL"] = averages(scaled.mean(0) - scaled, beta)
        for name, values in u.items():
            row = {"optimizer": name, "seed": seed, "steps": steps}
            rows.append(row | {"tail_index": tail_index(values)})
    return rows


def averages(values, beta):
    """Bias-corrected exponential averages, over the first axis."""
    average, found = np.zeros(values.shape[1]), []
    for t, value in enumerate(values, 1):
        average = beta * average + (1 - beta) * value
        found.append(average / (1 - beta**t))
    return np.array(found)


def tail_index(values):
    """The alpha of a symmetric alpha-stable distribution, from values of any shape."""
    values = values[:, values.std(0) > 0].ravel()
    values = np.random.default_rng(0).permutation(values)
    size = int(math.sqrt(len(values)))
    blocks = values[: size * size].reshape(size, size)
    sums = np.log(np.abs(blocks.sum(1)))
    single = np.log(np.abs(blocks[blocks != 0]))
    return math.log(size) / (sums.mean() - single.mean())


"""
## The command
"""

EXPERIMENTS = {
    "regret": lambda args: regret(),
    "saddle": lambda args: saddle(),
    "learning_rates": learning_rates,
    "batch_sizes": batch_sizes,
    "noise": lambda args: noise(),
}


def markdown(rows):
    def show(value):
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(map(show, row.values()))} |" for row in rows]
    return "\n".join(lines)


def main(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument(
        "experiments", nargs="*", metavar="NAME", help=f"of {list(EXPERIMENTS)}"
    )
    make.add_argument("--results", type=Path, default=Path("docs/studies/claims"))
    make.add_argument("--allow-dirty", action="store_true", help="for a trial")
    args = make.parse_args(arguments)
    for name in args.experiments or EXPERIMENTS:
        if name not in EXPERIMENTS:
            make.error(f"unknown experiment {name!r}: one of {list(EXPERIMENTS)}")
        rows = EXPERIMENTS[name](args)
        args.results.mkdir(parents=True, exist_ok=True)
        with open(args.results / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"\n## {name}\n\n{markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
