"""claims.py: its experiments at small size, on cases whose outcome is known."""

import csv

import numpy as np
import pytest

pytest.importorskip("statsmodels")

from studies import claims

import keras_gradopt
from keras_gradopt import comparison

pytestmark = pytest.mark.backend_independent


def test_regret_of_a_hand_computed_optimizer():
    """Costs are paid before the step: those of online SGD, in NumPy."""
    import keras

    random = np.random.default_rng(0)
    a, b = random.normal(size=(50, 3)), random.normal(size=50)
    found = claims.online_costs(keras.optimizers.SGD(claims.InverseRoot(0.1)), a, b)
    w, expected = np.zeros(3), []
    for t, (row, target) in enumerate(zip(a, b), 1):
        error = row @ w - target
        expected.append(error**2 / 2)
        w -= 0.1 / np.sqrt(t) * error * row
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_regret_falls():
    rows = claims.regret(steps=2000, dimension=3, seeds=(1,))
    assert len(rows) == 5
    for row in rows:
        assert -1.2 < row["slope"] < -0.3
        assert 0 < row["average_regret"] < 2


def test_saddle_point():
    """|y| grows by 1 + rate a step, and twice that while an activation is linear."""
    rows = claims.saddle((0.01,), start=1e-5, exits=(1e-3, 1.0))
    near, far = (
        {r["optimizer"]: r[f"steps_to_{e}"] for r in rows} for e in ("0.001", 1)
    )
    for steps, distance in ((near, 100), (far, 1e5)):
        assert steps["SGD"] == int(np.ceil(np.log(distance) / np.log(1.01)))
    twice = near["SGD at twice the rate"]
    assert near["activated step"] == pytest.approx(twice, abs=1)
    assert near["activated gradient"] == pytest.approx(twice, abs=1)
    # steps stay small, but the gradient becomes large
    assert far["activated step"] == pytest.approx(far["SGD at twice the rate"], abs=3)
    assert far["activated gradient"] > 1.2 * far["SGD at twice the rate"]


def test_tail_index_of_known_distributions():
    random = np.random.default_rng(0)
    normal = random.normal(size=(2000, 50))
    cauchy = random.standard_cauchy(size=(2000, 50))
    assert claims.tail_index(normal) == pytest.approx(2, abs=0.1)
    assert claims.tail_index(cauchy) == pytest.approx(1, abs=0.1)


def test_averages_are_adams():
    """The first moment of the Adam core, with a learning rate of nothing."""
    import keras

    values = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    optimizer = keras_gradopt.AdamCore()
    w = keras.Variable(np.zeros(3, "float32"))
    for value in values:
        optimizer.apply([keras.ops.convert_to_tensor(value)], [w])
    moment = optimizer.variables[2].numpy() / (1 - 0.9**5)
    np.testing.assert_allclose(claims.averages(values, 0.9)[-1], moment, rtol=1e-5)


def test_noise_and_tables(tmp_path, monkeypatch):
    rows = claims.noise(after=(0, 2), batches=20, seeds=(3,))
    assert [(r["optimizer"], r["seed"], r["steps"]) for r in rows] == [
        (name, 3, steps) for steps in (0, 2) for name in ("SGD", "Adam", "AdaL")
    ]
    monkeypatch.setitem(claims.EXPERIMENTS, "noise", lambda args: rows)
    claims.main(["noise", "--results", str(tmp_path)])
    with open(tmp_path / "noise.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    with pytest.raises(SystemExit):
        claims.main(["nose"])


def test_against_adam(monkeypatch, tmp_path):
    """Each size is trained with all, at its own rate; what is known comes out."""
    seen = []

    class Spy:
        def __init__(self, task, optimizer, parts):
            self.name = type(optimizer).__name__
            self.batch_size = task.batch_size

        def fits(self, optimizer):
            return False

        def run(self, rate, seed, parts, weights_shift, kept):
            seen.append((self.name, self.batch_size, round(rate, 5), seed))
            more = 0.5 * (self.name == "AdamNorm") + 1.0 * (rate > 1.1e-3)
            row = {"diverged": 0, "train_loss": 1, "validation_loss": 1}
            row |= {"ms_per_step": 1, "validation_losses": "1"}
            row |= {"test_loss": seed + more, "test_accuracy": more}
            return row | {"validation_accuracy": more}

    rehearsed = comparison.worker._rehearse

    def rehearse(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(comparison.training, "Trainer", original)
            return rehearsed(*arguments)

    original = comparison.training.Trainer
    monkeypatch.setattr(comparison.worker, "_rehearse", rehearse)
    monkeypatch.setattr(comparison.training, "Trainer", Spy)
    claims.main(["batch_sizes", "--results", str(tmp_path), "--allow-dirty"])
    with open(tmp_path / "batch_sizes.csv") as file:
        rows = list(csv.DictReader(file))
    sizes = (32, 64, 128)
    seeds = claims.SEEDS
    assert {s[1:] for s in seen if s[0] == "AdamNorm"} == {
        (size, 1e-3, seed) for size in sizes for seed in seeds
    }
    assert {s[2] for s in seen if s[0] == "AdamCore"} == {1e-3, 1.25e-3}
    assert len(seen) == 3 * 3 * len(seeds)
    found = {(r["task"], r["against"]): r for r in rows}
    assert len(found) == 6
    for size in sizes:
        assert found[f"batch {size}", "Adam at 0.001"]["verdict"] == "worse"
        longer = found[f"batch {size}", "Adam at 0.00125"]
        assert longer["verdict"] == "better"
        assert float(longer["difference"]) == -0.5
        assert float(longer["p"]) == pytest.approx(6 * 2 / 2**12)
        assert float(longer["points"]) == -50
    before = len(seen)
    claims.main(["batch_sizes", "--results", str(tmp_path), "--allow-dirty"])
    assert len(seen) == before  # nothing is made again


def test_published_tables_follow_from_their_rows():
    """The committed CSV is what the command makes of the committed runs."""
    published = claims.commits.ROOT / "docs/studies/claims"
    for name in (path.parent.name for path in published.glob("*/runs.csv")):
        results = comparison.Results.load(published / name)
        rows = claims.summary(results)
        with open(published / f"{name}.csv") as file:
            known = list(csv.DictReader(file))
        assert [{k: str(v) for k, v in row.items()} for row in rows] == known
