"""claims.py: its experiments at small size, on cases whose outcome is known."""

import csv

import numpy as np
import pytest

pytest.importorskip("statsmodels")

from studies import claims

import keras_gradopt

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
    monkeypatch.setitem(claims.EXPERIMENTS, "noise", lambda: rows)
    claims.main(["noise", "--results", str(tmp_path)])
    with open(tmp_path / "noise.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    with pytest.raises(SystemExit):
        claims.main(["nose"])


def test_against_adam(monkeypatch):
    """Each change is trained with all, at its own rate and batch size."""
    seen = []

    class Spy:
        def __init__(self, workload, optimizer, parts):
            self.name = type(optimizer).__name__
            self.batch_size = workload.batch_size

        def run(self, rate, seed, parts):
            seen.append((self.name, self.batch_size, rate, seed))
            more = 0.5 * (self.name == "AdamNorm") + 0.25 * (rate > 1e-3)
            return {"test_loss": seed + more, "test_accuracy": more}

    monkeypatch.setattr(claims, "Trainer", Spy)
    rows = claims.batch_sizes(seeds=range(10))
    assert {(b, r) for n, b, r, _ in seen if n == "AdamNorm"} == {
        (32, 1e-3), (64, 1e-3), (128, 1e-3)
    }  # fmt: skip
    assert {r for n, _, r, _ in seen if n == "AdamCore"} == {1e-3, 1.25e-3}
    assert [row["verdict"] for row in rows] == ["worse", "better"] * 6
    assert [row["mean"] for row in rows] == [0.5, 0.5, 0.25, 0.25] * 3
