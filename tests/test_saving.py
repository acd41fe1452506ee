"""Nothing is lost: saved, reloaded in a new process, the next epoch is the same."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from running import BACKEND
from table import ALL

import keras_gradopt as kg
from keras_gradopt import transforms as kt

# All that the new process imports is keras_gradopt (and NumPy for the data).
CONTINUE = """
import sys
import keras_gradopt
import numpy as np
import keras
folder, *names = sys.argv[1:]
data = np.load(f"{folder}/data.npz")
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    model.fit(data["x"], data["y"], batch_size=16, shuffle=False, verbose=0)
    state = [*model.variables, *model.optimizer.variables]
    np.savez(f"{folder}/{name}.npz", *map(keras.ops.convert_to_numpy, state))
"""


def small_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def data():
    random = np.random.default_rng(0)
    return random.normal(size=(64, 8, 8, 1)).astype("float32"), np.arange(64) % 10


def fit(model):
    x, y = data()
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)


def state(model):
    values = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(value) for value in values]


def test_reloads_in_a_new_process_and_goes_on_bit_identically(tmp_path):
    """All optimizers in one new process, as starting one is what takes time."""
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    expected = {}
    for name, make in ALL.items():
        model = small_model()
        model.compile(make(), loss="sparse_categorical_crossentropy")
        fit(model)
        model.save(tmp_path / f"{name}.keras")
        fit(model)
        expected[name] = state(model)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", CONTINUE, tmp_path, *ALL], check=True, env=environment
    )
    for name in ALL:
        with np.load(tmp_path / f"{name}.npz") as arrays:
            reloaded = [arrays[key] for key in arrays.files]
        assert len(reloaded) == len(expected[name])
        for ours, theirs in zip(expected[name], reloaded):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("name", ALL)
def test_own_variables_round_trip(name):
    def steps(optimizer, weight, values):
        for value in values:
            optimizer.apply([keras.ops.full((3, 2), value)], [weight])
        return keras.ops.convert_to_numpy(weight)

    straight = keras.Variable(np.ones((3, 2), "float32"))
    expected = steps(ALL[name](), straight, [1.0, -2.0, 0.5, 0.25])

    weight, first = keras.Variable(np.ones((3, 2), "float32")), ALL[name]()
    steps(first, weight, [1.0, -2.0])
    store = {}
    first.save_own_variables(store)
    second = ALL[name]()
    second.build([weight])
    second.load_own_variables(store)
    np.testing.assert_array_equal(steps(second, weight, [0.5, 0.25]), expected)


def test_state_is_saved_once(tmp_path):
    """A Transformed optimizer's file is no larger than its inner optimizer's."""
    h5py = pytest.importorskip("h5py")
    model = small_model()
    model.compile(ALL["Transformed Lion"](), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5") as file:
        groups = []
        file["optimizer"].visititems(
            lambda name, item: (
                groups.append(name)
                if isinstance(item, h5py.Group) and name.endswith("vars")
                else None
            )
        )
        assert groups == ["vars"]
        assert len(file["optimizer/vars"]) == len(model.optimizer.variables)


@pytest.mark.parametrize("make", [kg.AngularGrad, ALL["Transformed Lion"]])
def test_state_of_another_optimizer_is_refused(make):
    """The message names the slots that differ, and nothing is assigned."""
    variables = [keras.Variable(np.ones((3, 2), "float32"), name="kernel")]
    saved, store = kg.AdamCore(), {}
    saved.build(variables)
    saved.save_own_variables(store)
    optimizer = make()
    optimizer.build(variables)
    before = [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
    with pytest.raises(
        ValueError,
        match=r"(?s)not of this optimizer.*_previous_\w+: here \(3, 2\), saved nothing",
    ):
        optimizer.load_own_variables(store)
    for old, variable in zip(before, optimizer.variables):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))


def test_state_of_other_shapes_is_refused():
    store = {}
    saved = kg.AdaL()
    saved.build([keras.Variable(np.ones((3, 2), "float32"))])
    saved.save_own_variables(store)
    optimizer = kg.AdaL()
    optimizer.build([keras.Variable(np.ones((2, 3), "float32"))])
    with pytest.raises(ValueError, match=r"here \(2, 3\), saved \(3, 2\)"):
        optimizer.load_own_variables(store)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow format")
@pytest.mark.parametrize("name", ALL)
def test_tensorflow_checkpoint_round_trip(name, tmp_path):
    import tensorflow as tf

    def trained(epochs):
        keras.utils.set_random_seed(0)
        model = small_model()
        model.compile(ALL[name](), loss="sparse_categorical_crossentropy")
        for _ in range(epochs):
            fit(model)
        return model

    def checkpoint(model):
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    path = checkpoint(trained(1)).write(str(tmp_path / "ckpt"))
    model = trained(0)
    model.optimizer.build(model.trainable_variables)
    checkpoint(model).read(path).assert_existing_objects_matched()
    fit(model)
    for ours, theirs in zip(state(model), state(trained(2))):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow format")
@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("saved", "name", "message"),
    [
        (kg.AdamCore, "AngularGrad", r"_previous_\w+: here \(.*\), saved nothing"),
        (kg.AngularGrad, "RAdam", r"saved number \d+ .*: nothing here"),
        (kg.AdamCore, "Transformed Lion", "is of AdamCore, this optimizer is Trans"),
    ],
)
def test_tensorflow_checkpoint_of_another_optimizer_is_refused(
    saved, name, message, built, tmp_path
):
    """At once, or when the optimizer is built."""
    import tensorflow as tf

    def checkpoint(optimizer):
        return tf.train.Checkpoint(optimizer=optimizer)

    variables = [keras.Variable(np.ones((3, 2), "float32"), name="kernel")]
    other, optimizer = saved(), ALL[name]()
    other.build(variables)
    path = checkpoint(other).write(str(tmp_path / "ckpt"))
    if built:
        optimizer.build(variables)
        with pytest.raises(ValueError, match=message):
            checkpoint(optimizer).read(path)
    else:
        checkpoint(optimizer).read(path)
        with pytest.raises(ValueError, match=message):
            optimizer.build(variables)


@pytest.mark.parametrize("name", ["AngularGrad", "AdamNorm", "Transformed Adam"])
def test_saved_before_training_loads(name, tmp_path):
    """Keras builds the optimizer at loading, not at `compile`."""
    model = small_model()
    model.compile(ALL[name](0.25), loss="mse")
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert float(again.optimizer.learning_rate) == 0.25
    assert int(again.optimizer.iterations) == 0


def test_transform_config_round_trip():
    for transform in (
        kt.Whiten("entries"),
        kt.CorrectNorm(0.5),
        kt.Activate("log", 1, 2),
    ):
        config = keras.saving.serialize_keras_object(transform)
        again = keras.saving.deserialize_keras_object(config)
        assert repr(again) == repr(transform)
        assert Path(config["registered_name"].replace(">", "/")).parent.name == (
            "keras_gradopt"
        )
