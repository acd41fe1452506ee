"""Callbacks, schedules, names, copies, exports, loops over models."""

import copy
import gc
import pickle
import sys
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from scenarios import (
    CHOSEN,
    CONTROL,
    KINDS,
    MAKE,
    assert_same,
    assert_states_equal,
    compiled,
    custom_step,
    data,
    every_arm,
    every_kind,
    fit,
    on,
    reload,
    state,
    tensorflow_only,
    trained,
    weights_of,
)
from table import ALL, OPTIMIZERS
from trajectories import BACKEND, numpy_values

import keras_gradopt as kg

pytestmark = pytest.mark.slow

LOSS = "sparse_categorical_crossentropy"


@on("tensorflow", "torch", why="on JAX Keras cannot `fit` twice then (keras-notes)")
@every_arm
def test_average_of_the_weights_is_kept(name, tmp_path):
    """`use_ema` with `SwapEMAWeights`; saved and loaded, the averages go on."""
    model = compiled(KINDS["functional"](), name, use_ema=True, ema_momentum=0.5)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fit(model, 2, callbacks=[swap])
    again, found = reload(model, tmp_path)
    assert not found
    for one in (model, again):
        fit(one)
    assert_states_equal(state(again), state(model))


@every_arm
def test_schedule_goes_on_where_it_was(name, tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 8)
    model = trained("functional", name, learning_rate=schedule)
    again, _ = reload(model, tmp_path)
    np.testing.assert_allclose(
        float(again.optimizer.learning_rate), 0.005 * (1 + np.cos(np.pi / 4)), rtol=1e-5
    )
    for one in (model, again):
        fit(one)
    assert_states_equal(state(again), state(model))


@every_arm
def test_learning_rate_of_callbacks(name):
    """Both callbacks set it, and the next epoch's steps have that length."""
    model = compiled(KINDS["functional"](), name, learning_rate=0.5)
    seen = []
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 * 0.5**epoch),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"])
        ),
    ]
    fit(model, 3, callbacks=callbacks)
    np.testing.assert_allclose(seen, [0.1, 0.05, 0.025], rtol=1e-5)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.1, patience=1, min_delta=1e9
    )
    fit(model, 3, callbacks=[plateau])
    assert float(model.optimizer.learning_rate) < 0.005
    if "SGD" in name:
        return  # its momentum goes on at rate 0
    model.optimizer.learning_rate = 0.0
    before = weights_of(model)
    fit(model)
    assert_same(weights_of(model), before)


@every_arm
def test_learning_rate_between_two_fits(name):
    """Changed on the optimizer: as if the second `fit` had had it from the start."""
    model, other = KINDS["functional"](), KINDS["functional"]()
    other.set_weights(model.get_weights())
    fit(compiled(model, name, learning_rate=0.01))
    model.optimizer.learning_rate = 0.002
    fit(model)
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.01, 0.002])
    fit(compiled(other, name, learning_rate=rates), 2)
    for ours, theirs in zip(weights_of(model).values(), weights_of(other).values()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@every_kind
def test_best_checkpoint_goes_on(name, kind, tmp_path):
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)
    model = compiled(KINDS[kind](), name)
    fit(model, 2, callbacks=[checkpoint])
    again = keras.saving.load_model(path)
    assert_states_equal(state(again), state(model))
    for one in (model, again):
        fit(one)
    assert_states_equal(state(again), state(model))


@every_kind
def test_backup_after_an_interruption(name, kind, tmp_path):
    """The interrupted run, fitted again, ends as one that was not interrupted."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    model, straight = KINDS[kind](), KINDS[kind]()
    straight.set_weights(model.get_weights())
    fit(compiled(straight, name), 3)
    start = model.get_weights()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(model, name), 3, callbacks=[backup, Interrupt()])
    again = KINDS[kind]()
    again.set_weights(start)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    losses = fit(compiled(again, name), 3, callbacks=[backup])
    assert len(losses) == 1
    assert_states_equal(state(again), state(straight))


@every_arm
def test_early_stopping_restores_the_best_weights(name):
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, restore_best_weights=True
    )
    model, other = KINDS["functional"](), KINDS["functional"]()
    other.set_weights(model.get_weights())
    losses = fit(compiled(model, name), 6, callbacks=[stop])
    assert len(losses) < 6
    fit(compiled(other, name), int(np.argmax(losses)) + 1)
    assert_same(weights_of(model), weights_of(other))
    assert np.isfinite(fit(model)).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_by_registered_name(name):
    registered = f"keras_gradopt>{name}"
    assert type(keras.optimizers.get(registered)) is getattr(kg, name)
    config = keras.optimizers.serialize(MAKE[name](0.125))
    assert config["registered_name"] == registered
    for again in (
        keras.optimizers.deserialize(config),
        keras.optimizers.get(config),
        keras.optimizers.get({"class_name": registered, "config": config["config"]}),
    ):
        assert type(again) is getattr(kg, name)
        assert float(again.learning_rate) == 0.125


def test_transformed_by_name_alone_says_what_is_missing():
    """A sentence that names the argument, not `KeyError: 'transforms'`."""
    model = KINDS["functional"]()
    for use in (keras.optimizers.get, lambda name: model.compile(optimizer=name)):
        with pytest.raises((ValueError, TypeError), match=r"inner.optimizer") as error:
            use("keras_gradopt>Transformed")
        assert not isinstance(error.value, KeyError)


@every_kind
def test_pickle_and_deepcopy_of_a_model(name, kind):
    """What a copy of Adam's model keeps, a copy of ours keeps too."""
    model = trained(kind, name)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_states_equal(state(again), state(model))
        assert type(again.optimizer) is type(model.optimizer)
        fit(again)
    fit(model)
    assert_states_equal(state(again), state(model))


@tensorflow_only
@every_kind
def test_exported_model_predicts_alike(name, kind, tmp_path):
    import tensorflow as tf

    model = trained(kind, name)
    x, _ = data()
    expected = model.predict(x, verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))  # else it is let go
    served = exported.serve(x)
    np.testing.assert_allclose(ops.convert_to_numpy(served), expected, rtol=1e-5)


@tensorflow_only
@every_arm
def test_saved_model_without_a_word(name, tmp_path, capfd, caplog):
    """`tf.saved_model.save` says nothing of ours that it does not say of Adam."""
    import tensorflow as tf

    model = trained("functional", name)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    printed = "".join(capfd.readouterr()) + caplog.text
    assert "Layout" not in printed and "keras_gradopt" not in printed, printed


@every_arm
def test_many_models_in_a_loop_are_let_go(name):
    """As a tuner makes them: neither model nor optimizer outlives its trial."""
    alive = []
    for trial in range(4):
        keras.utils.clear_session()
        model = trained("functional", name, learning_rate=10.0 ** -(trial + 2))
        alive += [weakref.ref(model), weakref.ref(model.optimizer)]
        del model
    keras.utils.clear_session()
    gc.collect()
    left = [reference() for reference in alive if reference() is not None]
    assert not left, [(type(o).__name__, sys.getrefcount(o)) for o in left]


@every_arm
def test_trials_repeat(name):
    """The same seed, twice, with another trial between: the same numbers."""
    finals = []
    for rate in (0.01, 0.02, 0.01):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        finals.append(state(trained("functional", name, learning_rate=rate)))
    assert_states_equal(finals[0], finals[2])
    assert any((a != b).any() for a, b in zip(finals[0], finals[1]))


@every_arm
def test_two_models_share_nothing(name):
    """Trained in turns, each ends as if it were alone."""
    model, other, alone = (KINDS["functional"]() for _ in range(3))
    alone.set_weights(model.get_weights())
    for one in (model, other, alone):
        compiled(one, name)
    for one in (model, other, model, other):
        fit(one)
    fit(alone, 2)
    assert_states_equal(state(model), state(alone))


@on("tensorflow", "torch", why="on JAX Keras' `stateless_apply` does not ask")
@every_arm
def test_one_optimizer_for_a_second_model(name):
    """The error that Keras gives, as `Unknown variable`."""
    model, other = KINDS["functional"](), KINDS["functional"]()
    optimizer = MAKE[name]()
    model.compile(optimizer, loss=LOSS)
    fit(model)
    other.compile(optimizer, loss=LOSS)
    before = state(model)
    with pytest.raises((ValueError, KeyError)) as error:
        fit(other)
    assert "variable" in str(error.value), error.value
    assert_states_equal(state(model), before)


@every_arm
def test_two_fits_are_one_of_two_epochs(name):
    model, other = KINDS["functional"](), KINDS["functional"]()
    other.set_weights(model.get_weights())
    compiled(model, name), compiled(other, name)
    fit(model)
    fit(model)
    fit(other, 2)
    assert_states_equal(state(model), state(other))


@every_arm
def test_compiled_again_starts_anew(name):
    """A new optimizer is a new start: nothing of the old one is left in it."""
    model, other = trained("functional", name), KINDS["functional"]()
    other.set_weights(model.get_weights())
    for one in (model, other):
        fit(compiled(one, name))
    assert_states_equal(state(model), state(other))


@every_arm
def test_one_optimizer_compiled_twice_goes_on(name):
    """`compile` with the same optimizer object, as after changing the metrics."""
    model, again = (trained("functional", name) for _ in range(2))
    again.set_weights(model.get_weights())
    values = numpy_values(model.optimizer.variables)  # JAX gives buffers away
    for variable, value in zip(again.optimizer.variables, values):
        variable.assign(value)
    model.compile(model.optimizer, loss=LOSS, metrics=["accuracy"])
    for one in (model, again):
        one.fit(*data(), batch_size=16, shuffle=False, verbose=0)
    assert_states_equal(
        numpy_values(model.trainable_variables), numpy_values(again.trainable_variables)
    )


@on("jax", "torch", why="TensorFlow's is in test_built_by_the_first_step_of_a_graph")
@pytest.mark.parametrize("name", [CONTROL, *ALL])
def test_own_loop_of_every_optimizer(name):
    model = KINDS["functional"]()
    loss = keras.losses.SparseCategoricalCrossentropy()
    step = custom_step(model, MAKE[name](0.01), loss)
    losses = [float(step(*data())) for _ in range(5)]
    assert losses[-1] < losses[0], (BACKEND, losses)


@pytest.mark.parametrize("name", CHOSEN)
def test_jit_compiled_step_after_reload(name, tmp_path):
    """`compile(jit_compile=True)` is kept, where the backend has it."""
    if BACKEND == "torch":
        pytest.skip("Keras compiles whole models there with torch.compile only")
    model = KINDS["functional"]()
    model.compile(MAKE[name](), loss=LOSS, jit_compile=True)
    fit(model)
    again, _ = reload(model, tmp_path)
    for one in (model, again):
        fit(one)
    assert_states_equal(state(model), state(again))
