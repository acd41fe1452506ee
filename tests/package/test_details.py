"""What GradientMonitor measures when it is asked to, and where it sends records."""

import csv
import json

import keras
import numpy as np
import pytest
from keras import ops
from test_callbacks import images, loss, network, trained
from trajectories import BACKEND, numpy_values

import keras_gradopt
from keras_gradopt.callbacks import GradientMonitor
from keras_gradopt.monitoring import sinks
from keras_gradopt.monitoring.details import BINS, Details, Measured

EVERYTHING = {"histograms": True, "moments": True, "clipping": True}
pytestmark = pytest.mark.slow_on_jax


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Not compiled by XLA."""
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", "0")


def norm(x):
    return np.sqrt(np.sum(np.square(x, dtype="float64")))


def gradients(model, steps=1, **settings):
    """Of the first update, from what SGD changes."""
    before = numpy_values(model.trainable_variables)
    model.compile(keras.optimizers.SGD(0.5, **settings), loss)
    x, labels = (part[: 16 * steps] for part in images())
    model.fit(x, labels, 16, shuffle=False, verbose=0)
    after = numpy_values(model.trainable_variables)
    return [(a - b) / 0.5 for a, b in zip(before, after)]


def monitored(optimizer, steps=1, model=None, **keywords):
    """A monitor of all steps, variable by variable."""
    keywords = {"every": 1, "group_by": "variable"} | keywords
    monitor = GradientMonitor(**keywords)
    model = model or network()
    model.compile(optimizer, loss)
    x, labels = (part[: 16 * steps] for part in images())
    model.fit(x, labels, 16, shuffle=False, verbose=0, callbacks=[monitor])
    return monitor


def clipped(values, kind, limit):
    if kind == "clipvalue":
        return [np.clip(g, -limit, limit) for g in values]
    if kind == "clipnorm":
        return [g * min(1, limit / norm(g)) for g in values]
    whole = norm([norm(g) for g in values])
    return [g * min(1, limit / whole) for g in values]


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_the_norm_before_clipping_and_whether_it_acted(kind):
    expected = gradients(network())
    norms = sorted(map(norm, expected))
    limit = {
        "clipnorm": (norms[1] + norms[2]) / 2,  # two of the four
        "global_clipnorm": norms[0],
        "clipvalue": sorted(np.abs(g).max() for g in expected)[1] * 1.01,
    }[kind]
    optimizer = keras.optimizers.SGD(0.5, **{kind: float(limit)})
    monitor = monitored(optimizer, clipping=True)
    seen = 0
    for row, g, c in zip(monitor.records, expected, clipped(expected, kind, limit)):
        assert row["unclipped_l2"] == pytest.approx(norm(g), rel=1e-4)
        assert row["gradient_l2"] == pytest.approx(norm(c), rel=1e-4)
        assert row["clipped"] == (norm(g - c) > 1e-3 * norm(g))
        seen += row["clipped"]
    assert seen == (4 if kind == "global_clipnorm" else 2)
    lines = []
    monitor.summary(lines.append)
    (line,) = (line for line in lines if "clipping" in line)
    assert line.startswith(f"clipping acted on {seen:.0f} of 4 gradients (")
    assert f"before it {norm(norms):.3g} (" in line
    whole = monitored(
        keras.optimizers.SGD(0.5, **{kind: float(limit)}),
        clipping=True, group_by="model",
    )  # fmt: skip
    (row,) = whole.records
    assert row["clipped"] == seen / 4
    assert row["unclipped_l2"] == pytest.approx(norm(norms), rel=1e-4)


def test_a_limit_that_is_not_reached_does_not_act():
    """Though it multiplies and divides, and so rounds."""
    for settings in ({"clipnorm": 777.7}, {"global_clipnorm": 777.7}, {}):
        optimizer = keras.optimizers.SGD(0.5, **settings)
        for row in monitored(optimizer, clipping=True).records:
            assert row["clipped"] == 0
            assert row["unclipped_l2"] == pytest.approx(row["gradient_l2"], rel=1e-6)


def test_clipping_of_the_accumulated_gradient():
    settings = {"gradient_accumulation_steps": 2}
    expected = gradients(network(), 2, **settings)
    optimizer = keras.optimizers.SGD(0.5, clipnorm=1e-3, **settings)
    monitor = monitored(optimizer, 2, clipping=True)
    assert len(monitor.records) == 4
    for row, g in zip(monitor.records, expected):
        assert row["unclipped_l2"] == pytest.approx(norm(g), rel=1e-4)
        assert row["clipped"] == 1


def test_moments_and_their_angle_to_the_gradient():
    """Adam's third step; its gradient from two momenta."""
    models = []
    for steps in (2, 3):
        model, optimizer = network(), keras.optimizers.Adam(1e-2)
        monitor = monitored(optimizer, steps, model, moments=True)
        models.append(optimizer)
    before, after = (numpy_values(optimizer.variables[2:]) for optimizer in models)
    names = [v.name for v in optimizer.variables[2:]]
    records = [row for row in monitor.records if row["step"] == 3]
    assert len(records) == 4 and len(names) == 8
    angles = []
    for row in records:
        label = row["group"].replace("/", "_")
        momentum, velocity = (
            names.index(f"{label}_{kind}") for kind in ("momentum", "velocity")
        )
        m, v = after[momentum].ravel(), after[velocity].ravel()
        g = (m - 0.9 * before[momentum].ravel()) / 0.1
        assert row["gradient_l2"] == pytest.approx(norm(g), rel=1e-3)
        for kind, value in (("momentum", m), ("velocity", v)):
            assert row[f"{kind}.l2"] == pytest.approx(norm(value), rel=1e-5)
            angle = np.arccos(np.dot(g, value) / norm(g) / norm(value))
            assert row[f"{kind}.angle"] == pytest.approx(angle, abs=2e-3)
            angles.append(angle)
    assert len(set(np.round(angles, 2))) > 4
    assert not any("average" in name for row in records for name in row)


def test_moments_of_a_group():
    """As of one long vector."""
    each = monitored(keras.optimizers.Adam(1e-2), 2, moments=True)
    (row,) = monitored(
        keras.optimizers.Adam(1e-2), 2, moments=True, group_by="model"
    ).records[-1:]
    parts = [r for r in each.records if r["step"] == 2]
    assert row["momentum.l2"] == pytest.approx(norm([r["momentum.l2"] for r in parts]))
    inner = sum(
        r["momentum.l2"] * r["gradient_l2"] * np.cos(r["momentum.angle"]) for r in parts
    )
    angle = np.arccos(inner / row["momentum.l2"] / row["gradient_l2"])
    assert row["momentum.angle"] == pytest.approx(angle, abs=1e-4)


def test_momentum_of_sgd_is_a_step():
    monitor = monitored(keras.optimizers.SGD(0.1, momentum=0.9), moments=True)
    for row in monitor.records:
        assert row["momentum.l2"] == pytest.approx(0.1 * row["gradient_l2"], rel=1e-4)
        assert row["momentum.angle"] == pytest.approx(np.pi, abs=2e-3)
    assert "momentum.l2" not in monitored(keras.optimizers.SGD(), moments=True).records


def test_slots_of_variables_with_one_name():
    """And of one whose name begins as another's."""
    variables = [
        keras.Variable(np.zeros(shape), name=name)
        for name, shape in [("a", 2), ("a", 2), ("a_momentum", 2), ("a", 3)]
    ]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(variables)
    found = Measured(Details(moments=True), optimizer, variables, []).slots
    slots = [v for v in optimizer.variables if v.name.endswith("_momentum")]
    assert [list(of) for of in found] == [["momentum"]] * 4
    assert all(of["momentum"] is slot for of, slot in zip(found, slots))


def linear():
    """A layer of zeros: after a step of SGD it is minus the gradient, exactly."""
    layers = keras.layers
    dense = layers.Dense(3, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), dense])


def counted(values):
    values = np.asarray(values, "float32").ravel()
    low, high = values.min(), values.max()
    index = np.floor((values - low) / np.float32(high - low) * np.float32(BINS))
    counts = np.bincount(np.clip(index.astype(int), 0, BINS - 1), minlength=BINS)
    return low, high, counts


def check_histogram(found, values, moved=2):
    low, high, counts = counted(values)
    assert found["edges"][[0, -1]] == pytest.approx([low, high], rel=1e-5)
    assert len(found["edges"]) == BINS + 1
    assert np.diff(found["edges"]) == pytest.approx((high - low) / BINS, rel=1e-4)
    assert found["counts"].sum() == counts.sum() == np.size(values)
    apart = np.abs(np.cumsum(found["counts"]) - np.cumsum(counts))
    assert apart.max() <= moved  # at the edge of a bin


def test_histograms_of_gradient_and_update():
    model = linear()
    monitor = monitored(
        keras.optimizers.SGD(1.0), model=model, histograms=["update", "gradient"]
    )
    found = {(h["variable"], h["histogram"]): h for h in monitor.histograms}
    assert len(found) == len(monitor.histograms) == 4
    for v in model.trainable_variables:
        after = numpy_values([v])[0]
        check_histogram(found[v.path, "update"], after)
        check_histogram(found[v.path, "gradient"], -after)
        assert np.count_nonzero(found[v.path, "update"]["counts"]) > 1
    assert "edges" not in monitor.records[0]


def test_histograms_of_coefficients():
    """diffGrad's first: sigmoid(|g|)."""
    (expected,) = gradients(linear())[:1]
    optimizer = keras_gradopt.DiffGrad()
    monitor = monitored(optimizer, model=linear(), histograms=["coefficient"])
    (found, _) = monitor.histograms
    assert found["histogram"] == "DifferenceFriction.coefficient"
    check_histogram(found, 1 / (1 + np.exp(-np.abs(expected))))


def test_histograms_leave_out_what_is_not_finite():
    measured = Measured(Details(("gradient", "update")), None, [None], [])
    gradient = np.array([1, np.nan, 3, np.inf, -np.inf, 3], "float32")
    vectors = measured.measure(
        ops.convert_to_tensor(gradient),
        ops.convert_to_tensor(np.full(6, np.nan, "float32")),
        {}, None, {}, 1e-6,
    )  # fmt: skip
    values = np.concatenate([ops.convert_to_numpy(v) for v in vectors])
    ((_, title, edges, counts),) = measured.histograms(values[None])
    assert title == "gradient" and list(edges[[0, -1]]) == [1, 3]
    assert counts[0] == 1 and counts[-1] == 2 and counts.sum() == 3
    one = np.full(4, 5.0, "float32")
    vectors = measured.measure(*[ops.convert_to_tensor(one)] * 2, {}, None, {}, 1e-6)
    values = np.concatenate([ops.convert_to_numpy(v) for v in vectors])
    for _, _, edges, counts in measured.histograms(values[None]):
        assert set(edges) == {5.0} and counts.sum() == 4


class Subclassed(keras.Model):
    """A model of one layer."""

    def __init__(self):
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

    def call(self, x):
        """Its logits."""
        return self.dense(self.flat(x))


def functional():
    x = keras.Input((6, 6, 2))
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("new_model", [Subclassed, functional, linear])
@pytest.mark.parametrize(
    "new_optimizer",
    [
        lambda: keras.optimizers.Adam(clipnorm=0.1),
        lambda: keras_gradopt.Transformed(
            keras.optimizers.Lion(clipnorm=0.1),
            [keras_gradopt.transforms.AngularFriction()],
        ),
        lambda: keras.optimizers.LossScaleOptimizer(
            keras_gradopt.AdamNorm(clipnorm=0.1)
        ),
    ],
    ids=["Adam", "Transformed", "scaled"],
)
def test_everything_of_any_model(new_model, new_optimizer):
    """And training is what it is without."""
    models, seen = [], []
    for callbacks in ([GradientMonitor(1, on_record=seen.append, **EVERYTHING)], []):
        keras.utils.set_random_seed(2)
        model, _ = trained(new_optimizer(), callbacks, model=new_model())
        models.append(numpy_values(model.trainable_variables))
    for a, b in zip(*models):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    rows = [row for row in seen if "counts" not in row]
    histograms = {row["histogram"] for row in seen if "counts" in row}
    assert {"gradient", "update"} < histograms or "Adam" in str(new_optimizer())
    for row in rows:
        assert row["clipped"] in (0, 0.5, 1)
        assert row["unclipped_l2"] >= row["gradient_l2"] * (1 - 1e-5)
        assert row["momentum.l2"] > 0 and 0 <= row["momentum.angle"] <= np.pi


def test_nothing_is_measured_that_was_not_asked_for():
    """The default is as it was: in numbers, width and Keras' methods."""
    seen = []

    class Watching(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append("_clip_gradients" in vars(self))
            super().update_step(gradient, variable, learning_rate)

    monitor = monitored(Watching(0.1, momentum=0.9))
    assert seen and not any(seen)
    assert list(monitor.records[0]) == [
        "step", "group", "gradient_l1", "gradient_l2", "gradient_max", "update_l2",
        "parameter_l2", "cosine", "effective_learning_rate", "effect_angle",
        "effect_scale",
    ]  # fmt: skip
    assert monitor.histograms == []
    asked = monitored(Watching(0.1), clipping=True, moments=True)
    assert any(seen) and "_clip_gradients" not in vars(asked.model.optimizer)


def test_each_record_goes_to_the_function():
    seen = []
    monitor = monitored(
        keras.optimizers.Adam(), 2, on_record=seen.append, histograms=["update"]
    )
    assert [row for row in seen if "counts" not in row] == monitor.records
    assert [row["step"] for row in seen] == [1] * 8 + [2] * 8
    assert sum("counts" in row for row in seen) == len(monitor.histograms) == 8
    seen[0]["step"] = "changed"
    assert monitor.records[0]["step"] == 1


def test_what_the_function_raises_ends_the_training():
    def full(record):
        raise OSError("no space")

    model = network()
    with pytest.raises(OSError, match="no space"):
        monitored(keras.optimizers.SGD(0.1), model=model, on_record=full)
    assert "update_step" not in vars(model.optimizer)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_tensorboard_reads_what_was_recorded(tmp_path, compiled, monkeypatch):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    if compiled:
        monkeypatch.delenv("KERAS_GRADOPT_JIT_COMPILE")
    monitor = monitored(
        keras.optimizers.Adam(), 2, log_dir=tmp_path, histograms=["gradient"]
    )
    events = reading.EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    for row in monitor.records:
        for name in ("gradient_l2", "cosine"):
            (found,) = (
                event.tensor_proto.float_val[0]
                for event in events.Tensors(f"{row['group']}/{name}")
                if event.step == row["step"]
            )
            assert found == pytest.approx(row[name], rel=1e-6)
    for row in monitor.histograms:
        (found,) = (
            np.frombuffer(event.tensor_proto.tensor_content).reshape(BINS, 3)
            for event in events.Tensors(f"{row['variable']}/gradient")
            if event.step == row["step"]
        )
        assert list(found[:, 2]) == list(row["counts"])
        assert list(found[:, 0]) == list(row["edges"][:-1])
        assert list(found[:, 1]) == list(row["edges"][1:])


def test_log_dir_without_tensorboard_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer", None)
    with pytest.raises(ImportError, match=r'`log_dir` .* "keras-gradopt\[tensorb'):
        GradientMonitor(log_dir=tmp_path)


def test_details_in_a_csv(tmp_path):
    """With columns of an earlier run that this one has not."""
    path = tmp_path / "records.csv"
    path.write_text("step,group,velocity.l2,note\n0,old,3.5,kept\n1,new,4,lost\n")
    monitor = monitored(
        keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1), 2,
        csv_path=path, moments=True, clipping=True,
    )  # fmt: skip
    with open(path) as file:
        first, *rows = csv.DictReader(file)
    assert first["group"] == "old" and first["note"] == "kept"
    assert len(rows) == len(monitor.records) == 8
    for row, record in zip(rows, monitor.records):
        assert {name: str(value) for name, value in record.items()} == {
            name: value for name, value in row.items() if value
        }
        assert {"unclipped_l2", "clipped", "momentum.l2", "momentum.angle"} < {*record}


@pytest.mark.parametrize(
    ("processes", "index", "files", "calls"),
    [
        (None, 1, ["records.csv", "tb/"], True),
        ("each", 0, ["records-0.csv", "tb/process-0/"], True),
        ("each", 1, ["records-1.csv", "tb/process-1/"], True),
        ("first", 0, ["records.csv", "tb/"], True),
        ("first", 1, [], False),
    ],
)
def test_several_processes(processes, index, files, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "process_index", lambda: index)
    seen = []
    monitor = monitored(
        keras.optimizers.SGD(0.1), csv_path=tmp_path / "records.csv",
        log_dir=tmp_path / "tb", on_record=seen.append, processes=processes,
    )  # fmt: skip
    found = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    folders = [str(p.parent) + "/" if "events" in p.name else str(p) for p in found]
    assert sorted(folders) == files
    assert bool(seen) == calls and len(monitor.records) == 4


def test_the_number_of_a_process(monkeypatch):
    assert sinks.process_index() == 0
    if BACKEND == "jax":
        monkeypatch.setattr("jax.process_index", lambda: 3)
    elif BACKEND == "torch":
        monkeypatch.setenv("RANK", "3")
    else:
        cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1", "d:1"]}
        for task, number in (("chief", 0), ("worker", 2)):
            config = {"cluster": cluster, "task": {"type": task, "index": number}}
            monkeypatch.setenv("TF_CONFIG", json.dumps(config))
            expected = 0 if task == "chief" else 3
            assert sinks.process_index() == expected
        del cluster["chief"]
        config["task"]["index"] = 3
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert sinks.process_index() == 3


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_clipping_of_replicas_is_refused():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = linear()
        model.compile(keras.optimizers.SGD(0.1), loss)
    with pytest.raises(ValueError, match=r"`clipping` must be False .*2 replicas.*"):
        model.fit(*images(16), verbose=0, callbacks=[GradientMonitor(clipping=True)])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        (
            {"on_record": "print"},
            r"`on_record` must be a function .* on_record='print'",
        ),
        ({"histograms": "gradient"}, r"`histograms` must be True, False or a list of"),
        ({"histograms": ["weights"]}, r"'coefficient'. Received: .*\['weights'\]"),
        ({"histograms": 1}, "`histograms` must be True"),
        ({"moments": "yes"}, "`moments` must be True or False. Received: .*'yes'"),
        ({"clipping": None}, "`clipping` must be True or False"),
        ({"processes": 0}, "`processes` must be one of 'each', 'first'"),
    ],
)
def test_wrong_arguments(keywords, words):
    with pytest.raises(ValueError, match=words):
        GradientMonitor(**keywords)
