"""GradientMonitor: what it records, that it disturbs nothing, and who is dead."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from figures import drawing
from figures.alive import (
    ConstantFriction,
    InertAngularGrad,
    InertRAdamNorm,
    InertWGDAdam,
)
from keras import ops
from trajectories import BACKEND, numpy_values

import keras_gradopt
from keras_gradopt import transforms
from keras_gradopt.callbacks import GradientMonitor
from keras_gradopt.monitoring.measuring import Probe, TrainingStep
from keras_gradopt.monitoring.sinks import Sinks
from keras_gradopt.monitoring.summaries import Summary, aligned, combined


def slow(*values):
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=pytest.mark.slow) for row in rows]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Not compiled by XLA, but where a test is about that."""
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", "0")


# There each of these compiles for some seconds
slow_on_jax = pytest.mark.slow if BACKEND == "jax" else lambda test: test


def images(count=96):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    x = random.normal(size=(count, 6, 6, 2)) + labels[:, None, None, None]
    return x.astype("float32"), labels


def network(dtype=None):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu", dtype=dtype),
            keras.layers.Flatten(),
            keras.layers.Dense(3, dtype=dtype),
        ]
    )


def loss(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )


def trained(optimizer, callbacks=(), epochs=1, model=None, **keywords):
    model = model or network()
    model.compile(optimizer, loss, **keywords)
    history = model.fit(
        *images(), 16, epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return model, history


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "name", ["AngularGrad", *slow("RAdamNorm", "GAFSGD", "WGDSGD")]
)
@pytest.mark.parametrize(
    ("every", "compiled"), [(1, "0"), pytest.param(4, "1", marks=pytest.mark.slow)]
)
def test_training_is_the_same_with_and_without(name, every, compiled, monkeypatch):
    """To rounding: a compiler may fuse differently."""
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", compiled)
    plain, _ = trained(getattr(keras_gradopt, name)(), epochs=2)
    monitored, _ = trained(
        getattr(keras_gradopt, name)(), [GradientMonitor(every)], epochs=2
    )
    for a, b in zip(numpy_values(plain.weights), numpy_values(monitored.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(plain.optimizer.variables, monitored.optimizer.variables):
        assert a.shape == b.shape  # the state has nothing new in it
    assert len(plain.optimizer.variables) == len(monitored.optimizer.variables)


def test_numbers_are_those_of_the_gradient():
    """The first step of SGD: every quantity from a gradient computed here."""
    monitor = GradientMonitor(1, "variable")
    model = network()
    before = numpy_values(model.trainable_variables)
    x, labels = images(16)
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(x, labels, 16, shuffle=False, verbose=0, callbacks=[monitor])
    after = numpy_values(model.trainable_variables)
    assert [row["step"] for row in monitor.records] == [1] * 4
    for v, a, b, row in zip(model.trainable_variables, before, after, monitor.records):
        gradient = (a - b) / 0.5
        assert row["group"] == v.path
        expected = {
            "gradient_l1": np.abs(gradient).sum(),
            "gradient_l2": np.sqrt((gradient**2).sum()),
            "gradient_max": np.abs(gradient).max(),
            "update_l2": 0.5 * np.sqrt((gradient**2).sum()),
            "parameter_l2": np.sqrt((a**2).sum()),
            "cosine": 1.0,
            "effective_learning_rate": 0.5,
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert monitor.alive is None  # there is no transform


@pytest.mark.slow
def test_groups_add_up():
    """The layer and the model have the norms of their variables together."""
    found = {}
    for group_by in ("variable", "layer", "model", lambda path: path[-1]):
        monitor = GradientMonitor(2, group_by)
        trained(keras_gradopt.AngularGrad(), [monitor])
        found[group_by if isinstance(group_by, str) else "own"] = monitor.records
    sizes = {name: len(rows) // 3 for name, rows in found.items()}
    assert sizes == {"variable": 4, "layer": 2, "model": 1, "own": 2}
    for i in range(3):
        variables = found["variable"][4 * i : 4 * i + 4]
        whole = found["model"][i]
        assert whole["step"] == 2 * i + 1
        for name in ("gradient_l2", "update_l2", "parameter_l2"):
            together = np.sqrt(sum(row[name] ** 2 for row in variables))
            assert whole[name] == pytest.approx(together, rel=1e-6)
        total = sum(row["gradient_l1"] for row in variables)
        assert whole["gradient_l1"] == pytest.approx(total, rel=1e-6)
        dot = sum(r["cosine"] * r["gradient_l2"] * r["update_l2"] for r in variables)
        expected = dot / whole["gradient_l2"] / whole["update_l2"]
        assert whole["cosine"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow_on_jax
def test_what_transforms_did():
    """Whitening removes what the mean kernel has; friction is within its bounds."""
    monitor = GradientMonitor(1, "layer")
    optimizer = keras_gradopt.Transformed(
        keras_gradopt.AdamNorm(),
        [transforms.Whiten(), transforms.Activate("tanh", 1, 2), transforms.Whiten()],
    )
    trained(optimizer, [monitor])
    conv, dense = monitor.records[-2:]
    assert 0 < conv["Whiten.removed_energy"] < 1
    assert conv["Whiten.changed"] == 0.5  # the kernel, not the bias
    assert dense["Whiten.removed_energy"] == dense["Whiten.changed"] == 0
    assert conv["Whiten_2.removed_energy"] < conv["Whiten.removed_energy"]
    assert 1 < dense["Activate.gain"] <= 2
    assert "CorrectNorm.gain" in conv
    assert conv["effect_angle"] > 1e-3
    gains = [row["CorrectNorm.gain"] for row in monitor.records]
    assert min(gains) == pytest.approx(1, abs=1e-6)  # never shortened

    monitor = GradientMonitor(1, "model")
    trained(keras_gradopt.AngularGrad(angle="tan"), [monitor])
    for row in monitor.records:
        assert 0.5 <= row["AngularFriction.coefficient"] <= 1
        assert row["AngularFriction.gain"] == pytest.approx(1, abs=1e-6)
        assert 0.5 <= row["effect_scale"] <= 1


@pytest.mark.parametrize(
    "name",
    ["AngularGrad", *slow("RAdamNorm", "WGDAdam", "GAFSGD", "AdaL", "DiffGrad")],
)
def test_ours_are_alive(name):
    monitor = GradientMonitor(5)
    trained(getattr(keras_gradopt, name)(), [monitor], epochs=10)
    assert monitor.alive is True
    lines = []
    monitor.summary(lines.append)
    assert "alive" in lines[-1] and "DEAD" not in "".join(lines)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "inert",
    [
        InertAngularGrad,
        *slow(
            InertRAdamNorm,
            InertWGDAdam,
            lambda: keras_gradopt.AngularGrad(lambda_1=0.0),
            lambda: keras_gradopt.AdamNorm(gamma=0.0),
            lambda: keras_gradopt.Transformed(
                keras.optimizers.Adam(), [ConstantFriction()]
            ),
        ),
    ],
)
def test_inert_copies_are_dead(inert):
    monitor = GradientMonitor(5)
    trained(inert(), [monitor], epochs=10)
    assert monitor.alive is False
    lines = []
    monitor.summary(lines.append)
    assert lines[-1].startswith("DEAD: the optimizer is its base (")
    assert monitor.verdict.degree == "dead"
    assert monitor.verdict.distance < 1e-3
    halved = inert is InertAngularGrad or " at 0.5 times" in lines[-1]
    assert monitor.verdict.factor == pytest.approx(0.5 if halved else 1, abs=1e-4)
    if inert is InertWGDAdam:  # its transform is fine, only the update is not
        assert lines[0].startswith("Whiten: alive")
        assert "IS the one without transforms" in lines[-2]


class Wave(transforms.AngularFriction):
    """A coefficient, and an activation, that vary from entry to entry."""

    coefficient, gain, depth = 1.0, 1.0, 0.0

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)

    def apply(self, gradient, slots, plan):
        result = super().apply(gradient, slots, plan)
        size = int(np.prod(gradient.shape))
        wave = 1 + self.depth * np.sin(np.arange(size)).reshape(gradient.shape)
        wave = ops.cast(ops.convert_to_tensor(wave), gradient.dtype)
        return result._replace(
            coefficient=self.coefficient * (wave if self.gain == 1 else 1),
            gradient=gradient if self.gain == 1 else self.gain * wave * gradient,
        )


def after_one_step(optimizer, count=1):
    """What `count` steps added to the variables."""
    model = network()
    before = numpy_values(model.trainable_variables)
    model.compile(optimizer, loss)
    model.fit(*images(16 * count), 16, shuffle=False, verbose=0)
    return [b - a for a, b in zip(before, numpy_values(model.trainable_variables))]


@pytest.mark.parametrize(
    ("depth", "degree"), [(0.03, "barely alive"), *slow((0.3, "alive"))]
)
def test_distance_from_the_best_constant_factor(depth, degree):
    """Of the first step, from the updates with and without the transform."""

    def make():
        wave = Wave(coefficient=0.8, depth=depth)
        return keras_gradopt.Transformed(keras_gradopt.AdamCore(), [wave])

    with_it = after_one_step(make())
    without = after_one_step(keras_gradopt.AdamCore())
    dot = sum((u * p).sum() for u, p in zip(with_it, without))
    factor = dot / sum((p**2).sum() for p in without)
    distances = {
        v.path: np.linalg.norm(u - factor * p) / np.linalg.norm(u)
        for v, u, p in zip(network().trainable_variables, with_it, without)
    }
    monitor, lines = GradientMonitor(1), []
    model = network()
    model.compile(make(), loss)
    model.fit(*images(16), 16, shuffle=False, verbose=0, callbacks=[monitor])
    verdict = monitor.verdict
    assert verdict.degree == degree
    assert verdict.factor == pytest.approx(factor, rel=1e-5)
    farthest = max(distances, key=distances.get)
    assert verdict.distance == pytest.approx(distances[farthest], rel=1e-3)
    assert monitor.alive is True
    monitor.summary(lines.append)
    assert lines[-1] == str(verdict)
    assert f"{100 * distances[farthest]:.2g} %" in lines[-1]
    assert farthest.split("/")[-1] in lines[-2]  # a name that another network shares
    if degree == "barely alive":
        assert f"its base (Adam) at {factor:.4g} times the learning rate" in lines[-1]
    wave = lines[0]
    assert wave.startswith(f"Wave: {degree}, up to ")
    assert "% as a whole) from a constant factor 0.8" in wave


@slow_on_jax
def test_gradients_of_nearly_constant_length():
    """Moments hide how far updates are: it is SGD on gradients twice as long."""
    wave = Wave(gain=2.0, depth=0.01)
    optimizer = keras_gradopt.Transformed(
        keras.optimizers.SGD(0.01, momentum=0.9), [wave]
    )
    monitor = GradientMonitor(1)
    trained(optimizer, [monitor])
    assert monitor.verdict.degree == "barely alive"
    assert monitor.verdict.factor == 1
    assert 0.005 < monitor.verdict.distance < 0.01
    sentence = str(monitor.verdict)
    assert "its base (SGD), on gradients 2" in sentence
    assert sentence.endswith("(whether the update uses it was not seen)")


@pytest.mark.slow
def test_a_small_part_of_an_update_is_not_taken_for_all():
    """Of ten steps' moments one is new: the gradients' distance counts, not a tenth."""
    wave = Wave(gain=1.5, depth=0.1)
    optimizer = keras_gradopt.Transformed(keras_gradopt.AdamCore(), [wave])
    monitor, lines = GradientMonitor(1), []
    trained(optimizer, [monitor], 5)
    monitor.summary(lines.append)
    assert monitor.verdict.degree == "alive"
    assert 0.06 < monitor.verdict.distance < 0.09
    wave.depth = 0.01
    monitor = GradientMonitor(1)
    optimizer = keras_gradopt.Transformed(keras_gradopt.AdamCore(), [wave])
    trained(optimizer, [monitor], 5)
    assert monitor.verdict.degree == "barely alive"
    assert "its base (Adam), on gradients 1.5" in str(monitor.verdict)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="one backend is enough")
def test_barely_alive_trains_like_the_base_at_its_factor():
    """AngularGrad on digits is Adam at 0.88 times the rate; AdamNorm is not Adam."""
    images, labels, *validation = drawing.digits()

    def losses(optimizer, *callbacks):
        model = drawing.small_network(optimizer, seed=0)
        history = model.fit(
            images, labels, 16, 4, shuffle=False, verbose=0, callbacks=callbacks,
            validation_data=validation,
        )  # fmt: skip
        return np.log(history.history["val_loss"])

    angular, norm = GradientMonitor(10), GradientMonitor(10)
    with_friction = losses(keras_gradopt.AngularGrad(1e-3), angular)
    assert angular.verdict.degree == "barely alive"
    assert angular.verdict.factor == pytest.approx(0.8808, abs=2e-4)
    assert angular.verdict.distance < 0.002
    base = losses(keras_gradopt.AdamCore(angular.verdict.factor * 1e-3))
    assert abs(with_friction - base).max() < 0.005
    corrected = losses(keras_gradopt.AdamNorm(1e-3), norm)
    assert norm.verdict.degree == "alive"
    assert norm.verdict.distance > 0.2
    assert abs(corrected - losses(keras_gradopt.AdamCore(1e-3))).max() > 0.05


def summary_of(monitor):
    lines = []
    monitor.summary(lines.append)
    return lines


@slow_on_jax
def test_an_optimizer_without_transforms_is_summarized():
    monitor = GradientMonitor(1, "model")
    trained(keras.optimizers.SGD(0.5), [monitor])
    norms, verdict = summary_of(monitor)
    values = [row["gradient_l2"] for row in monitor.records]
    shown = f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})"
    assert norms.startswith(f"6 steps measured: gradient L2 {shown}; update L2 ")
    assert "effective learning rate 0.5 (0.5 to 0.5)" in norms
    assert norms.endswith("cosine of update and -gradient 1 (1 to 1)")
    assert verdict == "the optimizer has no transforms: there is nothing to judge"
    assert monitor.verdict.degree is None


@slow_on_jax
def test_why_nothing_was_measured():
    monitor = GradientMonitor(100)
    assert summary_of(monitor) == [
        "nothing was measured: no training step was made with this monitor"
    ]
    model, _ = trained(keras_gradopt.AngularGrad())
    with pytest.warns(UserWarning, match=r"steps 7 to 12 none is sampled.*every=100"):
        model.fit(*images(), 16, verbose=0, callbacks=[monitor])
    (line,) = summary_of(monitor)
    assert line.startswith("nothing was measured: of steps 7 to 12 none is sampled")
    assert monitor.alive is None
    with pytest.raises(ValueError, match="Nothing to plot: of steps 7 to 12"):
        monitor.plot()
    model.fit(*images(), 16, 17, verbose=0, callbacks=[monitor])  # 101 is among them
    assert [row["step"] for row in monitor.records] == [101] * 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others build it before")
@pytest.mark.parametrize("count", [16, *slow(96)])
def test_the_first_step_that_builds_is_said_to_be_unseen(count):
    monitor = GradientMonitor(10)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile(keras_gradopt.AngularGrad(), loss)
    said = "the one that built the model" if count == 16 else "steps 2 to 6 none"
    with pytest.warns(UserWarning, match=said):
        model.fit(*images(count), 16, verbose=0, callbacks=[monitor])
    assert said in str(monitor.verdict)


@slow_on_jax
def test_a_single_sample_is_seen_in_the_plot():
    pytest.importorskip("matplotlib")
    monitor = GradientMonitor(100, "model")
    trained(keras.optimizers.SGD(0.5), [monitor])
    lines = [line for axis in monitor.plot().axes for line in axis.get_lines()]
    assert len(lines) == 4
    assert {line.get_marker() for line in lines} == {"o"}


def numbers(row):
    return {name: value for name, value in row.items() if name != "group"}


@slow_on_jax
def test_by_hand_as_in_fit():
    """`train_on_batch` within `watching`; also Keras' own calls, one by one."""
    of_fit, by_hand, by_calls = (GradientMonitor(2, "model") for _ in range(3))
    trained(keras_gradopt.AngularGrad(), [of_fit])
    x, labels = images()
    batches = [(x[i : i + 16], labels[i : i + 16]) for i in range(0, 96, 16)]
    model = network()
    model.compile(keras_gradopt.AngularGrad(), loss)
    with by_hand.watching(model) as same:
        for batch in batches:
            model.train_on_batch(*batch)
            assert "update_step" in vars(model.optimizer)
    assert same is by_hand
    assert "update_step" not in vars(model.optimizer)
    model.train_on_batch(*batches[0])
    assert len(by_hand.records) == len(of_fit.records) == 3
    for a, b in zip(by_hand.records, of_fit.records):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-4)
    model = network()
    model.compile(keras_gradopt.AngularGrad(), loss)
    model.train_on_batch(*batches[0])
    by_calls.set_model(model)
    by_calls.on_train_begin()
    for i, batch in enumerate(batches[1:]):
        model.train_on_batch(*batch)
        by_calls.on_train_batch_end(i)
    by_calls.on_train_end()
    assert [row["step"] for row in by_calls.records] == [3, 5]
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs variables"), by_calls.watching(model):
        pass


def own_step(model, optimizer):
    """A training step without `compile`, as one would write it for the backend."""
    variables = model.trainable_variables

    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(x, labels):
            with tf.GradientTape() as tape:
                value = ops.mean(loss(labels, model(x)))
            optimizer.apply(tape.gradient(value, variables), variables)

    elif BACKEND == "torch":
        import torch

        def step(x, labels):
            model.zero_grad()
            ops.mean(loss(ops.convert_to_tensor(labels), model(x))).backward()
            with torch.no_grad():
                optimizer.apply([v.value.grad for v in variables], variables)

    else:
        import jax

        state = [[v.value for v in vs] for vs in (variables, optimizer.variables)]

        def value(trainable, x, labels):
            return ops.mean(loss(labels, model.stateless_call(trainable, [], x)[0]))

        @jax.jit
        def stateless(trainable, slots, x, labels):
            gradients = jax.grad(value)(trainable, x, labels)
            return optimizer.stateless_apply(slots, gradients, trainable)

        def step(x, labels):
            state[:] = stateless(*state, x, labels)

    return step


@pytest.mark.slow
def test_a_training_step_of_ones_own():
    of_fit = GradientMonitor(2, "model")
    trained(keras_gradopt.AngularGrad(), [of_fit])
    model, optimizer = network(), keras_gradopt.AngularGrad()
    own = GradientMonitor(2, "model", optimizer=optimizer)
    with pytest.raises(ValueError, match="needs variables"), own.watching(model):
        pass
    optimizer.build(model.trainable_variables)
    step, (x, labels) = own_step(model, optimizer), images()
    with own.watching(model):
        for i in range(6):
            step(x[16 * i : 16 * i + 16], labels[16 * i : 16 * i + 16])
            own.on_train_batch_end(i)
    assert len(own.records) == len(of_fit.records) == 3
    for a, b in zip(own.records, of_fit.records):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-3, abs=1e-3)


class TwoOptimizers(keras.Model):
    """As in a GAN: two networks, two optimizers, one training step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = network(), network()

    def compile(self, first_optimizer, second_optimizer):
        super().compile()  # with Keras' default, which is not used
        self.first_optimizer = first_optimizer
        self.second_optimizer = second_optimizer

    def call(self, x):
        return self.second(x)

    def train_step(self, data):
        x, labels = data
        for model, optimizer in (
            (self.first, self.first_optimizer),
            (self.second, self.second_optimizer),
        ):
            own_step(model, optimizer).__wrapped__(x, labels)
        return {"loss": 0.0}


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="its step is the shortest")
def test_several_optimizers_in_a_model():
    model = TwoOptimizers()
    optimizers = keras_gradopt.AngularGrad(), keras_gradopt.AdamNorm()
    model.compile(*optimizers)
    for optimizer, part in zip(optimizers, (model.first, model.second)):
        optimizer.build(part.trainable_variables)
    first, second = (GradientMonitor(2, "layer", optimizer=o) for o in optimizers)
    model.fit(*images(), 16, verbose=0, callbacks=[first, second])
    for monitor, part, label in (
        (first, model.first, "AngularFriction"),
        (second, model.second, "CorrectNorm"),
    ):
        layers = {v.path.rpartition("/")[0] for v in part.trainable_variables}
        assert {row["group"] for row in monitor.records} == layers
        assert {row["step"] for row in monitor.records} == {1, 3, 5}
        assert f"{label}.gain" in monitor.records[0]
    unused = GradientMonitor(2)
    with pytest.warns(UserWarning, match=r"made no update; of several, name one"):
        model.fit(*images(), 16, verbose=0, callbacks=[unused])
    with pytest.raises(ValueError, match=r"optimizer.*'first_optimizer'"):
        GradientMonitor(optimizer="first_optimizer")


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="its step is the shortest")
def test_an_optimizer_of_a_part_that_its_first_step_builds():
    model = TwoOptimizers()
    model.compile(keras_gradopt.AngularGrad(), keras_gradopt.AdamNorm())
    monitor = GradientMonitor(2, "layer", optimizer=model.second_optimizer)
    model.fit(*images(), 16, verbose=0, callbacks=[monitor])
    assert {row["step"] for row in monitor.records} == {3, 5}
    assert len(model.second_optimizer.variables) < 16  # not of the first network's


def folder(path):
    path.mkdir()


def in_a_file(path):
    path.parent.write_text("")


class DiskFull:
    def __init__(self, *args, **keywords):
        pass

    def writeheader(self):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fault", [folder, *slow(in_a_file, "disk full")])
def test_a_csv_that_cannot_be_written(tmp_path, monkeypatch, fault):
    """The error comes through, and model and optimizer are as without a monitor."""
    path = tmp_path / "inside" / "records.csv"
    if fault == "disk full":
        monkeypatch.setattr("keras_gradopt.monitoring.sinks.csv.DictWriter", DiskFull)
    else:
        path.parent.parent.mkdir(exist_ok=True)
        if fault is folder:
            path.parent.mkdir()
        fault(path)
    model = network()
    monitor = GradientMonitor(2, csv_path=path)
    with pytest.raises(OSError):
        trained(keras_gradopt.AngularGrad(), [monitor], model=model)
    assert not {"apply", "update_step"} & set(vars(model.optimizer))
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", "0")
    model.fit(*images(), 16, verbose=0)
    assert not isinstance(model.train_function, TrainingStep)
    assert monitor.records == []
    later = GradientMonitor(2)
    model.fit(*images(), 16, verbose=0, callbacks=[later])
    assert later.alive is True


def test_a_csv_of_another_kind_is_refused_before_training(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n0,1.5\n")
    model = network()
    start = model.get_weights()
    with pytest.raises(ValueError, match=r"csv_path.*columns epoch, loss"):
        trained(
            keras_gradopt.AngularGrad(),
            [GradientMonitor(1, csv_path=path)],
            model=model,
        )
    assert path.read_text() == "epoch,loss\n0,1.5\n"
    for before, after in zip(start, model.get_weights()):
        np.testing.assert_array_equal(before, after)


class WithNothing(keras.layers.Layer):
    """Has a variable without entries."""

    def build(self, shape):
        self.nothing = self.add_weight(shape=(0,), name="nothing")

    def call(self, x):
        return x + keras.ops.sum(self.nothing)


@slow_on_jax
def test_a_variable_without_entries_is_not_measured():
    model = keras.Sequential([network(), WithNothing()])
    monitor = GradientMonitor(1, histograms=["gradient", "update"], moments=True)
    trained(keras_gradopt.AngularGrad(), [monitor], model=model)
    assert monitor.alive is True
    assert all(np.isfinite(row["gradient_l2"]) for row in monitor.records)
    assert {row["variable"] for row in monitor.histograms} == {
        v.path for v in model.trainable_variables if v.shape != (0,)
    }


@pytest.mark.slow
def test_a_training_function_made_anew_on_the_way_is_measured():
    """As by a callback that unfreezes layers."""

    class Anew(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.clipvalue = 1e-9
                self.model.make_train_function(force=True)

    monitor = GradientMonitor(2, "model")
    model, _ = trained(keras_gradopt.AngularGrad(), [Anew(), monitor], 2)
    peaks = dict(zip(*monitor.series("gradient_max")))
    assert sorted(peaks) == [1, 3, 5, 7, 9, 11]
    assert peaks[5] > 1e-6 and peaks[7] == pytest.approx(1e-9)
    assert not isinstance(model.train_function, TrainingStep)


@pytest.mark.slow
def test_two_monitors_of_one_optimizer():
    often, too, seldom = (GradientMonitor(every, "model") for every in (1, 1, 4))
    model, _ = trained(keras_gradopt.AngularGrad(), [often, too, seldom])
    assert [row["step"] for row in often.records] == [1, 2, 3, 4, 5, 6]
    assert too.records == often.records
    assert seldom.records == [often.records[0], often.records[4]]
    assert "update_step" not in vars(model.optimizer)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others free what they compile")
def test_memory_is_bounded(monkeypatch):
    """A `fit` is traced once for all monitors; a new model's grows a bit more.

    TensorFlow never frees what it traced and compiled. In megabytes for each `fit`,
    Keras' Adam without a monitor beside.
    """
    monkeypatch.delenv("KERAS_GRADOPT_JIT_COMPILE")
    lines = {}
    for monitor, optimizer, model in (
        ("monitor", "AngularGrad", "same"),
        ("monitor", "AngularGrad", "new"),
        ("none", "AngularGrad", "new"),
        ("none", "Adam", "new"),
    ):
        words = [monitor, optimizer, model]
        lines[" ".join(words)] = float(output(["memory.py", *words]))
    print(lines)
    assert lines["monitor AngularGrad same"] < 2
    beside = lines["none AngularGrad new"]
    assert lines["monitor AngularGrad new"] < beside + 20, lines


def test_history_csv_tensorboard_and_plot(tmp_path):
    pytest.importorskip("matplotlib")
    path, logs = tmp_path / "records.csv", tmp_path / "logs"
    monitor = GradientMonitor(3, "layer", path, logs)
    _, history = trained(keras_gradopt.AngularGrad(), [monitor], epochs=2)
    assert len(history.history["gradient_l2"]) == 2
    assert 0.5 < history.history["AngularFriction.coefficient"][0] <= 0.881
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(monitor.records) == 2 * 4  # steps 1, 4, 7 and 10
    for row, record in zip(rows, monitor.records):
        for name, value in record.items():
            assert str(value) == row[name]
    # a run that goes on from step 4 keeps what was written of the steps before
    again = Sinks(path, None, None, None)
    rows = [row for row in monitor.records if row["step"] == 7]
    again.write(rows, list(rows[0])[2:], anew=True)
    with open(path) as file:
        assert [row["step"] for row in csv.DictReader(file)] == list("114477")
    (events,) = logs.glob("events*")
    assert events.stat().st_size > 1000
    figure = monitor.plot(tmp_path / "plot.png")
    titles = [axis.get_title() for axis in figure.axes]
    assert "AngularFriction: coefficient" in titles
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    steps, values = monitor.series("cosine", monitor.records[0]["group"])
    assert steps == [1, 4, 7, 10] and len(values) == 4


@pytest.mark.slow
def test_a_model_that_its_first_step_builds():
    monitor = GradientMonitor(2, "model")
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    trained(keras_gradopt.AngularGrad(), [monitor], model=model)
    first = [] if BACKEND == "tensorflow" else [1]  # others build it before
    assert [row["step"] for row in monitor.records] == [*first, 3, 5]
    assert monitor.alive


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on_train_batch_begin", "on_train_batch_end"])
def test_an_interrupted_fit_leaves_no_monitor(where):
    """The optimizer is as it was; a later `fit` measures only if it is to."""

    def interrupt(batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt

    interrupted = keras.callbacks.Callback()
    setattr(interrupted, where, interrupt)
    model, first = network(), GradientMonitor(1, "model")
    with pytest.raises(KeyboardInterrupt):
        trained(keras_gradopt.DiffGrad(), [first, interrupted], model=model)
    assert not {"apply", "update_step"} & set(vars(model.optimizer))
    seen = len(first.records)
    model.fit(*images(), 16, verbose=0)
    assert not isinstance(model.train_function, TrainingStep)
    assert len(first.records) == seen == (1 if "begin" in where else 2)
    second = GradientMonitor(1, "model")
    model.fit(*images(), 16, verbose=0, callbacks=[second])
    begun = seen + 7
    assert [row["step"] for row in second.records] == list(range(begun, begun + 6))
    model.fit(*images(), 16, verbose=0, callbacks=[first])
    assert len(first.records) == seen + 6


@pytest.mark.slow
def test_a_second_fit_goes_on():
    monitor = GradientMonitor(4, "model")
    model, _ = trained(keras_gradopt.DiffGrad(), [monitor])
    model.fit(*images(), 16, verbose=0)  # 6 steps without it
    assert [row["step"] for row in monitor.records] == [1, 5]
    model.fit(*images(), 16, verbose=0, callbacks=[monitor])
    assert [row["step"] for row in monitor.records] == [1, 5, 13, 17]
    assert "update_step" not in vars(model.optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.LossScaleOptimizer(keras_gradopt.AngularGrad()),
        *slow(
            lambda: keras_gradopt.AngularGrad(gradient_accumulation_steps=2),
            lambda: keras_gradopt.AngularGrad(
                clipnorm=0.1, weight_decay=0.01, use_ema=True
            ),
            lambda: keras_gradopt.Transformed(
                keras.optimizers.Lion(), [transforms.AngularFriction()]
            ),
            lambda: keras_gradopt.Transformed(
                keras_gradopt.WGDSGD(), [transforms.AngularFriction()]
            ),
        ),
    ],
)
def test_inside_wrappers(make):
    monitor = GradientMonitor(1, "model")
    optimizer = make()
    trained(optimizer, [monitor])
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    steps = 3 if inner.gradient_accumulation_steps else 6
    assert [row["step"] for row in monitor.records] == list(range(1, steps + 1))
    assert monitor.alive is True
    if optimizer.clipnorm:
        assert all(row["gradient_l2"] < 0.1 * 2.001 for row in monitor.records)


@pytest.mark.slow_on_jax
def test_accumulation_measures_the_accumulated_gradient():
    """The mean of two batches; not that of the last batch."""
    monitor = GradientMonitor(1, "model")
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    model = network()
    before = np.concatenate(
        [v.ravel() for v in numpy_values(model.trainable_variables)]
    )
    x, labels = images(32)
    model.compile(optimizer, loss)
    model.fit(x, labels, 16, shuffle=False, verbose=0, callbacks=[monitor])
    after = np.concatenate([v.ravel() for v in numpy_values(model.trainable_variables)])
    (row,) = monitor.records
    length = np.sqrt((((before - after) / 0.5) ** 2).sum())
    assert row["gradient_l2"] == pytest.approx(length, rel=1e-4)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("before", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_accumulation_over_epochs(before):
    """Windows that end in another epoch, or began in another `fit`, are whole."""

    def compiled():
        model = network()
        model.compile(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2), loss)
        return model

    x, labels = images(48)
    weights, model = [], compiled()
    for i in range(before + 9):
        values = numpy_values(model.trainable_variables)
        weights.append(np.concatenate([value.ravel() for value in values]))
        batch = slice(16 * (i % 3), 16 * (i % 3 + 1))
        model.train_on_batch(x[batch], labels[batch])
    lengths = [
        np.sqrt((((a - b) / 0.5) ** 2).sum()) for a, b in itertools.pairwise(weights)
    ]
    expected = [length for length in lengths if length > 0][before // 2 :]
    monitor, model = GradientMonitor(1, "model"), compiled()
    for epochs, callbacks in ((before // 3, []), (3, [monitor])):
        model.fit(x, labels, 16, epochs, shuffle=False, verbose=0, callbacks=callbacks)
    steps, values = monitor.series("gradient_l2")
    assert steps == list(range(before // 2 + 1, (before + 9) // 2 + 1))
    assert values[: len(expected)] == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def multi_optimizer():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    optimizers = keras.optimizers.OptimizerMap(keras_gradopt.AngularGrad())
    optimizers[".*dense.*"] = keras.optimizers.SGD()
    optimizers["no such variable"] = keras_gradopt.AdaL()
    return keras.optimizers.MultiOptimizer(optimizers)


@pytest.mark.slow
def test_parts_of_a_multi_optimizer(tmp_path, multi_optimizer):
    monitor = GradientMonitor(1, "layer", tmp_path / "records.csv")
    model, _ = trained(multi_optimizer, [monitor])
    assert len(monitor.records) == 12
    with_friction = {
        row["group"] for row in monitor.records if "AngularFriction.gain" in row
    }
    assert len(with_friction) == 1
    with open(tmp_path / "records.csv") as file:
        frictions = [row["AngularFriction.gain"] for row in csv.DictReader(file)]
    assert frictions.count("") == 6
    assert monitor.alive is True
    model.fit(*images(), 16, verbose=0, callbacks=[monitor])
    assert {row["step"] for row in monitor.records} == set(range(1, 13))


@pytest.mark.slow
def test_a_multi_optimizer_as_a_whole(multi_optimizer):
    """One row for each step, over the variables of all parts."""
    monitors = [GradientMonitor(1, "model"), GradientMonitor(1, "variable")]
    (whole, parts), histories = monitors, []
    for monitor in monitors:
        optimizer = type(multi_optimizer).from_config(multi_optimizer.get_config())
        histories.append(trained(optimizer, [monitor])[1].history)
    steps, norms = whole.series("gradient_l2")
    assert steps == [1, 2, 3, 4, 5, 6]
    for step, norm in zip(steps, norms):
        rows = [row for row in parts.records if row["step"] == step]
        assert len(rows) == 4
        together = np.sqrt(sum(row["gradient_l2"] ** 2 for row in rows))
        assert norm == pytest.approx(together, rel=1e-5)
    assert histories[0]["gradient_l2"][0] == pytest.approx(np.mean(norms))
    (kernel,) = {
        row["group"]
        for row in parts.records
        if "AngularFriction.gain" in row and "kernel" in row["group"]
    }
    steps, values = parts.series("AngularFriction.coefficient", kernel)
    assert len(values) == 6 and min(values) >= 0.5


@pytest.mark.slow
def test_half_precision_is_not_called_dead():
    """The rounding of bfloat16 hides how an update differs from another."""
    for make in (keras_gradopt.AngularGrad, keras_gradopt.AdamNorm):
        monitor, lines = GradientMonitor(5), []
        trained(make(), [monitor], 5, network("bfloat16"))
        monitor.summary(lines.append)
        assert monitor.alive is True
        assert lines[-1].endswith("(whether the update uses it was not seen)")
    monitor = GradientMonitor(5)
    trained(InertAngularGrad(), [monitor], 5, network("bfloat16"))
    assert monitor.alive is False  # by its transform


@pytest.mark.slow
def test_verdict_where_the_update_is_of_keras():
    monitor, lines = GradientMonitor(1), []
    sgd = keras.optimizers.SGD(momentum=0.9)
    trained(keras_gradopt.Transformed(sgd, [transforms.Whiten()]), [monitor])
    monitor.summary(lines.append)
    assert monitor.alive is True
    assert lines[-1].endswith("(whether the update uses it was not seen)")


@pytest.mark.slow
def test_another_optimizer_begins_anew(tmp_path):
    """After `compile` with another one, records and verdict are of that alone."""
    model, path = network(), tmp_path / "records.csv"
    monitor = GradientMonitor(2, "model", path)
    for optimizer, alive in (
        (keras_gradopt.AdamCore(), None),
        (keras_gradopt.AngularGrad(), True),
        (keras_gradopt.AdamCore(), None),
        (keras.optimizers.SGD(), None),
    ):
        trained(optimizer, [monitor], model=model)
        assert monitor.alive is alive
        assert [row["step"] for row in monitor.records] == [1, 3, 5]
        with open(path) as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == ["1", "3", "5"]
        assert list(rows[0]) == list(monitor.records[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variables_without_a_gradient(tmp_path):
    """They are in no mean, and the picture is drawn."""
    pytest.importorskip("matplotlib")
    keras.utils.set_random_seed(1)
    x = keras.Input((6, 6, 2))
    used = keras.layers.Dense(3, name="used")(keras.layers.Flatten()(x))
    idle = keras.layers.Dense(3, name="idle")(keras.layers.Flatten()(x))
    model = keras.Model(x, [used, idle])
    model.compile(keras_gradopt.AngularGrad(), [loss, None])
    monitor = GradientMonitor(1, "model")
    model.fit(images()[0], [images()[1]] * 2, 16, verbose=0, callbacks=[monitor])
    for row in monitor.records:
        assert 0.5 <= row["AngularFriction.coefficient"] <= 0.881
    titles = [axis.get_title() for axis in monitor.plot().axes]
    assert "AngularFriction: coefficient" in titles
    assert "AngularFriction: gain" not in titles  # a constant


@pytest.mark.slow
@pytest.mark.parametrize(
    "keywords",
    [{"jit_compile": True}, {"jit_compile": False, "steps_per_execution": 2},
     {"run_eagerly": True}],
)  # fmt: skip
def test_an_embedding(keywords):
    """Its sparse gradient is measured as it is, however the step is run."""
    if BACKEND == "torch" and "run_eagerly" not in keywords:
        pytest.skip("compiled, it needs a C++ compiler; several steps Keras refuses")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(50, 3),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    x, labels = random.integers(0, 50, (32, 4)), random.integers(0, 3, 32)
    before = numpy_values(model.trainable_variables)
    monitor = GradientMonitor(2, "variable")
    model.compile(keras.optimizers.SGD(0.5), loss, **keywords)
    model.fit(x, labels, 16, shuffle=False, verbose=0, callbacks=[monitor])
    first = model.evaluate(x[:16], labels[:16], verbose=0)  # still a whole model
    assert np.isfinite(first)
    rows = [row for row in monitor.records if row["step"] == 1]
    assert [row["step"] for row in monitor.records] == [1] * 3
    model.set_weights(before)
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.train_on_batch(x[:16], labels[:16])
    after = numpy_values(model.trainable_variables)
    for row, a, b in zip(rows, before, after):
        length = np.sqrt((((a - b) / 0.5) ** 2).sum())
        assert row["gradient_l2"] == pytest.approx(length, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "jax", reason="there it is always a `cond`")
def test_steps_between_samples_are_left_alone(monkeypatch):
    """Without a graph nothing is copied, and nothing prepared, for them."""
    prepared, prepare = [], Probe._prepare
    monkeypatch.setattr(
        Probe, "_prepare", lambda *args: prepared.append(1) or prepare(*args)
    )
    trained(keras_gradopt.AngularGrad(), [GradientMonitor(4)], run_eagerly=True)
    assert len(prepared) == 2 * 4  # steps 1 and 5, four variables


@pytest.mark.slow_on_jax
def test_history_of_epochs_without_a_sample():
    """NaN, so that all columns are as long as there are epochs."""
    _, history = trained(keras_gradopt.AngularGrad(), [GradientMonitor(10)], epochs=3)
    assert {len(column) for column in history.history.values()} == {3}
    assert np.isnan(history.history["cosine"]).tolist() == [False, False, True]


def test_means_are_over_steps_with_a_gradient():
    seen = Summary(["Friction"])
    with_gradient = np.array([[1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0.8, 0.1]])
    without = np.array([[2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0.8, 0.1]])
    for values in (with_gradient, without):
        seen.add(["w"], values, np.array([1]), np.array([1e-7]))
    assert "coefficient 0.8 (0.8 to 0.8" in next(seen.lines())


def test_coefficients_are_averaged_over_entries():
    """Of a variable of three entries and one of one; nothing of one without it."""
    update = [1, 1, 1, 1, 1, 1, 0, 1, 0]
    rows = np.array([[*update, 1, 1, 0, 0.8, 0.1], [*update, 1, 1, 0, 0.6, 0.0]])
    without = aligned([], np.array([update], "float64"), ["Friction"])
    found = combined(["Friction"], np.concatenate([rows, without]), np.array([3, 1, 9]))
    assert found["Friction.coefficient"] == pytest.approx(0.75)
    variance = (3 * (0.1**2 + 0.05**2) + 0.15**2) / 4
    assert found["Friction.coefficient_spread"] == pytest.approx(np.sqrt(variance))
    assert found["gradient_l1"] == 3
    assert "Friction.gain" not in combined(["Friction"], without, np.array([9]))


def test_no_optimizer_and_no_update():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 2))
            self.built = True

        def call(self, x):
            return self.dense(x)

        def train_step(self, *args):  # trains nothing
            return ({"loss": 0.0}, args[0]) if BACKEND == "jax" else {"loss": 0.0}

    x = np.zeros((4, 2), "float32")
    model = Own()
    model.compile(keras.optimizers.SGD(), "mse")
    with pytest.warns(UserWarning, match="made no update"):
        model.fit(x, x[:, :1], 2, verbose=0, callbacks=[GradientMonitor()])
    monitor = GradientMonitor()
    model.compile(optimizer=None, loss="mse")
    monitor.set_model(model)
    with pytest.raises(ValueError, match=r"model.optimizer.*None"):
        monitor.on_train_begin()


class Slope(keras.layers.Layer):
    """Its gradient is `scale`, for each of three weights."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def build(self, input_shape):
        self.w = self.add_weight(shape=(3,), initializer="ones")

    def call(self, x):
        return ops.sum(self.w) * self.scale + 0 * x


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("scale", [1e30, 1e-30, 0.0])
def test_huge_and_zero_gradients(scale):
    """Norms neither overflow nor underflow; a zero gradient has no direction."""
    monitor = GradientMonitor(1, "model")
    model = keras.Sequential([keras.Input((1,)), Slope(scale)])
    model.compile(keras.optimizers.SGD(1e-3), lambda y, p: ops.mean(p))
    x = np.zeros((2, 1), "float32")
    model.fit(x, x, 2, verbose=0, callbacks=[monitor])
    (row,) = monitor.records
    assert row["gradient_l2"] == pytest.approx(np.sqrt(3) * scale, rel=1e-4)
    assert row["gradient_max"] == pytest.approx(scale, rel=1e-4)
    assert np.isnan(row["cosine"]) == (scale < 1e-20)  # too small to move a weight


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"every": 0}, "every"),
        ({"every": 2.5}, "every"),
        ({"group_by": "layers"}, "'variable', 'layer', 'model'"),
    ],
)
def test_wrong_arguments(keywords, words):
    with pytest.raises(ValueError, match=words):
        GradientMonitor(**keywords)


def test_wrong_questions():
    monitor = GradientMonitor()
    assert monitor.alive is None
    with pytest.raises(ValueError, match="Nothing to plot"):
        monitor.plot()
    with pytest.raises(ValueError, match="group"):
        monitor.series("cosine", "nowhere")
    trained(keras_gradopt.AdamCore(), [monitor])
    with pytest.raises(ValueError, match="one of"):
        monitor.series("cosinus", monitor.records[0]["group"])


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no distribution there")
def test_on_two_devices():
    """They measure the reduced gradient: what one device has on the whole batch."""
    one, two = (json.loads(output(["monitored.py", n])) for n in ("1", "2"))
    assert [row["step"] for row in two] == [row["step"] for row in one] == [1, 3]
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def output(arguments):
    """The last line that a worker prints."""
    script = Path(__file__).parents[1] / "workers" / arguments[0]
    done = subprocess.run(
        [sys.executable, str(script), *arguments[1:]],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]
