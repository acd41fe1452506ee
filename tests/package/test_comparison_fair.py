"""What would make a comparison unfair without a word, or lose what it has made."""

import concurrent.futures as futures
import csv
import math
import threading
from concurrent.futures.process import BrokenProcessPool

import keras
import numpy as np
import pytest

pytest.importorskip("statsmodels")

from test_comparison import PARTS, X, Y, make_task, network, sgd, small

import keras_gradopt
from keras_gradopt import comparison
from keras_gradopt.comparison import (
    __main__,
    arms,
    data,
    files,
    running,
    statistics,
    training,
    worker,
)

TWO = {
    "slow": comparison.Arm(sgd, rate=1e-3),
    "fast": comparison.Arm(sgd, rate=0.1),
}
SAME = {
    "one": comparison.Arm(sgd, rate=0.05),
    "other": comparison.Arm(sgd, rate=0.05),
}


"""
## Verdicts
"""


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("value", ["nan", "0.001"])
def test_a_run_that_diverged_is_the_worst_by_any_metric(value, tmp_path):
    """Its loss is infinite, but a metric may be NaN, or a number that looks well."""
    task = make_task(metrics=["mae"])
    results = small(tmp_path, SAME, task, measure="test_mae")
    for row in results.rows:
        seed = int(row["seed"])
        row["test_mae"] = str(1.0 if row["optimizer"] == "one" else 0.9 + 0.2 * seed)
        if row["optimizer"] == "other" and seed == 11:
            row |= {"diverged": "1", "test_mae": value}
    declaration = results.declaration
    (verdict,) = comparison.Results(results.rows, declaration).verdicts
    assert verdict.diverged == 1 and verdict.p == pytest.approx(2 / 2**6)
    assert verdict.verdict == "worse"
    with pytest.raises(ValueError, match="must be numbers"):
        statistics.paired([1.0, math.nan], [1.0, 2.0])


@pytest.mark.slow_on_jax
def test_after_a_change_of_plan_only_the_new_choice_is_reported(tmp_path):
    """Other tuning seeds may choose another rate; the runs of the old one stay rows."""
    optimizers = {"SGD": sgd, "half": comparison.Arm(sgd, rate_of="SGD", factor=0.5)}
    first = small(tmp_path, optimizers)
    path = tmp_path / files.RUNS
    before = first.rate("tiny", "SGD")
    rates = {float(r["learning_rate"]) for r in first.runs("tiny", "SGD", "tuning")}
    wanted = min(rates - {before})
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(first.rows[0]), lineterminator="\n")
        for row in first.runs("tiny", "SGD", "tuning"):
            best = float(row["learning_rate"]) == wanted
            loss = "0.0001" if best else row["validation_loss"]
            writer.writerow({**row, "seed": "5", "validation_loss": loss})
    second = small(tmp_path, optimizers, tuning_seeds=[5])
    assert second.rate("tiny", "SGD") == wanted != before
    for name in optimizers:
        assert len({r["learning_rate"] for r in second.runs("tiny", name)}) == 1
    assert len(first.runs("tiny", "SGD")) == 6 < len(second.rows)
    assert [v.count for v in second.verdicts] == [6]


"""
## Pairs
"""


class Shuffled(keras.utils.PyDataset):
    """A new order after each epoch, drawn from NumPy's one generator."""

    def __init__(self):
        super().__init__()
        self.order = np.arange(64)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = self.order[16 * index : 16 * index + 16]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


def shuffled(kind):
    if kind == "PyDataset":
        return Shuffled()
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(PARTS[0]).shuffle(64).batch(16)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
def test_runs_on_data_that_shuffles_are_paired(kind, tmp_path):
    """Each run begins with a new data set, whose order the seed draws."""
    task = make_task(data=lambda: (shuffled(kind), *PARTS[1:]), model=network)
    results = small(tmp_path, SAME, task)
    one, other = (results.values("tiny", name) for name in SAME)
    np.testing.assert_array_equal(one, other)
    assert len({*one}) == 6  # and other seeds draw others


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
def test_one_data_set_that_shuffles_is_refused(kind, tmp_path):
    task = make_task(data=(shuffled(kind), *PARTS[1:]))
    with pytest.raises(ValueError, match="give `data` as a function"):
        small(tmp_path, TWO, task)
    still = data.changes(PARTS[0])
    assert not still


@pytest.mark.slow_on_jax
def test_a_pydataset_goes_on_with_the_order_that_it_had(tmp_path):
    task = make_task(data=lambda: (Shuffled(), *PARTS[1:]), epochs=4)

    class Stop(Exception):
        pass

    class Killed(training.Kept):
        def after_epoch(self, variables, history):
            super().after_epoch(variables, history)
            if len(history["losses"]) == 2:
                raise Stop

    def run(kept=None):
        parts = task.parts(1)
        trainer = training.Trainer(task, sgd(0.1), parts)
        return trainer.run(0.1, 1, parts, 0, kept)["validation_losses"]

    whole, path = run(), tmp_path / "run.npz"
    with pytest.raises(Stop):
        run(Killed(path, 0))
    np.random.seed(123)  # another process
    assert run(training.Kept(path, 0)) == whole


class NewThreads(futures.Executor):
    """A thread for each run."""

    def submit(self, function, *arguments):
        future = futures.Future()

        def work():
            future.set_result(function(*arguments))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(100)
        return future


@pytest.mark.slow_on_jax
def test_threads_train_under_the_policy_of_the_comparison(tmp_path):
    """Keras keeps it for each thread."""
    pytest.importorskip("cloudpickle")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = small(tmp_path / "threads", workers=None, executor=NewThreads())
        alone = small(tmp_path / "alone")
    finally:
        keras.config.set_dtype_policy(before)
    for name in TWO:
        np.testing.assert_array_equal(
            found.values("tiny", name), alone.values("tiny", name)
        )


@pytest.mark.slow_on_jax
def test_averaged_weights_are_what_is_judged():
    """As after `fit`."""
    task = make_task(schedule="constant", batch_size=64, model=plain)
    averaging = {"use_ema": True, "ema_momentum": 0.9}
    optimizers = [keras.optimizers.SGD(0.1, **keywords) for keywords in ({}, averaging)]
    found = [
        training.Trainer(task, optimizer, PARTS).run(0.1, 1, PARTS)
        for optimizer in optimizers
    ]
    keras.utils.set_random_seed(1)
    model = plain()
    model.compile(keras.optimizers.SGD(0.1, **averaging), "mse")
    model.fit(*PARTS.train, batch_size=64, epochs=2, shuffle=False, verbose=0)
    expected = model.evaluate(*PARTS.test, verbose=0)
    assert found[1]["test_loss"] == pytest.approx(expected, rel=1e-4)
    assert found[1]["validation_losses"] != found[0]["validation_losses"]
    assert found[0]["test_loss"] != pytest.approx(expected, rel=1e-2)


def plain():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


"""
## What has been made
"""


@pytest.mark.slow_on_jax
def test_a_half_of_another_run_does_not_go_on(tmp_path):
    """Killed with one task, corrected, started again under the same name."""
    run = {
        "task": "tiny", "optimizer": "fast", "stage": "report", "rate": 0.1,
        "arguments": "", "seed": 11, "file": "run",
    }  # fmt: skip
    (tmp_path / files.UNFINISHED).mkdir()

    class Stop(Exception):
        pass

    def made(task, folder=tmp_path):
        payload = worker.Payload({"tiny": task}, TWO)
        facts = worker.rehearse(payload, list(TWO), [11])["tasks"]["tiny"]
        return worker.train(payload, run, facts, str(folder), 0.0)

    after_epoch = training.Kept.after_epoch

    def stop(self, variables, history):
        after_epoch(self, variables, history)
        raise Stop

    huge = comparison.Parts(*((x, 100 * y) for x, y in PARTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Kept, "after_epoch", stop)
        with pytest.raises(Stop):
            made(make_task(data=huge, epochs=3))
    assert list((tmp_path / files.UNFINISHED).iterdir())
    again, fresh = made(make_task()), made(make_task(), folder=tmp_path / "none")
    assert again["validation_losses"] == fresh["validation_losses"]


@pytest.mark.slow_on_jax
def test_more_runs_in_this_process_than_another_would_make(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "RECYCLE", 5)
    assert len(small(tmp_path).rows) == 12


@pytest.mark.slow_on_jax
def test_an_arm_may_come_before_the_one_whose_rate_it_has(tmp_path):
    optimizers = {
        "half": comparison.Arm(sgd, rate_of="SGD", factor=0.5),
        "SGD": sgd,
    }
    whole = small(tmp_path, optimizers, baseline="SGD")
    path = tmp_path / files.RUNS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if ",half," not in line))
    again = small(tmp_path, optimizers, baseline="SGD")
    assert len(again.runs("tiny", "half")) == 6
    np.testing.assert_array_equal(
        again.values("tiny", "half"), whole.values("tiny", "half")
    )


class Loses(futures.Executor):
    """All at once; of what is submitted, one is lost, or it breaks as it is asked."""

    def __init__(self, number, how):
        self.number, self.how, self.count = number, how, 0

    def submit(self, function, *arguments):
        self.count += 1
        future = futures.Future()
        if self.count == self.number:
            if self.how == "asked":
                raise BrokenProcessPool("gone")
            future.set_exception(BrokenProcessPool("gone"))
        else:
            future.set_result(function(*arguments))
        return future


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("how", ["lost", "asked"])
@pytest.mark.parametrize("number, kept", [(1, None), (8, True)])
def test_what_ended_well_is_kept_when_a_process_dies(how, number, kept, tmp_path):
    pytest.importorskip("cloudpickle")
    executor = Loses(number, how)
    with pytest.raises(comparison.ComparisonError, match="without a word"):
        small(tmp_path, workers=None, executor=executor)
    if kept:
        rows = (tmp_path / files.RUNS).read_text().count("\n") - 1
        assert rows == (11 if how == "lost" else number - 2)


"""
## The command line
"""


def drawn(random=None):
    """Three parts, drawn from NumPy's global generator, or from one of its own."""
    order = (np.random if random is None else random).permutation(len(X))
    return [(X[part], Y[part]) for part in np.split(order, [64, 80])]


def test_arrays_of_a_function_without_seed_are_the_same_for_all(tmp_path):
    """Whichever run comes first in a process, though nobody seeds them."""
    found = []
    for seeds in ([1, 12], [12, 1]):
        payload = worker.Payload({"tiny": make_task(data=drawn)}, {})
        parts = [payload.parts(payload.tasks["tiny"], seed) for seed in seeds]
        found += [data.digest(part) for of_seed in parts for part in of_seed]
    assert len({*found}) == 3  # train, validation, test
    results = small(tmp_path, SAME, make_task(data=drawn))
    np.testing.assert_array_equal(*(results.values("tiny", name) for name in SAME))


def test_arrays_that_are_others_at_every_call_are_refused(tmp_path):
    def mine():
        return drawn(np.random.default_rng())

    with pytest.raises(ValueError, match="train part is another at every call"):
        small(tmp_path, TWO, make_task(data=mine))
    task, given = make_task(data=drawn), {"slow": TWO["slow"]}
    payload = worker.Payload({"tiny": task}, given)
    made = worker.rehearse(payload, ["slow"], [1, 2])["tasks"]["tiny"]
    made["validation"]["digest"] = "another"
    run = {"task": "tiny", "optimizer": "slow", "rate": 0.1, "arguments": ""}
    with pytest.raises(ValueError, match="validation part is another"):
        worker.train(payload, {**run, "seed": 1, "file": "x"}, made, tmp_path / "no", 1)


@pytest.mark.parametrize(
    ("examples", "width", "batch", "most"),
    [(40, 3, None, 40), (600, 3, 16, 256), (600, 3, 64, 600), (96, 2**20, 16, 16)],
)
def test_evaluation_takes_few_batches_at_once(examples, width, batch, most):
    """A part that is small, and a model that makes much of each example."""
    x = np.zeros((examples, 1), "float32")
    part = np.broadcast_to(x, (examples, width)), x
    assert data.evaluated_at_once(part, batch) == most


def test_evaluation_in_parts_is_that_of_the_whole():
    layers, seen = keras.layers, []

    class Noted(layers.Layer):
        def call(self, x):
            seen.append(x.shape[0])
            return x

    model = keras.Sequential([keras.Input((3,)), Noted(), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"], run_eagerly=True)
    part = PARTS.train[0].repeat(10, 0), PARTS.train[1].repeat(10, 0)
    del seen[:]
    found = data.evaluate(model, part, 8)
    assert max(x for x in seen if x) <= 8 * data.AT_ONCE
    x, y = part
    apart = model.predict(x, verbose=0) - y
    assert found["loss"] == pytest.approx(np.mean(apart**2), rel=1e-5)
    assert found["mae"] == pytest.approx(np.mean(np.abs(apart)), rel=1e-5)


@pytest.mark.slow_on_jax
def test_a_metric_that_an_earlier_task_has_not_is_refused_first(tmp_path):
    small(tmp_path, TWO, make_task("one"))
    task = make_task("two", metrics=["mae"])
    with pytest.raises(ValueError, match="those of task 'one': test_loss"):
        small(tmp_path, TWO, task, measure="test_mae")
    assert len(comparison.Results.load(tmp_path).rows) == 12
    small(tmp_path, TWO, task)  # by what both have
    searched = {"a": sgd, "b": comparison.Arm(sgd, rate_of="a", factor=0.5)}
    small(tmp_path / "searched", searched, make_task("one"))
    with pytest.raises(ValueError, match="those of task 'one': test_loss"):
        small(tmp_path / "searched", searched, make_task("one"), measure="test_mae")


@pytest.mark.slow_on_jax
def test_an_arm_may_go_by_one_that_is_left_out_when_that_has_ended(tmp_path):
    """Else it would never be run, and nobody would know."""
    optimizers = {"base": sgd, "half": comparison.Arm(sgd, rate_of="base", factor=0.5)}
    asked = {"comparisons": {"asked": [("half", "base")]}}
    with pytest.raises(ValueError, match="half: it goes by 'base', which is left out"):
        small(tmp_path, optimizers, leave_out=[("tiny", "base")], **asked)
    assert not (tmp_path / "declaration.json").exists()
    both = small(tmp_path, optimizers, leave_out=[("tiny", "half")], **asked)
    assert not both.runs("tiny", "half")
    half = small(tmp_path, optimizers, leave_out=[("tiny", "base")], **asked)
    assert len(half.runs("tiny", "half")) == 6
    assert half.rate("tiny", "half") == pytest.approx(half.rate("tiny", "base") / 2)


def test_controls_of_what_is_left_out_are_left_out(tmp_path):
    given = {"Adam": keras_gradopt.AdamCore, "cos": keras_gradopt.AngularGrad}
    arms_of = {n: comparison.Arm(make, rate=1e-3) for n, make in given.items()}
    results = small(
        tmp_path, arms_of, make_task(epochs=1), controls=True, seeds=range(11, 19),
        leave_out=[("tiny", "cos")],
    )  # fmt: skip
    names = {row["optimizer"] for row in results.rows}
    assert names == {"Adam", "Adam again"}
    assert "Still to be run" in results.table()


def test_arms_that_go_by_each_other_are_refused():
    with pytest.raises(ValueError, match=r"go by each other: .* -> "):
        arms.arms(
            {
                "a": comparison.Arm(sgd, rate_of="b"),
                "b": comparison.Arm(sgd, arguments_of="a"),
            }
        )


def test_a_base_of_another_kind_gets_no_factor():
    """Adam's rate says nothing of SGD's."""
    given = arms.arms(
        {
            "SGD": keras.optimizers.SGD,
            "cos": keras_gradopt.AngularGrad,
            "AdamNorm": keras_gradopt.AdamNorm,
            "RAdamNorm": keras_gradopt.RAdamNorm,
        }
    )
    assert arms.add_controls(given, "SGD")[1] == []
    others = arms.arms({**given, "Adam": keras.optimizers.Adam})
    pairs = arms.add_controls(others, "Adam")[1]
    assert [name for name, _ in pairs] == ["cos", "cos", "AdamNorm"]
    others = arms.arms({**given, "RAdam": keras_gradopt.RAdam})
    pairs = arms.add_controls(others, "RAdam")[1]
    assert pairs == [("RAdamNorm", "RAdam at 1.25 of RAdamNorm")]


@pytest.mark.slow_on_jax
def test_a_row_that_was_cut_off_is_no_row(tmp_path, monkeypatch):
    results = small(tmp_path)
    path = tmp_path / "runs.csv"
    path.write_bytes(path.read_bytes()[:-25])
    assert len(comparison.Results.load(tmp_path).rows) == len(results.rows) - 1
    path.write_bytes(path.read_bytes()[:20])
    assert comparison.Results.load(tmp_path).rows == []
    rows = files.Rows(path)
    monkeypatch.setattr(files.os, "write", lambda file, content: len(content) // 2)
    with pytest.raises(OSError, match="No space left"):
        rows.add(dict(results.rows[0]))
    assert rows.known == {}


def test_the_protocol_knows_that_splits_overlap(tmp_path):
    """The power is that of the test that is used."""

    def split(seed):
        return drawn(np.random.default_rng(seed))

    task = make_task(data=split, resplit=True, epochs=1)
    results = small(tmp_path, TWO, task)
    effect = statistics.detectable(6, "corrected-t", 0.05, 40 / 64)
    assert effect > 1.5 * statistics.detectable(6, "t", 0.05)
    assert f"It finds {effect:.4g} standard deviations" in results.protocol()


def test_two_optimizers_of_one_name_are_refused(tmp_path, monkeypatch, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine_of_test.py").write_text(
            "import keras\nclass Adam(keras.optimizers.Adam):\n    pass\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "task_of_test.py").write_text(
        "from test_comparison import make_task\ntask = make_task()\n"
    )
    with pytest.raises(SystemExit):
        __main__.main(
            ["task_of_test.py:task", "--optimizers", "one/mine_of_test.py:Adam"]
        )
    assert "have the same name" in capsys.readouterr().err
    assert __main__.found("one/mine_of_test.py:Adam")
    with pytest.raises(ValueError, match="another module is named 'mine_of_test'"):
        __main__.found("two/mine_of_test.py:Adam")
