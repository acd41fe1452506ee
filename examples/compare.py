"""
Title: Compare optimizers
Description: The same search for all, fresh paired seeds, intervals, controls.

    python examples/compare.py --workloads digits-cnn --optimizers AngularGrad AdamNorm
    python examples/compare.py                            # everything, for hours
    python examples/compare.py --collect                  # tables and pictures only

Every optimizer gets its learning rate by the same search: half-decades from 3e-4 to
1e-1, three seeds, the lowest mean validation loss at the end of training; more rates as
long as the best is at an edge. Then it trains with ten fresh seeds, and the loss on the
test part is reported. A seed draws the initial weights, the order of the batches and
who is in which part, alike for all optimizers, so differences are paired. The learning
rate falls to zero along a cosine.

Each optimizer is compared with Adam and with its own base: mean paired difference with
a 95 % bootstrap interval, sign-flip test, Holm's correction over the comparisons with
Adam, and over the others, of a workload. "better" and "worse" are written where the
corrected p is below 0.05 and the interval excludes 0. Controls: Adam against itself
from other initial weights (which must show no difference), and Adam at 0.88 and at half
of AngularGrad's rate.

Every run is a row of a CSV file, written when it ends; what is there, or in the folder
of results, is not run again.
"""

import argparse
import concurrent.futures
import csv
import functools
import itertools
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras.optimizers import SGD, Adam, Nadam
from training import flags
from training.run_files import RunError, alone_in, read_json, replacing, write_json
from workloads import WORKLOADS, Workload

import keras_gradopt as ours

TUNING_SEEDS = (1, 2, 3)
REPORT_SEEDS = tuple(range(11, 21))
GRID = range(-1, 5)  # of half-decades: 3e-4 to 1e-1
EDGES = (-8, 12)  # no rates beyond


def half_decade(index: int) -> float:
    """1e-3 at 0, 3e-3 at 1, 1e-2 at 2, and so on."""
    return float(f"{(1, 3)[index % 2]}e{-3 + index // 2}")


"""
## Who is compared
"""


@dataclass(frozen=True)
class Entry:
    """An optimizer in a comparison.

    Args:
        make: From a learning rate to the optimizer.
        against: The entries that it is compared with.
        rate_of: The entry whose tuned learning rate it takes, times `factor`.
        factor: See `rate_of`.
        weights_shift: Added to the seed of the initial weights, and to no other.
        needs_kernels: It equals its base on networks without convolution kernels.
    """

    make: Callable[[float], keras.optimizers.Optimizer]
    against: tuple[str, ...] = ("Adam",)
    rate_of: str | None = None
    factor: float = 1.0
    weights_shift: int = 0
    needs_kernels: bool = False


def momentum(rate, **keywords):
    return SGD(rate, momentum=0.9, **keywords)


def whitening(make, *bases, **keywords):
    return Entry(make, bases, needs_kernels=True, **keywords)


def entries(make):
    return lambda rate: make(rate, mean_over="entries")


def ablation(**keywords):
    return Entry(
        lambda rate: ours.AdamNorm(rate, **keywords), ("AdamNorm",), "AdamNorm"
    )


ENTRIES = {
    "Adam": Entry(ours.AdamCore, ()),
    "SGD": Entry(momentum),
    "Nadam": Entry(Nadam),
    "RAdam": Entry(ours.RAdam),
    "AdaBelief": Entry(ours.AdaBelief),
    "NosAdam": Entry(ours.NosAdam),
    "AMSGrad": Entry(lambda rate: Adam(rate, amsgrad=True)),
    "DiffGrad": Entry(ours.DiffGrad),
    "AngularGrad": Entry(ours.AngularGrad),
    "AngularGrad tan": Entry(lambda rate: ours.AngularGrad(rate, angle="tan")),
    "AdamNorm": Entry(ours.AdamNorm),
    "DiffGradNorm": Entry(ours.DiffGradNorm, ("Adam", "DiffGrad")),
    "RAdamNorm": Entry(ours.RAdamNorm, ("Adam", "RAdam")),
    "AdaBeliefNorm": Entry(ours.AdaBeliefNorm, ("Adam", "AdaBelief")),
    "AdaL": Entry(ours.AdaL, ("Adam", "NosAdam", "AMSGrad")),
    "SGD, clipped values": Entry(lambda rate: momentum(rate, clipvalue=0.1), ("SGD",)),
    "SGD, clipped norms": Entry(lambda rate: momentum(rate, clipnorm=0.1), ("SGD",)),
    "GAFSGD": Entry(
        ours.GAFSGD, ("Adam", "SGD", "SGD, clipped values", "SGD, clipped norms")
    ),
    "GAFAdam": Entry(ours.GAFAdam),
    "WGDSGD": whitening(ours.WGDSGD, "Adam", "SGD"),
    "WGDAdam": whitening(ours.WGDAdam, "Adam"),
    "WGDNadam": whitening(ours.WGDNadam, "Adam", "Nadam"),
    "WGDRAdam": whitening(ours.WGDRAdam, "Adam", "RAdam"),
    # the paper's other mean
    "WGDSGD, entries": whitening(entries(ours.WGDSGD), "SGD"),
    "WGDAdam, entries": whitening(entries(ours.WGDAdam), "Adam"),
    "WGDNadam, entries": whitening(entries(ours.WGDNadam), "Nadam"),
    "WGDRAdam, entries": whitening(entries(ours.WGDRAdam), "RAdam"),
    # controls
    "Adam again": Entry(ours.AdamCore, rate_of="Adam", weights_shift=1000),
    "Adam, half rate": Entry(
        ours.AdamCore, ("AngularGrad",), rate_of="AngularGrad", factor=0.5
    ),
    "Adam, 0.88 rate": Entry(
        ours.AdamCore, ("AngularGrad",), rate_of="AngularGrad", factor=0.88
    ),
    # variants, at the rate that was tuned for the default
    "AdamNorm, gamma 0.9": ablation(gamma=0.9),
    "AdamNorm, gamma 0.99": ablation(gamma=0.99),
    "AdamNorm, gamma 0.999": ablation(gamma=0.999),
    "AdamNorm, second": ablation(corrected_moments="second"),
    "AdamNorm, both": ablation(corrected_moments="both"),
}


"""
## One run
"""

FIELDS = [
    "workload", "optimizer", "stage", "learning_rate", "seed", "diverged",
    "train_loss", "validation_loss", "test_loss", "test_accuracy", "ms_per_step",
    "validation_losses",
]  # fmt: skip
RUN = FIELDS[:5]  # which tell one run from another


def read_rows(path: Path) -> list[dict[str, str]]:
    """The runs in a CSV file, each once.

    Raises:
        RunError: if the file has anything else in it.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows, found = csv.DictReader(file, strict=True), {}
            if rows.fieldnames != FIELDS:
                raise ValueError("its columns are others")
            for row in rows:
                checked(row)
                if found.setdefault(tuple(row[name] for name in RUN), row) != row:
                    raise ValueError("this run is there twice, with other results")
    except (ValueError, csv.Error) as error:
        where = f", line {rows.line_num}" if rows.line_num > 1 else ""
        raise RunError(f"{path}{where} is damaged: {error}") from error
    return list(found.values())


def checked(row: dict[str, str]) -> None:
    """Raises a `ValueError` for a row that no run can have written."""
    if None in row or None in row.values():
        raise ValueError("a row has more or fewer values than there are columns")
    for name, known in (
        ("workload", WORKLOADS),
        ("optimizer", ENTRIES),
        ("stage", ("tuning", "report")),
        ("diverged", ("0", "1")),
    ):
        if row[name] not in known:
            raise ValueError(f"unknown {name} {row[name]!r}")
    int(row["seed"])
    classifies = WORKLOADS[row["workload"]].classifies
    for name in [*FIELDS[6:10], "learning_rate", "ms_per_step"]:
        if name != "test_accuracy" or classifies:
            float(row[name])
    if not [float(loss) for loss in row["validation_losses"].split()]:
        raise ValueError("no validation losses")


class Trainer:
    """Trains one network with one optimizer again and again, compiled once.

    Args:
        workload: What to train.
        optimizer: Not yet built.
    """

    def __init__(self, workload: Workload, optimizer: keras.optimizers.Optimizer):
        self.workload = workload
        self.model = workload.network()
        self.model.compile(
            optimizer,
            workload.loss,
            metrics=["accuracy"] if workload.classifies else None,
            jit_compile=keras.backend.backend() == "jax",
        )
        optimizer.build(self.model.trainable_variables)
        self.state = list(optimizer.variables)
        for value in vars(optimizer).values():  # Keras' Nadam has one more
            if isinstance(value, keras.Variable):
                self.state.append(value)
        self.initial_state = [variable.numpy() for variable in self.state]

    def reset(self, seed: int) -> None:
        """Fresh weights, and an optimizer that has seen nothing."""
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.workload.network().get_weights())
        for variable, value in zip(self.state, self.initial_state):
            variable.assign(value)

    def measure(self, examples) -> list[float]:
        """The loss on some examples, and the accuracy if there is one."""
        self.model.reset_metrics()
        return list(np.atleast_1d(self.model.test_on_batch(*examples)).astype(float))

    def run(self, rate: float, seed: int, weights_shift: int = 0) -> dict[str, Any]:
        """Trains once; a row of results."""
        workload, model = self.workload, self.model
        parts = workload.parts(seed)
        x, y = parts.train
        self.reset(seed + weights_shift)
        random = np.random.default_rng(seed)
        per_epoch = len(x) // workload.batch_size
        total, losses, seconds = per_epoch * workload.epochs, [], 0.0
        for epoch in range(workload.epochs):
            order = random.permutation(len(x))[: per_epoch * workload.batch_size]
            model.reset_metrics()
            begin = time.perf_counter()
            for i, indices in enumerate(order.reshape(per_epoch, -1)):
                done = (epoch * per_epoch + i) / total
                model.optimizer.learning_rate = (
                    rate * (1 + math.cos(math.pi * done)) / 2
                )
                logs = model.train_on_batch(x[indices], y[indices])
            seconds += time.perf_counter() - begin
            train_loss = float(np.atleast_1d(logs)[0])  # the mean over the epoch
            losses.append(self.measure(parts.validation)[0])
            if not np.isfinite([train_loss, losses[-1]]).all():
                break
        diverged = not np.isfinite([train_loss, losses[-1]]).all()
        test = self.measure(parts.test)
        return {
            "learning_rate": f"{rate:g}",
            "seed": seed,
            "diverged": int(diverged),
            "train_loss": math.inf if diverged else train_loss,
            "validation_loss": math.inf if diverged else losses[-1],
            "test_loss": math.inf if diverged else test[0],
            "test_accuracy": test[1] if workload.classifies else "",
            "ms_per_step": round(1e3 * seconds / (per_epoch * (epoch + 1)), 3),
            "validation_losses": " ".join(f"{loss:.6g}" for loss in losses),
        }


"""
## One optimizer on one workload: search, then report
"""


class Rows:
    """The runs of one optimizer on one workload, in a file that only grows."""

    def __init__(self, folder: Path, workload: str, optimizer: str):
        slug = optimizer.replace(",", "").replace(" ", "-")
        self.path = folder / workload / f"{slug}.csv"
        self.known = {"workload": workload, "optimizer": optimizer}
        self.rows = []
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # a kill may cut a row off
            if whole != content:
                with replacing(self.path) as new:
                    new.write_bytes(whole)
            self.rows = read_rows(self.path) if whole else []

    def find(self, stage: str, rate: float, seed: int) -> dict[str, Any] | None:
        """The row of a run, if it was run."""
        wanted = {"stage": stage, "learning_rate": f"{rate:g}", "seed": str(seed)}
        for row in self.rows:
            if all(str(row[key]) == value for key, value in wanted.items()):
                return row
        return None

    def add(self, stage: str, row: dict[str, Any]) -> dict[str, Any]:
        """Writes the row of a run that ended."""
        row = self.known | {"stage": stage} | row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.rows
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        return row


def search(run: Callable[[int], float]) -> dict[int, float]:
    """Losses by half-decade, extended as long as the best is at an edge.

    Args:
        run: From the index of a learning rate to the loss that it ends at.
    """
    losses = {index: run(index) for index in GRID}
    while True:
        best = best_index(losses)
        missing = {best - 1, best + 1} - set(losses)
        missing = {i for i in missing if EDGES[0] <= i <= EDGES[1]}
        if not missing:
            return losses
        losses |= {index: run(index) for index in missing}


def best_index(losses: dict[int, float]) -> int:
    """The index of the lowest loss; of the lowest rate if all diverged."""
    return min(losses, key=lambda index: (losses[index], index))


def run_job(
    folder, workload_name, optimizer_name, tuning_seeds, seeds, rate=None, trainer=None
):
    """All runs of one optimizer on one workload that are not in the file yet.

    Args:
        trainer: Makes the `Trainer`, if there is something to run.

    Returns:
        The learning rate that was found, or given.
    """
    entry, workload = ENTRIES[optimizer_name], WORKLOADS[workload_name]
    rows = Rows(folder, workload_name, optimizer_name)

    make = functools.cache(trainer or (lambda: Trainer(workload, entry.make(1e-3))))

    def row(stage, rate, seed):
        found = rows.find(stage, rate, seed)
        return found or rows.add(stage, make().run(rate, seed, entry.weights_shift))

    if rate is None:

        def loss(index):
            found = [row("tuning", half_decade(index), s) for s in tuning_seeds]
            return float(np.mean([float(r["validation_loss"]) for r in found]))

        rate = half_decade(best_index(search(loss)))
    for seed in seeds:
        row("report", rate, seed)
    return rate


class StillToRun(Exception):
    """A run is not in the file yet."""


def only_looking():
    """Instead of making a `Trainer`.

    Raises:
        StillToRun: always.
    """
    raise StillToRun


@functools.cache
def has_kernels(workload: str) -> bool:
    """Whether the network has convolution kernels."""
    model = WORKLOADS[workload].network()
    return any("conv" in layer.name for layer in model.layers)


def run_all(args) -> None:
    """Every job, `args.workers` at a time, with a progress bar."""
    from tqdm import tqdm

    jobs = [
        (w, o)
        for w in args.workloads
        for o in args.optimizers
        if has_kernels(w) or not ENTRIES[o].needs_kernels
    ]
    first = [job for job in jobs if ENTRIES[job[1]].rate_of is None]
    second = [job for job in jobs if job not in first]
    per_job = len(GRID) * len(args.tuning_seeds) + len(args.seeds)
    rates: dict[tuple[str, str], float] = {}
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    os.environ["COMPARE_CACHE"] = str(args.runs)
    context = multiprocessing.get_context("spawn")
    for title, some in (("optimizers", first), ("controls", second)):
        bar = tqdm(total=len(some), desc=title, unit="job", disable=args.quiet)
        # a fresh process for each job, so that memory of old graphs is given back
        with concurrent.futures.ProcessPoolExecutor(
            args.workers, context, max_tasks_per_child=1
        ) as pool:
            futures = {}
            for workload, name in some:
                entry = ENTRIES[name]
                rate = None
                if entry.rate_of is not None:
                    rate = entry.factor * rates[workload, entry.rate_of]
                job = (args.runs, workload, name, args.tuning_seeds, args.seeds, rate)
                try:
                    rates[workload, name] = run_job(*job, trainer=only_looking)
                    bar.update()
                except StillToRun:
                    futures[pool.submit(run_job, *job)] = (workload, name)
            for future in concurrent.futures.as_completed(futures):
                rates[futures[future]] = future.result()
                bar.update()
                bar.set_postfix_str(
                    f"{' '.join(futures[future])}, about {per_job} runs a job"
                )
        bar.close()


"""
## Statistics
"""


def paired(ours: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Mean difference, bootstrap interval, and p of the sign-flip test.

    Args:
        ours: One value for each seed.
        others: The same for another optimizer.
    """
    from scipy import stats

    difference = ours - others
    if not np.isfinite(difference).all():
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "p": 1.0}
    if np.ptp(difference) == 0:  # of which there is no bootstrap
        value = float(difference[0])
        p = 1.0 if value == 0 else 2.0 ** (1 - len(difference))
        return {"mean": value, "low": value, "high": value, "p": p}
    low, high = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=9999, rng=0
    ).confidence_interval
    test = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    return {
        "mean": float(difference.mean()), "low": float(low), "high": float(high),
        "p": float(test.pvalue),
    }  # fmt: skip


def corrected(p_values: list[float]) -> list[float]:
    """Holm's correction."""
    from statsmodels.stats.multitest import multipletests

    return list(multipletests(p_values, method="holm")[1]) if p_values else []


def verdict(found: dict[str, float], p: float, lower_is_better: bool = True) -> str:
    """In words, by the rule above."""
    if math.isnan(found["mean"]):
        return "diverged"
    if p >= 0.05 or found["low"] <= 0 <= found["high"]:
        return "no detectable difference"
    return "better" if (found["mean"] < 0) == lower_is_better else "worse"


class Results:
    """All rows of a comparison.

    Args:
        rows: As dictionaries of text, from one or more CSV files.
    """

    def __init__(self, rows: list[dict[str, str]]):
        self.rows = rows
        self.workloads = [w for w in WORKLOADS if any(r["workload"] == w for r in rows)]

    def optimizers(self, workload: str) -> list[str]:
        """Those with a report on this workload."""
        there = {
            r["optimizer"]
            for r in self.rows
            if (r["workload"], r["stage"]) == (workload, "report")
        }
        return [name for name in ENTRIES if name in there]

    def runs(self, workload, optimizer, stage="report") -> list[dict[str, str]]:
        """The rows of an optimizer, in the order of seeds."""
        wanted = (workload, optimizer, stage)
        keys = ("workload", "optimizer", "stage")
        found = [r for r in self.rows if tuple(r[key] for key in keys) == wanted]
        return sorted(found, key=lambda r: int(r["seed"]))

    def column(self, workload, optimizer, name, stage="report") -> np.ndarray:
        """One value for each run, in the order of seeds."""
        return np.array([float(r[name]) for r in self.runs(workload, optimizer, stage)])

    def rate(self, workload, optimizer) -> float:
        """The learning rate that was reported on."""
        return self.column(workload, optimizer, "learning_rate")[0]

    def sensitivity(self, workload, optimizer) -> tuple[list[float], list[float]]:
        """Learning rates, and the mean validation loss at each."""
        found: dict[float, list[float]] = {}
        for r in self.runs(workload, optimizer, "tuning"):
            rate = float(r["learning_rate"])
            found.setdefault(rate, []).append(float(r["validation_loss"]))
        rates = sorted(found)
        return rates, [float(np.mean(found[rate])) for rate in rates]

    def target(self, workload) -> float:
        """The validation loss that tuned Adam ends at in the search, plus 5 %."""
        _, losses = self.sensitivity(workload, "Adam")
        return 1.05 * min(losses) if losses else math.nan

    def epochs_to_target(self, workload, optimizer) -> np.ndarray:
        """Epochs until the target, for each run; infinite if it was missed."""
        target, found = self.target(workload), []
        for r in self.runs(workload, optimizer):
            losses = np.array(r["validation_losses"].split(), float)
            reached = np.flatnonzero(losses <= target)
            found.append(reached[0] + 1 if len(reached) else math.inf)
        return np.array(found)

    def rising(self, workload, optimizer) -> np.ndarray:
        """The share of epochs that raise the validation loss, for each run."""
        rises = []
        for r in self.runs(workload, optimizer):
            losses = np.array(r["validation_losses"].split(), float)
            rises.append(np.mean(np.diff(losses) > 0))
        return np.array(rises)

    def spread(self, workload, optimizer, other) -> tuple[float, float]:
        """Ratio of the standard deviations of test losses, and its p.

        Of the permutation test that swaps the two within pairs, each about its median.
        """
        from scipy import stats

        def log_ratio(a, b, axis=-1):
            return np.log(a.std(ddof=1, axis=axis) / b.std(ddof=1, axis=axis))

        a, b = (self.column(workload, o, "test_loss") for o in (optimizer, other))
        if not np.isfinite([*a, *b]).all() or np.ptp(a - b) == 0:
            return math.nan, 1.0
        a, b = a - np.median(a), b - np.median(b)
        test = stats.permutation_test(
            (a, b), log_ratio, permutation_type="samples", n_resamples=np.inf
        )
        return float(np.exp(test.statistic)), float(test.pvalue)

    def comparisons(self, workload, measure="test_loss") -> list[dict[str, Any]]:
        """With Adam, and with others; Holm's correction within each of the two."""
        names, found = self.optimizers(workload), []
        for with_adam in (True, False):
            family = []
            for name in names:
                for other in ENTRIES[name].against:
                    if other not in names or (other == "Adam") != with_adam:
                        continue
                    mine = self.column(workload, name, measure)
                    theirs = self.column(workload, other, measure)
                    if len(mine) == len(theirs):
                        pair = {"optimizer": name, "against": other}
                        family.append(pair | paired(mine, theirs))
            for row, p in zip(family, corrected([row["p"] for row in family])):
                words = verdict(row, p, measure != "test_accuracy")
                found.append(row | {"corrected_p": p, "verdict": words})
        return found


def number(value: float) -> str:
    """With what digits matter."""
    return f"{value:.4g}"


def table(results: Results, workload: str) -> str:
    """One workload in Markdown."""
    classifies = WORKLOADS[workload].classifies
    header = ["optimizer", "rate", "test loss, mean ± std", "median"]
    header += ["accuracy"] * classifies
    header += ["epochs to target", "rising", "diverged", "ms/step"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in results.optimizers(workload):

        def column(field, name=name):
            return results.column(workload, name, field)

        loss, epochs = column("test_loss"), results.epochs_to_target(workload, name)
        tuning = results.column(workload, name, "diverged", "tuning")
        runs = np.concatenate([column("diverged"), tuning])
        accuracy = f" {column('test_accuracy').mean():.2%} |" if classifies else ""
        reached = int(np.isfinite(epochs).sum())
        lines.append(
            f"| {name} | {results.rate(workload, name):g} | {number(loss.mean())} ± "
            f"{number(loss.std(ddof=1))} | {number(np.median(loss))} |{accuracy} "
            f"{np.median(epochs):g} ({reached} of {len(epochs)}) | "
            f"{results.rising(workload, name).mean():.0%} | "
            f"{int(runs.sum())} of {len(runs)} | "
            f"{np.median(column('ms_per_step')):.2f} |"
        )
    return "\n".join(lines)


def comparison_table(results: Results, workload: str, measure="test_loss") -> str:
    """The differences of one workload in Markdown."""
    lines = [
        "| optimizer | against | difference | 95 % interval | p | Holm | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results.comparisons(workload, measure):
        lines.append(
            f"| {row['optimizer']} | {row['against']} | {row['mean']:+.3g} | "
            f"{row['low']:+.3g} to {row['high']:+.3g} | {row['p']:.3f} | "
            f"{row['corrected_p']:.3f} | {row['verdict']} |"
        )
    return "\n".join(lines)


def overview(results: Results, measure="test_loss") -> str:
    """All comparisons in one table: the difference in per cent, bold if detected."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    for workload in results.workloads:
        for row in results.comparisons(workload, measure):
            other = results.column(workload, row["against"], measure).mean()
            text = f"{100 * row['mean'] / other:+.1f}"
            if row["verdict"] == "diverged":
                text = "diverged"
            elif row["verdict"] != "no detectable difference":
                text = f"**{text} {row['verdict']}**"
            cells = columns.setdefault((row["optimizer"], row["against"]), {})
            cells[workload] = text
    titles = [WORKLOADS[workload].title for workload in results.workloads]
    lines = [f"| optimizer | against | {' | '.join(titles)} |"]
    lines.append("|---" * (2 + len(titles)) + "|")
    for names, cells in columns.items():
        found = [cells.get(workload, "") for workload in results.workloads]
        lines.append(f"| {' | '.join([*names, *found])} |")
    return "\n".join(lines)


CLAIM_SMALL_SPREAD = ("AngularGrad", "AngularGrad tan")


def spreads(results: Results) -> str:
    """The spread over seeds of the methods that claim a smaller one."""
    rows = []
    for workload in results.workloads:
        for name in (*CLAIM_SMALL_SPREAD, "Adam again"):
            if name in results.optimizers(workload):
                ratio, p = results.spread(workload, name, "Adam")
                rows.append((WORKLOADS[workload].title, name, ratio, p))
    lines = ["| workload | optimizer | std / Adam's | p | Holm |", "|---" * 5 + "|"]
    for (title, name, ratio, p), holm in zip(rows, corrected([r[-1] for r in rows])):
        lines.append(f"| {title} | {name} | {ratio:.2f} | {p:.3f} | {holm:.3f} |")
    return "\n".join(lines)


def smoothness(results: Results) -> str:
    """How often the validation loss rises, of methods that claim smoother curves."""
    lines = ["| workload | optimizer | base | rising | of base | interval | p |"]
    lines.append("|---" * 7 + "|")
    for workload in results.workloads:
        for name in results.optimizers(workload):
            if ENTRIES[name].needs_kernels or name in CLAIM_SMALL_SPREAD:
                base = ENTRIES[name].against[-1]
                mine, theirs = (results.rising(workload, o) for o in (name, base))
                found = paired(mine, theirs)
                lines.append(
                    f"| {WORKLOADS[workload].title} | {name} | {base} | "
                    f"{mine.mean():.1%} | {theirs.mean():.1%} | {found['low']:+.1%} "
                    f"to {found['high']:+.1%} | {found['p']:.3f} |"
                )
    return "\n".join(lines)


def unfinished(results: Results, workloads, optimizers, seeds) -> str:
    """Which optimizers have not all of their reports, by workload."""
    lines = []
    for workload in workloads:
        names = [
            name
            for name in optimizers
            if (has_kernels(workload) or not ENTRIES[name].needs_kernels)
            and len(results.column(workload, name, "seed")) < len(seeds)
        ]
        if names:
            lines.append(f"- {WORKLOADS[workload].title}: {'; '.join(names)}")
    return "\n".join(["**Unfinished.** Still to be run:\n", *lines]) if lines else ""


def report(results: Results, still: str = "") -> str:
    """All tables, as a page.

    Args:
        results: All rows.
        still: What is still to be run.
    """
    count = len(results.rows)
    page = [
        "# The comparison in numbers",
        f"Written by `examples/compare.py` from the {count:,} runs in `runs.csv`. The "
        "protocol is in its first lines; what follows from the numbers is in the "
        "[study](../../study.md).",
        *([still] if still else []),
        "Test losses, paired differences in per cent of the other's; bold where Holm's "
        "p is below 0.05 and the interval excludes 0 (a percentile bootstrap; of ten "
        "normal values it covers 90 %, not 95, in simulation). No cell: not run, as "
        "the network has no convolution kernels.",
        overview(results),
        "![Differences with intervals](differences.png)",
        "The same of test accuracies:",
        overview(
            Results([r for r in results.rows if r["test_accuracy"] != ""]),
            "test_accuracy",
        ),
        "## Learning rates",
        "![Validation loss over learning rates](sensitivity.png)",
        "## Spread over seeds",
        "Standard deviation of test losses to Adam's, p of the permutation test within "
        "pairs, and Holm's over the table. A seed also draws who is in the test part.",
        spreads(results),
        "## Smoothness of curves",
        "The share of epochs that raise the validation loss, with that of the base; "
        "interval and p of the difference, not corrected.",
        smoothness(results),
    ]
    for workload in results.workloads:
        page += [
            f"## {WORKLOADS[workload].title}",
            f"Target: a validation loss of {number(results.target(workload))}. "
            "`rising`: the share of epochs that raise the validation loss.",
            table(results, workload),
            comparison_table(results, workload),
        ]
        if WORKLOADS[workload].classifies:
            page += ["Of test accuracy:"]
            page += [comparison_table(results, workload, "test_accuracy")]
    return "\n\n".join(page) + "\n"


"""
## Pictures
"""


FAMILIES = {
    "friction": "Adam; DiffGrad; AngularGrad; AngularGrad tan",
    "AdaNorm": (
        "Adam; AdamNorm; DiffGradNorm; RAdam; RAdamNorm; AdaBelief; AdaBeliefNorm"
    ),
    "GAF": "Adam; GAFAdam; SGD; SGD, clipped values; SGD, clipped norms; GAFSGD",
    "AdaL": "Adam; NosAdam; AMSGrad; AdaL",
    "WGD": "Adam; WGDAdam; SGD; WGDSGD; Nadam; WGDNadam; RAdam; WGDRAdam",
}


def plot_sensitivity(results: Results, path: Path) -> None:
    """Validation loss over learning rates: a row a workload, a column a method."""
    from matplotlib.figure import Figure

    rows = len(results.workloads)
    figure = Figure(figsize=(16, 3 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, len(FAMILIES), squeeze=False, sharey="row")
    for row, workload in zip(axes, results.workloads):
        best = math.inf
        for axis, (family, names) in zip(row, FAMILIES.items()):
            for i, name in enumerate(names.split("; ")):
                rates, losses = results.sensitivity(workload, name)
                best = min(best, *losses, math.inf)
                style = "--" if name in ("RAdam", "AdaBelief", "SGD", "Nadam") else "-"
                axis.plot(
                    rates, losses, style, marker=".", label=name,
                    color="0.6" if name == "Adam" else f"C{i - 1}",
                    linewidth=3 if name == "Adam" else 1.2,
                )  # fmt: skip
            axis.set(xscale="log", yscale="log")
            axis.grid(alpha=0.3)
            if axis in axes[0]:
                axis.set_title(family)
            if axis in axes[-1]:
                axis.set_xlabel("learning rate")
                axis.legend(
                    fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.25)
                )
        row[0].set_ylabel(f"{WORKLOADS[workload].title}\nvalidation loss")
        if math.isfinite(best):
            row[0].set_ylim(0.9 * best, 8 * best)
    figure.savefig(path, dpi=90)


def plot_differences(results: Results, path: Path) -> None:
    """Paired differences with intervals, in per cent of the other's loss.

    Narrow, with large letters: it is read on phones, too.
    """
    from matplotlib.figure import Figure

    found = {workload: results.comparisons(workload) for workload in results.workloads}
    groups: dict[str, dict[str, None]] = {"Adam": {}}  # against -> optimizers, in order
    for row in itertools.chain(*found.values()):
        groups.setdefault(row["against"], {})[row["optimizer"]] = None
    lines = [
        (optimizer, against)
        for against, optimizers in groups.items()
        for optimizer in (None, *optimizers)  # None: the group's title
    ]
    width, height = 4.5, 1.75 + 0.135 * len(lines)
    figure = Figure(figsize=(width, height))
    room = {"left": 1.5 / width, "right": 1 - 0.12 / width, "wspace": 0.1}
    room |= {"bottom": 0.65 / height, "top": 1 - 1.1 / height}
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True, gridspec_kw=room)[
        0
    ]
    colors = {"better": "C0", "worse": "C3", "no detectable difference": "0.6"}
    for axis, (workload, rows) in zip(axes, found.items()):
        for row in rows:
            if row["verdict"] == "diverged":
                continue
            other = results.column(workload, row["against"], "test_loss").mean()
            middle, low, high = (100 * row[k] / other for k in ("mean", "low", "high"))
            axis.errorbar(
                middle, lines.index((row["optimizer"], row["against"])),
                xerr=[[middle - low], [high - middle]], fmt="|", markersize=6,
                markeredgewidth=1.3, linewidth=1.8, color=colors[row["verdict"]],
            )  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.5)
        title = textwrap.fill(WORKLOADS[workload].title, 14)
        axis.set_title(title, size=7.5, rotation=90)
        axis.set_xscale("symlog", linthresh=10)
        widest = 1.3 * max(20.0, *map(abs, axis.get_xlim()))
        tick = next(tick for tick in (1000, 100, 10) if tick <= widest)
        axis.set_xticks([-tick, 0, tick], ["", "", f"+{tick}"])
        axis.set_xticks([], minor=True)
        axis.set_xlim(-widest, widest)
        axis.tick_params(labelsize=6.2, length=0, pad=2)
        axis.grid(alpha=0.3)
    labels = [optimizer or f"vs {against}" for optimizer, against in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for (optimizer, _), label in zip(lines, axes[0].get_yticklabels()):
        label.set(size=7.5, weight="normal" if optimizer else "bold")
    figure.text(
        0.02, 0.02,
        "Difference of test loss with 95 % interval, in % of the other's;\n"
        "linear to 10, logarithmic beyond; the black line is 0.\n"
        "Blue: better, red: worse, grey: no detectable difference",
        size=7.5,
    )  # fmt: skip
    figure.savefig(path, dpi=200)


"""
## The command
"""


def collect(args) -> Results:
    """Reads all runs; writes them as one file, with environment and pictures."""
    rows = []
    for workload in args.workloads:
        for name in args.optimizers:
            rows += Rows(args.runs, workload, name).rows
    results = Results(rows)
    if not rows:
        return results
    args.results.mkdir(parents=True, exist_ok=True)
    with (
        replacing(args.results / "runs.csv") as new,
        open(new, "w", newline="") as file,
    ):
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot_sensitivity(results, args.results / "sensitivity.png")
    plot_differences(results, args.results / "differences.png")
    still = unfinished(results, args.workloads, args.optimizers, args.seeds)
    (args.results / "README.md").write_text(report(results, still))
    sessions = args.runs / "sessions.json"
    if sessions.exists():
        write_json(args.results / "sessions.json", read_json(sessions, list))
    return results


def environment(args) -> dict[str, Any]:
    """What the runs depend on beside the files of this repository."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    packages = ["keras", "tensorflow", "numpy", "scikit-learn", "scipy", "statsmodels"]
    if "words" in args.workloads:
        packages.append("wordfreq")
    return {
        "workloads": args.workloads,
        "optimizers": args.optimizers,
        "tuning_seeds": list(args.tuning_seeds),
        "seeds": list(args.seeds),
        "commit": commit,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "processors": os.cpu_count(),
        "workers": args.workers,
    }


def restore(args) -> None:
    """Takes over the results that are collected already, where there are no runs."""
    path, known_of = args.results / "runs.csv", functools.cache(Rows)
    if path.exists():
        for row in read_rows(path):
            known = known_of(args.runs, row["workload"], row["optimizer"])
            seed, rate = int(row["seed"]), float(row["learning_rate"])
            if known.find(row["stage"], rate, seed) is None:
                known.add(row["stage"], row)
    sessions = args.results / "sessions.json"
    if sessions.exists() and not (args.runs / "sessions.json").exists():
        write_json(args.runs / "sessions.json", read_json(sessions, list))


def note_session(args) -> None:
    """Adds to the list of sessions in which runs were made."""
    path = args.runs / "sessions.json"
    sessions = read_json(path, list) if path.exists() else []
    now = environment(args)
    if now not in sessions:
        write_json(path, [*sessions, now])


def parse(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="W",
    )
    make.add_argument(
        "--optimizers", nargs="+", choices=ENTRIES, default=list(ENTRIES), metavar="O",
        help="entries; their bases and the controls are added",
    )  # fmt: skip
    make.add_argument("--no-controls", action="store_true")
    make.add_argument(
        "--tuning-seeds", nargs="+", type=flags.SEED, default=TUNING_SEEDS
    )
    make.add_argument("--seeds", nargs="+", type=flags.SEED, default=REPORT_SEEDS)
    make.add_argument("--workers", type=flags.COUNT, default=os.cpu_count())
    make.add_argument("--runs", type=flags.folder, default=Path("runs/compare"))
    make.add_argument(
        "--results", type=flags.folder, default=Path("docs/studies/optimizers")
    )
    make.add_argument("--collect", action="store_true", help="run nothing")
    make.add_argument("--quiet", action="store_true", help="no progress bar")
    args = make.parse_args(arguments)
    if set(args.seeds) & set(args.tuning_seeds):
        make.error("--seeds must be fresh: none of --tuning-seeds")
    for seeds in (args.seeds, args.tuning_seeds):
        if len(set(seeds)) < len(seeds):
            make.error("each seed of --seeds and --tuning-seeds can be there once")
    wanted = set(args.optimizers)
    if not args.no_controls:
        wanted |= {"Adam", "Adam again"}
        slower = {"Adam, half rate", "Adam, 0.88 rate"}
        wanted |= slower if "AngularGrad" in wanted else set()
    more = list(wanted)
    while more:
        entry = ENTRIES[more.pop()]
        needed = {*entry.against, entry.rate_of} - wanted - {None}
        wanted |= needed
        more += needed
    args.optimizers = [name for name in ENTRIES if name in wanted]
    return args


def main(arguments=None) -> None:
    args = parse(arguments)
    try:
        with alone_in(args.runs):
            restore(args)
            if not args.collect:
                note_session(args)
                run_all(args)
            results = collect(args)
    except (RunError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    if results.rows:
        print(f"\n{overview(results)}\n\nEverything else is in {args.results}")


if __name__ == "__main__":
    main()
