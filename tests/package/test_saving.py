"""Nothing is lost: saved, reloaded in a new process, the next epoch is the same."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from table import ALL
from trajectories import BACKEND

import keras_gradopt as kg
from keras_gradopt import transforms as kt
from keras_gradopt.optimizers.state import Layout

pytestmark = pytest.mark.oldest

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


@pytest.mark.slow_on_jax
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
        saved = set(file["optimizer/vars"])
        assert saved == {"layout", *map(str, range(len(model.optimizer.variables)))}


def built(make, *shapes, names=None):
    """An optimizer, built on variables of these shapes; and the variables."""
    names = names or [f"kernel_{i}" for i in range(len(shapes))]
    variables = []
    for shape, path in zip(shapes, names):
        scope, _, name = path.rpartition("/")
        with keras.name_scope(scope) if scope else contextlib.nullcontext():
            variables.append(keras.Variable(np.ones(shape, "float32"), name=name))
    optimizer = make()
    optimizer.build(variables)
    return optimizer, variables


def stepped(make, *shapes, names=None, steps=2):
    """The same after some steps."""
    optimizer, variables = built(make, *shapes, names=names)
    random = np.random.default_rng(0)
    for _ in range(steps):
        grads = [random.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
    return optimizer


def saved_state(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


def values(optimizer):
    return [keras.ops.convert_to_numpy(v).copy() for v in optimizer.variables]


def assert_refused(optimizer, store, message):
    """Loading raises, and nothing is assigned."""
    before = values(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_own_variables(store)
    for old, new in zip(before, values(optimizer)):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        (kg.NosAdam, "AdamNorm"),
        (kg.AdamCore, "RAdam"),  # with slots of the same number and shapes
        (kg.AngularGrad, "Transformed Lion"),
        (lambda: kg.Transformed(keras.optimizers.Adam(), []), "Transformed Lion"),
    ],
)
def test_state_of_another_class_is_refused(saved, name):
    store = saved_state(stepped(saved, (3, 2)))
    optimizer = stepped(ALL[name], (3, 2), steps=1)
    assert_refused(optimizer, store, "(?s)saved state is of .*compile=False")


def test_every_other_class_is_refused():
    """Whatever the shapes: what a number means is compared, not its place."""
    stores = {name: saved_state(built(make, (2,))[0]) for name, make in ALL.items()}
    for name, make in ALL.items():
        optimizer, _ = built(make, (2,))
        for other, store in stores.items():
            if other == name:
                optimizer.load_own_variables(store)
            else:
                with pytest.raises(ValueError, match="saved state is of"):
                    optimizer.load_own_variables(store)


def test_state_of_keras_optimizers_is_refused():
    store = saved_state(stepped(keras.optimizers.Adam, (3, 2)))
    assert_refused(stepped(kg.AdamCore, (3, 2)), store, "does not say whose it is")


def test_state_of_other_shapes_is_refused():
    store = saved_state(stepped(kg.AdaL, (3, 2), names=["kernel"]))
    optimizer = stepped(kg.AdaL, (2, 3), names=["kernel"])
    message = r"momentum of kernel: here \(2, 3\), saved \(3, 2\)"
    assert_refused(optimizer, store, message)


def test_state_without_a_common_variable_is_refused():
    store = saved_state(stepped(kg.AdaL, (3, 2), (4,), names=["a", "b"]))
    optimizer = stepped(kg.AdaL, (3, 2), names=["c"])
    assert_refused(optimizer, store, "no variable in common")


@pytest.mark.parametrize("damage", ["{", "[]", '{"optimizer": 1}', "\xff", "[" * 9999])
def test_damaged_layout_is_refused(damage):
    store = saved_state(stepped(kg.AdaL, (3, 2)))
    store["layout"] = np.frombuffer(damage.encode("latin1"), "uint8")
    assert_refused(stepped(kg.AdaL, (3, 2)), store, "damaged")


@pytest.mark.parametrize("name", ALL)
def test_what_both_have_is_restored_by_name(name):
    """Of three variables the first is frozen now; a fourth is new."""
    shapes, names = [(2, 3), (4,), (4,)], ["model/a", "model/b", "model/c"]
    saved = stepped(ALL[name], *shapes, names=names)
    optimizer, _ = built(
        ALL[name], (4,), (4,), (2, 3), names=["b", "model/c", "model/d"]
    )
    initial = values(optimizer)
    with pytest.warns(UserWarning, match="restored in part") as warned:
        optimizer.load_own_variables(saved_state(saved))
    (said,) = [str(w.message) for w in warned if "in part" in str(w.message)]
    assert "not in the file, so as it was: that of model/d" in said
    assert "in the file, but not here: that of model/a" in said
    assert "model/b" not in said
    theirs = dict(zip(map(str, saved.state_layout().names()), values(saved)))
    ours = dict(zip(optimizer.state_layout().names(), values(optimizer)))
    before = dict(zip(ours, initial))
    assert {"iteration", "learning_rate"} < set(ours)
    for key, value in ours.items():
        expected = before[key]
        if "model/d" not in key:
            expected = theirs[key.replace(" of b", " of model/b")]
        np.testing.assert_array_equal(value, expected, err_msg=key)


def test_same_model_built_again_has_other_names():
    """Then the layout as a whole must be the same, and position counts."""
    shapes = [(2, 3), (3,), (3, 3), (3,)]
    first = ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    again = ["dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias"]
    saved = stepped(kg.AngularGrad, *shapes, names=first)
    optimizer, _ = built(kg.AngularGrad, *shapes, names=again)
    optimizer.load_own_variables(saved_state(saved))
    for ours, theirs in zip(values(optimizer), values(saved)):
        np.testing.assert_array_equal(ours, theirs)


def test_one_transform_twice_and_two_variables_of_one_name():
    def make():
        return kg.Transformed(kg.DiffGrad(), [kt.DifferenceFriction()])

    saved = stepped(make, (2,), (2,), names=["w", "w"])
    optimizer, _ = built(make, (2,), (2,), names=["w", "w"])
    assert len(set(optimizer.state_layout().slots)) == len(optimizer.variables)
    optimizer.load_own_variables(saved_state(saved))
    for ours, theirs in zip(values(optimizer), values(saved)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["RAdam", "AngularGrad", "Transformed Adam"])
def test_state_from_before_training_changes_nothing_in_a_trained_optimizer(name):
    """Neither the step's number alone, with the old slots, nor anything else."""
    store, optimizer = saved_state(ALL[name]()), stepped(ALL[name], (3, 2))
    before = values(optimizer)
    with pytest.warns(UserWarning, match="before its first step"):
        optimizer.load_own_variables(store)
    for old, new in zip(before, values(optimizer)):
        np.testing.assert_array_equal(old, new)


def test_state_into_an_optimizer_that_is_not_built():
    """Not its step and learning rate alone: with new moments they would be neither."""
    saved = stepped(kg.AngularGrad, (3, 2))
    saved.learning_rate = 0.5
    optimizer = kg.AngularGrad(0.01)
    with pytest.warns(UserWarning, match=r"not built.*optimizer\.build"):
        optimizer.load_own_variables(saved_state(saved))
    assert int(optimizer.iterations) == 0
    assert float(optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", ["Nadam", "Adafactor"])
def test_slots_of_keras_that_do_not_say_whose_they_are(kind):
    """Nadam's product has another name each time, Adafactor's slots have one name."""

    def make():
        inner = getattr(keras.optimizers, kind)(0.1)
        return kg.Transformed(inner, [kt.DifferenceFriction()])

    shapes = [(2, 3), (4,), (4, 5)]
    names = ["a/kernel", "a/bias", "b/kernel"]
    saved = stepped(make, *shapes, names=names, steps=30)
    keras.Variable(0.0), keras.Variable(0.0)  # Keras counts on
    optimizer, _ = built(make, *shapes, names=names)
    optimizer.load_own_variables(saved_state(saved))
    for ours, theirs in zip(values(optimizer), values(saved), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    layout = optimizer.state_layout()
    old = layout.to_json().replace('"variable"', '"variable_7"')  # as it was written
    assert type(layout).from_json(old).slots == layout.slots
    assert len(set(layout.slots)) == len(layout.slots)
    # on other variables: what is nobody's is not taken for another's
    store = saved_state(saved)
    other, _ = built(make, *shapes[1:], names=names[1:])
    before = dict(zip(other.state_layout().names(), values(other)))
    with pytest.warns(UserWarning, match="restored in part"):
        other.load_own_variables(store)
    after = dict(zip(other.state_layout().names(), values(other)))
    if kind == "Adafactor":
        for name in ("kernel", "bias"):
            np.testing.assert_array_equal(after[name], before[name])
    moved = "difference_friction_previous_gradient of b/kernel"
    assert np.any(after[moved] != before[moved])


def test_slots_that_say_nothing_are_not_taken_from_a_smaller_model():
    """The second `r` here is where the first `c` was saved; both are called `r`."""

    def layout(paths, slots):
        names = [(-1, "iteration"), *slots]
        text = json.dumps(
            {
                "optimizer": "any", "paths": paths, "trainable": [True] * len(paths),
                "slots": names, "shapes": [(2,)] * len(names),
            }
        )  # fmt: skip
        return Layout.from_json(text)

    small = layout(["a"], [(-1, "r")] * 2)
    large = layout(["a", "b"], [(-1, "r")] * 4)
    assert small.counterparts(small) == {0: 0, 1: 1, 2: 2}
    assert large.counterparts(small) == small.counterparts(large) == {0: 0}


def test_optimizer_without_slots():
    """Plain SGD has its step and learning rate only, which are not nothing."""
    optimizer = stepped(kg.SGDCore, (3, 2), steps=1)
    optimizer.load_own_variables(saved_state(stepped(kg.SGDCore, (3, 2), steps=3)))
    assert int(optimizer.iterations) == 3


def test_file_without_state_of_an_optimizer():
    optimizer = stepped(kg.AngularGrad, (3, 2))
    with pytest.warns(UserWarning, match="no state of an optimizer"):
        optimizer.load_own_variables({})
    assert int(optimizer.iterations) == 2


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
@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize(
    ("saved", "name", "shapes", "message"),
    [
        (kg.AdamCore, "AngularGrad", [(3, 2), (2,)], "saved state is of .*AdamCore"),
        (kg.NosAdam, "AdamNorm", [(3, 2), (2,)], "saved state is of .*NosAdam"),
        (kg.RAdam, "RAdam", [(3, 2)], "kernel_1: only in the checkpoint"),
        (kg.RAdam, "RAdam", [(3, 2), (2,), (1,)], "kernel_2: not in the checkpoint"),
    ],
)
def test_tensorflow_checkpoint_of_another_optimizer_is_refused(
    saved, name, shapes, message, is_built, tmp_path
):
    """Before anything is assigned; or when the optimizer is built."""
    import tensorflow as tf

    def checkpoint(optimizer):
        return tf.train.Checkpoint(optimizer=optimizer)

    path = checkpoint(stepped(saved, (3, 2), (2,))).write(str(tmp_path / "ckpt"))
    if is_built:
        optimizer = stepped(ALL[name], *shapes, steps=1)
        before = values(optimizer)
        with pytest.raises(ValueError, match=message):
            checkpoint(optimizer).read(path)
        for old, new in zip(before, values(optimizer)):
            np.testing.assert_array_equal(old, new)
        return
    with pytest.raises(ValueError, match=message):
        optimizer = ALL[name]()
        checkpoint(optimizer).read(path)
        variables = [
            keras.Variable(np.ones(shape, "float32"), name=f"kernel_{i}")
            for i, shape in enumerate(shapes)
        ]
        optimizer.build(variables)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow format")
def test_tensorflow_checkpoint_from_before_training_is_refused(tmp_path):
    import tensorflow as tf

    path = tf.train.Checkpoint(optimizer=kg.RAdam()).write(str(tmp_path / "ckpt"))
    optimizer = stepped(kg.RAdam, (3, 2))
    with pytest.raises(ValueError, match="before its first step"):
        tf.train.Checkpoint(optimizer=optimizer).read(path)
    assert int(optimizer.iterations) == 2


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a TensorFlow format")
def test_saved_model_says_nothing_that_adam_does_not(tmp_path):
    """In a new process, because TensorFlow logs it."""
    program = """
import sys, numpy as np, keras, tensorflow as tf, keras_gradopt
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile(keras_gradopt.AngularGrad(), "mse")
model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
tf.saved_model.save(model, sys.argv[1])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "saved"],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert "keras_gradopt" not in done.stderr


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
