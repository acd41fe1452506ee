"""keras_gradopt.comparison: tasks, runs, what is refused; small comparisons to the end.

Its statistics are in test_comparison_statistics.py; kills, other processes and clusters
in test_comparison_kills.py.
"""

import csv
import inspect
import math
import random
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

pytest.importorskip("statsmodels")

import keras_gradopt
from keras_gradopt import comparison
from keras_gradopt.comparison import (
    __main__,
    arms,
    data,
    files,
    plans,
    progress,
    running,
    searching,
    training,
    worker,
)
from keras_gradopt.comparison.scheduling import Run, Schedule

X = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
Y = (X[:, :1] * X[:, 1:2]).astype("float32")
PARTS = comparison.Parts((X[:64], Y[:64]), (X[64:80], Y[64:80]), (X[80:], Y[80:]))


def network():
    layers = keras.layers
    hidden = layers.Dense(5, activation="tanh")
    return keras.Sequential(
        [keras.Input((3,)), hidden, layers.Dropout(0.1), layers.Dense(1)]
    )


def make_task(name="tiny", **changes):
    settings = {"model": network, "data": PARTS, "loss": "mse", "epochs": 2}
    return comparison.Task(name, **(settings | changes))


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def small(folder, optimizers=None, task=None, **changes):
    """A comparison of seconds, in this process."""
    settings = {
        "seeds": range(11, 17), "tuning_seeds": [1], "grid": (0.003, 0.03),
        "workers": 0, "progress": False, "controls": False, "refine": False,
    }  # fmt: skip
    if optimizers is None:
        optimizers = {
            "slow": comparison.Arm(sgd, rate=1e-3),
            "fast": comparison.Arm(sgd, rate=0.1),
        }
    task = make_task() if task is None else task
    return comparison.compare(task, optimizers, folder=folder, **settings | changes)


def untimed(rows):
    """What a run comes to, but for its time."""
    return sorted(
        tuple((k, v) for k, v in row.items() if k != "ms_per_step") for row in rows
    )


"""
## The search
"""


@pytest.mark.parametrize(
    ("best", "tried"), [(1e-2, 8), (3e-4, 9), (1e-4, 10), (1e-1, 9), (1.0, 11)]
)
def test_search_is_extended_at_an_edge_and_refined_around_the_best(best, tried):
    losses = {}
    while wanted := searching.missing(losses, -14, -4):
        assert not set(wanted) & set(losses)
        for quarter in wanted:
            rate = searching.rate_at(quarter)
            far = abs(math.log(rate / best))
            losses[quarter] = math.inf if rate > 20 * best else far
    found = searching.best(losses)
    assert searching.rate_at(found) == best
    assert len(losses) == tried
    assert {found - 2, found - 1, found + 1, found + 2} <= set(losses)


def test_search_ends_when_everything_diverges():
    losses = {}
    while wanted := searching.missing(losses, -14, -4):
        losses |= dict.fromkeys(wanted, math.inf)
    assert min(losses) == searching.EDGES[0]


def test_rates_are_quarter_decades():
    rates = [searching.rate_at(q) for q in range(-14, -3)]
    assert rates[::2] == [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    assert np.ptp(np.diff(np.log10(rates))) < 0.06
    for quarter in range(-28, 13, 2):
        assert searching.quarter_of("grid", searching.rate_at(quarter)) == quarter


def made_up_rows(schedule, score):
    """Rows as if they had been run, until nothing is missing."""
    rows, order = {}, []
    while missing := schedule.missing(rows):
        for run in missing:
            row = {"validation_loss": str(score(run)), "diverged": "0"}
            rows[run.key] = row
            order.append(run)
    return order


def make_plan(**changes):
    settings = {
        "measure": "test_loss", "higher_is_better": False, "margin": 0.02,
        "margin_is_share": True, "level": 0.05, "test": "sign-flip",
        "families": {"primary": [("b", "a")]}, "seeds": tuple(range(11, 21)),
        "tuning_seeds": (1, 2, 3), "grid": (3e-4, 1e-1), "refine": True,
    }  # fmt: skip
    return plans.Plan(**settings | changes)


def test_arguments_are_searched_with_a_rate_each():
    """The best is 0.01 with epsilon 1e-4; a control takes a factor of both."""
    adam = keras.optimizers.Adam
    found = arms.arms(
        {
            "a": comparison.Arm(adam, search={"epsilon": [1e-8, 1e-4]}),
            "half": comparison.Arm(adam, rate_of="a", factor=0.5, arguments_of="a"),
            "given": comparison.Arm(adam, rate=0.02, search={"epsilon": [1e-8, 1e-4]}),
        }
    )
    schedule = Schedule(make_plan(), found, ["t"])
    assert schedule.expected({}) > 30

    def score(run):
        return abs(math.log10(run.rate / 0.01)) + ("1e-08" in run.arguments)

    order = made_up_rows(schedule, score)
    reports = {name: set() for name in found}
    for run in order:
        if run.stage == "report":
            reports[run.optimizer].add((run.rate, run.arguments))
    assert reports["a"] == {(0.01, '{"epsilon": 0.0001}')}
    assert reports["half"] == {(0.005, '{"epsilon": 0.0001}')}
    assert reports["given"] == {(0.02, '{"epsilon": 0.0001}')}
    assert schedule.expected({}) == 0
    tuned = [run for run in order if run.optimizer == "a" and run.stage == "tuning"]
    assert len(tuned) == len(set(tuned)) == 2 * 8 * 3
    assert not [run for run in order if run.stage == "tuning" and run.seed > 3]


def test_the_search_goes_by_what_is_compared():
    """Accuracy is to be high; a diverged run is the last choice."""
    plan = make_plan(measure="test_accuracy", higher_is_better=True)
    schedule = Schedule(plan, arms.arms({"a": sgd}), ["t"])
    row = {"validation_accuracy": "0.9", "diverged": "0"}
    assert schedule.score(row) == -0.9
    assert schedule.score({**row, "diverged": "1"}) == math.inf


"""
## Runs
"""


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "name",
    [
        "Nadam",
        pytest.param("AngularGrad", marks=pytest.mark.slow),
        pytest.param("Transformed", marks=pytest.mark.slow),
        pytest.param("half", marks=pytest.mark.slow),
    ],
)
def test_runs_do_not_know_of_each_other(name):
    """The same seed gives the same, whatever ran before with the compiled model."""
    make = {
        "Nadam": keras.optimizers.Nadam,
        "AngularGrad": keras_gradopt.AngularGrad,
        "Transformed": lambda rate: keras_gradopt.Transformed(
            keras.optimizers.Adam(rate), [keras_gradopt.transforms.AngularFriction()]
        ),
        "half": keras.optimizers.Adam,
    }[name]
    before = keras.config.dtype_policy()
    if name == "half":
        keras.config.set_dtype_policy("mixed_float16")
    try:
        task = make_task()
        parts = task.parts(1)
        trainer = training.Trainer(task, make(1e-3), parts)
        assert trainer.fits(make(0.1)) and not trainer.fits(sgd(1e-3))
        first = trainer.run(0.01, 1, parts)
        trainer.run(0.1, 2, parts)
        again = trainer.run(0.01, 1, parts)
        fresh = training.Trainer(task, make(0.1), parts).run(0.01, 1, parts)
        other = trainer.run(0.01, 2, parts)
    finally:
        keras.config.set_dtype_policy(before)
    for row in (first, again, fresh):
        row["ms_per_step"] = 0
    assert first == again == fresh
    assert first["test_loss"] != other["test_loss"]


def test_another_thread_draws_from_the_same_generator():
    """Python's, as Dask's do; each time, and as much: so that twice is the same."""

    def disturbed():
        other = threading.Thread(target=random.getrandbits, args=(992,))
        other.start()
        other.join()
        return network()

    run = Run("tiny", "SGD", "report", 0.01, "", 1).described()
    outcomes = []
    for model in (network, disturbed):
        tasks = {"tiny": make_task(model=model)}
        payload = worker.Payload(tasks, arms.arms({"SGD": sgd}))
        row = worker.train(payload, run, {}, "nowhere", 60)
        outcomes.append({name: row[name] for name in ("train_loss", "test_loss")})
    assert outcomes[0] == outcomes[1]
    assert random.choice.__self__ is random.seed.__self__  # all is as before


def test_weights_that_no_seed_decides_are_refused():
    count = iter(range(1000))

    def other_each_time():
        keras.utils.set_random_seed(next(count))
        return network()

    task = make_task(model=other_each_time)
    trainer = training.Trainer(task, sgd(1e-3), PARTS)
    with pytest.raises(ValueError, match=r"'tiny' must make the same weights.*seed 1"):
        trainer.run(0.01, 1, PARTS)


def test_the_rate_follows_the_schedule():
    rates = []

    class Spy(keras.optimizers.SGD):
        @property
        def learning_rate(self):
            return super().learning_rate

        @learning_rate.setter
        def learning_rate(self, value):
            rates.append(float(value))
            keras.optimizers.SGD.learning_rate.fset(self, value)

    task = make_task(batch_size=32)
    training.Trainer(task, Spy(0.1), task.parts(1)).run(0.5, 1, task.parts(1))
    assert rates[-4:] == [0.5 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert make_task(schedule="constant").factor(0.7) == 1
    assert make_task(schedule=lambda progress: 1 - progress).factor(0.75) == 0.25


def test_a_schedule_of_its_own_is_left_alone():
    def scheduled(rate):
        return keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.5)
        )

    constant = make_task(schedule="constant")
    assert training.base_rate(constant, scheduled(0.1)) is None
    assert training.base_rate(constant, sgd(0.25)) == 0.25
    with pytest.raises(ValueError, match=r"SGD has a schedule of its own.*'constant'"):
        training.base_rate(make_task(), scheduled(0.1))
    trainer = training.Trainer(constant, scheduled(0.1), PARTS)
    assert not trainer.fits(scheduled(0.2)) and trainer.fits(scheduled(0.1))


def test_a_diverged_run_is_infinite():
    task = make_task()
    row = training.Trainer(task, sgd(1e-3), PARTS).run(1e9, 1, PARTS)
    assert row["diverged"] == 1
    assert row["validation_loss"] == row["test_loss"] == math.inf


class Batches(keras.utils.PyDataset):
    """Batches whose content changes with the epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * index + 16)
        return X[rows] + self.epoch, Y[rows]

    def on_epoch_end(self):
        self.epoch += 1


def feeds(kind):
    if kind == "arrays":
        return PARTS[0]
    if kind == "PyDataset":
        return Batches()
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(PARTS[0]).shuffle(64, seed=1).batch(16)


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "PyDataset"])
def test_an_epoch_that_is_skipped_leaves_the_same_rest(kind):
    assert data.kind(feeds(kind)) == kind
    size = 16 if kind == "arrays" else None
    whole, cut = (data.Feed(feeds(kind), size, None, seed=3) for _ in range(2))
    assert whole.steps == 4
    epochs = [[np.asarray(x) for x, _ in whole.epoch()] for _ in range(3)]
    assert all(len(epoch) == 4 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    cut.skip()
    cut.skip()
    np.testing.assert_array_equal([np.asarray(x) for x, _ in cut.epoch()], epochs[2])


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("kind", ["tf.data", "PyDataset"])
def test_other_kinds_of_data(kind, tmp_path):
    task = comparison.Task(
        "fed", model=network, data=lambda: (feeds(kind), *PARTS[1:]), loss="mse",
        epochs=1, metrics=["mae"],
    )  # fmt: skip
    results = small(tmp_path, task=task)
    assert results.verdicts[0].count == 6
    assert all(math.isfinite(float(row["test_mae"])) for row in results.rows)


@pytest.mark.slow_on_jax
def test_a_run_goes_on_from_its_last_epoch(tmp_path):
    """Dropout's random numbers, momentum, order and history are kept."""
    task = make_task(batch_size=16)
    whole = training.Trainer(task, sgd(0.1), PARTS).run(0.1, 1, PARTS)
    path = tmp_path / "run.npz"

    class Stop(Exception):
        pass

    class Killed(training.Kept):
        def after_epoch(self, variables, history):
            super().after_epoch(variables, history)
            raise Stop

    with pytest.raises(Stop):
        training.Trainer(task, sgd(0.1), PARTS).run(0.1, 1, PARTS, 0, Killed(path, 0))
    assert path.exists()
    trainer = training.Trainer(task, sgd(0.1), PARTS)
    rest = trainer.run(0.1, 1, PARTS, 0, training.Kept(path, 0))
    whole["ms_per_step"] = rest["ms_per_step"] = 0
    assert rest == whole
    path.write_bytes(path.read_bytes()[:200])  # of a broken disk
    again = trainer.run(0.1, 1, PARTS, 0, training.Kept(path, 0))
    assert again["test_loss"] == whole["test_loss"]


"""
## Comparisons
"""


@pytest.mark.slow_on_jax
def test_a_comparison_to_the_end(tmp_path, monkeypatch):
    """Search, report, verdict; called again nothing is run; a cut row is run again."""
    optimizers = {"SGD": sgd, "GAFSGD": keras_gradopt.GAFSGD}
    results = small(tmp_path, optimizers, make_task(metrics=["mae"]), controls=True)
    assert results.optimizers("tiny") == ["SGD", "GAFSGD", "SGD again"]
    assert [v.optimizer for v in results.verdicts] == ["GAFSGD", "SGD again"]
    text = results.table()
    for said in ("before the first run", "equivalence", "±", "**", "test mae", "mse"):
        assert said in text
    pytest.importorskip("matplotlib")
    results.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    path = tmp_path / "runs.csv"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:25])
    made, train = [], worker.train
    monkeypatch.setattr(worker, "train", lambda *args: made.append(1) or train(*args))
    again = small(tmp_path, optimizers, make_task(metrics=["mae"]), controls=True)
    assert len(made) == 1
    assert untimed(again.rows) == untimed(results.rows)
    assert again.verdicts == results.verdicts
    assert "runs of SGD, GAFSGD" in repr(comparison.Results.load(tmp_path))


@pytest.mark.slow_on_jax
def test_a_verdict_by_a_metric_and_unequal_ends(tmp_path):
    """Higher is better for one of them; a diverged optimizer is worse, not an error."""
    optimizers = {
        "good": comparison.Arm(sgd, rate=0.05),
        "burst": comparison.Arm(sgd, rate=1e9),
    }
    results = small(tmp_path, optimizers)
    (verdict,) = results.verdicts
    assert verdict.verdict == "worse" and verdict.diverged == 6
    assert "6 of 6 seeds diverged" in results.table()
    results.plot(tmp_path / "picture.png")


@pytest.mark.slow_on_jax
def test_a_changed_plan_is_told_and_changed_runs_are_refused(tmp_path):
    small(tmp_path)
    results = small(tmp_path, margin=0.5)
    assert "After 12 runs the plan was changed: margin: 0.02 then" in results.table()
    with pytest.raises(comparison.ComparisonError, match=r"epochs: 2 then, 3 now"):
        changed = {"model": network, "data": PARTS, "loss": "mse"}
        small(tmp_path, task=comparison.Task("tiny", epochs=3, **changed))
    with pytest.raises(comparison.ComparisonError, match="slow: config"):
        small(
            tmp_path,
            {"slow": comparison.Arm(keras.optimizers.Adam, rate=1e-3), "fast": sgd},
        )
    with_more = small(
        tmp_path,
        {
            "slow": comparison.Arm(sgd, rate=1e-3),
            "fast": comparison.Arm(sgd, rate=0.1),
            "middle": comparison.Arm(sgd, rate=0.01),
        },
        margin=0.5, seeds=range(11, 18),
    )  # fmt: skip
    assert len(with_more.rows) == 21 and len(with_more.verdicts) == 2


@pytest.mark.slow_on_jax
def test_another_split_for_every_seed(tmp_path):
    """Refused, unless asked for; then tested with the corrected t."""

    def split(seed):
        order = np.random.default_rng(seed).permutation(len(X))
        parts = np.split(order, [64, 80])
        return [(X[part], Y[part]) for part in parts]

    settings = {"model": network, "data": split, "loss": "mse", "epochs": 1}
    with pytest.raises(ValueError, match="another test part for seed 16"):
        small(tmp_path / "a", task=comparison.Task("split", **settings))
    task = comparison.Task("split", resplit=True, **settings)
    results = small(tmp_path / "b", task=task)
    assert results.plan.test == "corrected-t"
    assert "Nadeau and Bengio" in results.table()
    difference = results.values("split", "fast") - results.values("split", "slow")
    error = difference.std(ddof=1) * (1 / 6 + 40 / 64) ** 0.5
    from scipy import stats

    p = 2 * stats.t.sf(abs(difference.mean()) / error, 5)
    assert results.verdicts[0].p == pytest.approx(p)


@pytest.mark.slow
def test_several_tasks_and_what_is_left_out(tmp_path):
    optimizers = {
        "slow": comparison.Arm(sgd, rate=1e-3),
        "fast": comparison.Arm(sgd, rate=0.1),
        "middle": comparison.Arm(sgd, rate=0.01),
    }
    results = small(
        tmp_path, optimizers, [make_task("one"), make_task("two")],
        leave_out=[("two", "middle")], seeds=range(11, 18),
        comparisons={"asked": [("fast", "slow"), ("middle", "slow")]},
    )  # fmt: skip
    assert len(results.rows) == 5 * 7
    assert [(v.task, v.optimizer) for v in results.verdicts] == [
        ("one", "fast"), ("one", "middle"), ("two", "fast"),
    ]  # fmt: skip
    assert "**Still to be run**:\n\n- two: middle - slow" in results.table()


def test_controls_are_at_the_factor_of_the_method():
    angular, slow = keras_gradopt.AngularGrad, keras_gradopt.AdamCore
    found, pairs = arms.add_controls(
        arms.arms(
            {
                "Adam": slow,
                "cos": angular,
                "tan": lambda rate: angular(rate, angle="tan"),
                "AdamNorm": keras_gradopt.AdamNorm,
                "Lion": keras.optimizers.Lion,
            }
        ),
        "Adam",
    )
    assert pairs == [
        ("cos", "Adam at 0.88 of cos"), ("cos", "Adam at 0.5 of cos"),
        ("tan", "Adam at 0.5 of tan"), ("AdamNorm", "Adam at 1.25 of AdamNorm"),
    ]  # fmt: skip
    assert found["Adam again"].weights_shift == 1000
    assert found["Adam at 0.88 of cos"].make is slow


"""
## What is refused
"""


def not_a_model():
    return "model"


def compiled():
    model = network()
    model.compile("sgd", "mse")
    return model


ADAM = keras.optimizers.Adam
BAD_TASKS = {
    "no name": ({"name": " "}, "`name` must be text"),
    "no epochs": ({"epochs": 0}, "`epochs` must be an integer >= 1.*epochs=0"),
    "a model": ({"model": network()}, "`model` must be a function"),
    "two parts": ({"data": PARTS[:2]}, "`data` must be three parts.*2 of them"),
    "a list": ({"data": (*PARTS[:2], [1, 2])}, "`data: test` must be a pair of arrays"),
    "lengths": (
        {"data": (*PARTS[:2], (X[:3], Y[:2]))},
        "`data: test` must be arrays of equally many examples",
    ),
    "no loss": ({"loss": None}, "`loss` must be a loss"),
    "metrics": ({"metrics": "mae"}, "`metrics` must be a list"),
    "schedule": ({"schedule": "linear"}, "`schedule` must be 'cosine', 'constant'"),
    "arguments": ({"data": lambda seed, more: PARTS}, "a function of the seed alone"),
    "resplit": ({"resplit": True}, "`resplit` must be False unless"),
    "batches": ({"batch_size": 2.5}, "`batch_size` must be an integer"),
}


@pytest.mark.parametrize("fault", BAD_TASKS)
def test_bad_tasks(fault):
    changes, says = BAD_TASKS[fault]
    good = {"name": "tiny", "model": network, "data": PARTS, "loss": "mse"}
    with pytest.raises(ValueError, match=says):
        comparison.Task(**good | changes)


BAD_COMPARISONS = {
    "no optimizers": ({"optimizers": {}}, "`optimizers` must be optimizers by name"),
    "an optimizer": ({"optimizers": {"a": ADAM(1e-3)}}, "optimizers: a: `make` must"),
    "a name": ({"optimizers": {"a": "adam"}}, "optimizers: a: `make` must be a class"),
    "baseline": ({"baseline": "Adm"}, "`baseline` must be one of slow, fast.*'Adm'"),
    "one": ({"optimizers": {"a": ADAM}}, "`optimizers` must be at least two"),
    "seeds": ({"seeds": [1, 12, 13, 14, 15, 16]}, "`seeds` must be fresh.*\\[1\\]"),
    "twice": ({"seeds": [11, 11]}, "`seeds` must be seeds, each once"),
    "few": ({"seeds": [11, 12, 13]}, "`seeds` must be at least 6: the sign-flip test"),
    "no seeds": ({"tuning_seeds": []}, "`tuning_seeds` must be at least 1 integers"),
    "measure": ({"measure": "loss"}, '`measure` must be text that begins with "test_"'),
    "unknown": (
        {"measure": "test_mae"},
        "one of those of task 'tiny': test_loss. Received",
    ),
    "mode": ({"measure": "test_x"}, '`mode` must be "min" or "max" for'),
    "margin": ({"margin": "two"}, "`margin` must be a number above 0, or per cent"),
    "level": ({"level": 1}, "`level` must be a finite number"),
    "test": ({"test": "wilcoxon"}, "`test` must be one of 'sign-flip'"),
    "overlap": ({"test": "corrected-t"}, "resplit=True.*test='corrected-t'"),
    "pairs": ({"comparisons": {"a": [("fast", "none")]}}, "`comparisons: a` must be"),
    "grid": ({"grid": (0.002, 0.1)}, "`grid` must be half-decades.*grid=0.002"),
    "backwards": ({"grid": (0.1, 0.01)}, "`grid` must be the lower rate first"),
    "workers": ({"workers": -1}, "`workers` must be an integer >= 0"),
    "executor": ({"executor": 3}, "`executor` must be a concurrent.futures.Executor"),
    "tasks": ({"task": []}, "`task` must be"),
    "no task": ({"task": "tiny"}, "`task` must be a `Task`"),
    "returns": (
        {"optimizers": {"a": sgd, "b": lambda rate: "sgd"}},
        "callables that return a keras.optimizers.Optimizer",
    ),
    "no model": (
        {"task": comparison.Task("t", model=not_a_model, data=PARTS, loss="mse")},
        "task 't': `model` of task 't' must return a keras.Model. Received: a str",
    ),
    "compiled": (
        {"task": comparison.Task("t", model=compiled, data=PARTS, loss="mse")},
        "must return a model that is not compiled",
    ),
}


@pytest.mark.parametrize("fault", BAD_COMPARISONS)
def test_bad_comparisons(fault, tmp_path):
    changes, says = BAD_COMPARISONS[fault]
    with pytest.raises(ValueError, match=says):
        small(tmp_path, **changes)
    assert not (tmp_path / "runs.csv").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rate": 0}, "`rate` must be a finite number"),
        ({"rate": 0.1, "rate_of": "b"}, "Only one of `rate`, `rate_of`"),
        ({"search": {"epsilon": 1e-8}}, "`search: epsilon` must be a list"),
        ({"search": {"epsilon": [1, 1]}}, "`search: epsilon` must be values, each onc"),
        ({"search": {"epsilon": [object()]}}, "must be numbers, texts"),
        ({"search": {"epsilon": [1]}, "rate_of": "b"}, "`search` cannot be given"),
        ({"factor": -1}, "`factor` must be"),
        ({"rate_of": "c"}, "optimizers: a: 'c' must be another optimizer: b"),
    ],
)
def test_bad_arms(given, says):
    with pytest.raises(ValueError, match=says):
        arms.arms({"a": comparison.Arm(sgd, **given), "b": sgd})


def written(tmp_path):
    small(tmp_path)
    return tmp_path / "runs.csv"


def test_damaged_rows_are_a_sentence(tmp_path):
    path = written(tmp_path)
    header, *lines = path.read_text().splitlines()
    first = dict(zip(header.split(","), next(csv.reader(lines[:1]))))

    def row(**changes):
        return ",".join({**first, **changes}.values())

    for text, says in {
        row(stage="training"): "unknown stage 'training'",
        row(seed="x"): "invalid literal",
        row(test_loss=""): "could not convert",
        row(learning_rate="fast"): "could not convert",
        row(validation_losses=""): "no validation losses",
        "tiny,slow": "more or fewer values",
        f"{row()}\n{row(test_loss='9')}": "there twice, with other results",
    }.items():
        path.write_text(f"{header}\n{text}\n")
        with pytest.raises(comparison.ComparisonError, match=says) as stop:
            small(tmp_path)
        assert f"{path}, line " in str(stop.value)
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(comparison.ComparisonError, match=r"runs\.csv is damaged"):
        small(tmp_path)
    path.write_text(f"{header}\n{row()}\n{row()}\n")
    assert len(files.read_rows(path)) == 1
    for content in ("", "[]", "{}", '{"made": {}, "plans": [], "sessions": []}'):
        (tmp_path / "declaration.json").write_text(content)
        with pytest.raises(comparison.ComparisonError, match=r"declaration\.json"):
            comparison.Results.load(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
    with files.alone_in(tmp_path), pytest.raises(comparison.ComparisonError) as stop:
        small(tmp_path)
    assert f"another comparison is running in {tmp_path}" in str(stop.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` must be a folder that can be made"):
        small(tmp_path / "file")
    with pytest.raises(comparison.ComparisonError, match="there is no comparison in"):
        comparison.Results.load(tmp_path / "nowhere")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    with pytest.raises(ImportError, match=r'pip install "keras-gradopt\[comparison\]"'):
        comparison.statistics.holm([0.1, 0.2])


def test_what_cannot_be_sent_is_a_sentence(tmp_path):
    tf = pytest.importorskip("tensorflow")
    parts = [tf.data.Dataset.from_tensor_slices(part).batch(8) for part in PARTS]
    task = comparison.Task("sent", model=network, data=parts, loss="mse")
    with pytest.raises(ValueError, match="make `data` a function"):
        small(tmp_path, task=task, workers=1)


"""
## Around it
"""


def test_progress_tells_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.Progress(workers=2)
    bar.expect(8)
    for _ in range(4):
        now[0] += 30
        bar.done(60.0)
    bar.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "2 runs made, about 6 to come"
    assert second == "4 runs made, about 4 to come, 2 min left"


TASK_FILE = """
import keras, numpy as np
from keras_gradopt import comparison
x = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
parts = [(x[a:b], x[a:b, :1]) for a, b in ((0, 64), (64, 80), (80, 120))]
def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
task = comparison.Task("from a file", model=network, data=parts, loss="mse", epochs=1)
"""


@pytest.mark.slow_on_jax
def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "task_of_this_test.py").write_text(TASK_FILE)
    flags = ["task_of_this_test.py:task", "--optimizers", "AdamNorm", "--no-controls"]
    flags += ["--workers", "0", "--tuning-seeds", "1", "--grid", "0.01", "0.1"]
    flags += ["--coarse", "--quiet", "--margin", "0.5", "--seeds"]
    __main__.main([*flags, *map(str, range(11, 17))])
    shown = capsys.readouterr().out
    assert "| AdamNorm - Adam |" in shown and "runs/from-a-file" in shown
    assert (tmp_path / "runs/from-a-file/results.md").read_text() in shown
    __main__.main([*flags, "11", "--collect"])
    assert "| AdamNorm - Adam |" in capsys.readouterr().out
    for wrong, says in (
        (["nothing.py:task", "--optimizers", "A"], "there is no file nothing.py"),
        (["task_of_this_test.py:x", "--optimizers", "A"], "a ndarray, not a Task"),
        (["task_of_this_test.py", "--optimizers", "A"], "must be FILE.py:NAME"),
        (["task_of_this_test.py:x_", "--optimizers", "A"], "there is no 'x_'"),
        (["task_of_this_test.py:parts", "--optimizers", "A"], "is a list, not a Task"),
        (["task_of_this_test.py:task", "--optimizers", "Adm"], "unknown optimizer 'Ad"),
        ([*flags, "11"], "`seeds` must be at least 2"),
    ):
        with pytest.raises(SystemExit) as stop:
            __main__.main(wrong)
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


def test_nothing_heavy_is_imported_with_it():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_gradopt; "
        "assert 'keras_gradopt.comparison' not in sys.modules; "
        "import keras_gradopt.comparison; new = set(sys.modules) - before; "
        "print([m for m in ('scipy.stats', 'statsmodels', 'matplotlib', 'cloudpickle') "
        "if m in new])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr[-2000:]


def test_a_run_is_told_from_others_by_its_columns():
    run = Run("t", "o", "report", 0.00264, "", 11)
    assert run.columns()["learning_rate"] == "0.00264"
    assert files.key(run.columns()) == run.key
    assert running.compare is comparison.compare


@pytest.mark.parametrize("name", sorted({*comparison.__all__} - {"ComparisonError"}))
def test_docstrings_tell_every_argument(name):
    """And fields; with types, and an example where it is called."""
    value = getattr(comparison, name)
    text = value.__doc__
    fields = getattr(value, "__dataclass_fields__", {})
    arguments = fields or inspect.signature(value).parameters
    for argument in set(arguments) - {"args", "kwargs", "rows"}:
        assert f"\n        {argument}: " in text, argument
    if name in ("Task", "Arm", "compare"):
        assert ">>>" in text and "Raises:" in text
    for member in [value, *vars(value).values()]:
        if inspect.isfunction(member) and not member.__name__.startswith("_"):
            assert inspect.getdoc(member)
            assert "return" in member.__annotations__
