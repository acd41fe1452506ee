"""Flows of Keras' documentation in which what is trainable changes under a state.

What remains trainable goes on, bit by bit, as if nothing had been saved; what only
one side has is said in one warning, by name. The control, Keras' Adam, only has to
run: it starts again from nothing.
"""

import keras
import numpy as np
import pytest
from keras import layers
from scenarios import (
    CONTROL,
    KINDS,
    MAKE,
    SHAPE,
    WITH_WEIGHTS,
    assert_goes_on,
    assert_one_warning,
    assert_same,
    assert_states_equal,
    compiled,
    data,
    every_arm,
    every_kind,
    fit,
    layer,
    of,
    ours,
    reload,
    state,
    steps_on,
    trained,
    warnings_about_state,
    weights_of,
)
from trajectories import numpy_values

pytestmark = pytest.mark.slow


@every_kind
def test_saved_and_loaded_goes_on(name, kind, tmp_path):
    model = trained(kind, name)
    again, found = reload(model, tmp_path)
    assert not found
    assert_goes_on(name, again, model, of(*WITH_WEIGHTS))
    assert np.isfinite(fit(again)).all()


def assert_said(name, kind, found, *names):
    """A subclassed model makes its layers anew: trainable, and without LoRA.

    So its file has all that the loaded model needs, and there is nothing to say.
    """
    if kind == "subclassed":
        assert not found
    else:
        assert_one_warning(name, found, *names)


@every_kind
def test_frozen_after_training(name, kind, tmp_path):
    """Two layers of the middle, so that nothing is where it was in the list."""
    model = trained(kind, name)
    for frozen in ("b", "c"):
        layer(model, frozen).trainable = False
    again, found = reload(model, tmp_path)
    assert_said(name, kind, found, "b/kernel", "c/bias")
    assert_goes_on(name, again, model, of("a", "d", "head"))
    assert np.isfinite(fit(again)).all()


@every_arm
def test_frozen_as_a_whole_and_thawed(name, tmp_path):
    """Nothing is trainable in the file: it loads, and trains when compiled again."""
    model = trained("functional", name)
    model.trainable = False
    again, _ = reload(model, tmp_path)
    again.trainable = True
    losses = fit(compiled(again, name))
    assert np.isfinite(losses).all()


@every_kind
def test_thawed_and_saved_without_compiling_again(name, kind, tmp_path):
    model = KINDS[kind]()
    for frozen in ("a", "c"):
        layer(model, frozen).trainable = False
    fit(compiled(model, name))
    for thawed in ("a", "c"):
        layer(model, thawed).trainable = True
    again, found = reload(model, tmp_path)
    assert_one_warning(name, found, "a/kernel", "c/bias")
    assert_goes_on(name, again, model, of("b", "d", "head"))
    assert np.isfinite(fit(again)).all()


@pytest.mark.parametrize("kind", ["sequential", "functional"])
@every_arm
def test_quantized_after_training(name, kind, tmp_path):
    """Keras itself cannot load a subclassed model that was quantized."""
    model = trained(kind, name)
    model.quantize("int8")
    again, found = reload(model, tmp_path)
    assert_one_warning(name, found, "head/kernel")
    assert_goes_on(name, again, model, [*of("a", "b"), "c/bias", "d/bias", "head/bias"])
    assert np.isfinite(again.predict(data()[0], verbose=0)).all()


@every_kind
def test_lora_enabled_after_training(name, kind, tmp_path):
    model = trained(kind, name)
    layer(model, "c").enable_lora(2)
    again, found = reload(model, tmp_path)
    assert_said(name, kind, found, "c/kernel", "lora_kernel_a")
    assert_goes_on(name, again, model, [*of("a", "b", "d", "head"), "c/bias"])
    assert np.isfinite(fit(again)).all()


@every_arm
def test_lora_trained_then_saved(name, tmp_path):
    """Enabled before `compile`, as Keras' guides do: nothing is missing."""
    model = KINDS["functional"]()
    for part in model.layers:
        part.trainable = False
    layer(model, "c").trainable = True
    layer(model, "c").enable_lora(2)
    fit(compiled(model, name))
    again, found = reload(model, tmp_path)
    assert not found
    np.testing.assert_array_equal(
        *(numpy_values(m.optimizer.variables)[-1] for m in (again, model))
    )


def parts_of_a_gan():
    generator = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, activation="relu", name="g1"),
            layers.Dense(4, name="g2"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="relu", name="d1"),
            layers.Dense(4, activation="relu", name="d2"),
            layers.Dense(1, activation="sigmoid", name="d3"),
        ],
        name="discriminator",
    )
    return generator, discriminator


def trained_gan(name):
    generator, discriminator = parts_of_a_gan()
    discriminator.compile(MAKE[name](), loss="binary_crossentropy")
    random = np.random.default_rng(0)
    real, noise = random.normal(size=(16, 4)), random.normal(size=(16, 2))
    examples = np.concatenate([real, generator.predict(noise, verbose=0)])
    labels = np.repeat([[1.0], [0.0]], 16, axis=0)
    discriminator.train_on_batch(examples, labels)
    discriminator.trainable = False
    gan = keras.Sequential([keras.Input((2,)), generator, discriminator], name="gan")
    gan.compile(MAKE[name](), loss="binary_crossentropy")
    for _ in range(2):
        discriminator.trainable = True  # JAX reads it at every step
        discriminator.train_on_batch(examples, labels)
        discriminator.trainable = False
        gan.train_on_batch(noise, np.ones((16, 1)))
    return gan, discriminator


@every_arm
def test_gan_with_a_frozen_discriminator(name, tmp_path):
    """The combined model: its generator goes on as if it had not been saved."""
    gan, _ = trained_gan(name)
    again, _ = reload(gan, tmp_path)
    assert_goes_on(name, again, gan, of("g1", "g2"))
    again.train_on_batch(np.ones((4, 2)), np.ones((4, 1)))


@every_arm
def test_discriminator_saved_while_frozen(name, tmp_path):
    """Its file has a state, but nothing is trainable; thawed, it can train again."""
    _, discriminator = trained_gan(name)
    again, found = reload(discriminator, tmp_path)
    assert found or name == CONTROL
    again.trainable = True
    again.compile(MAKE[name](), loss="binary_crossentropy")
    again.train_on_batch(np.ones((4, 4)), np.ones((4, 1)))


@every_kind
def test_weights_of_the_first_stage_after_the_second(name, kind, tmp_path):
    """Transfer learning: the head alone, then all, then back to the first file."""
    path = tmp_path / "first.weights.h5"
    model = KINDS[kind]()
    for frozen in WITH_WEIGHTS[:-1]:
        layer(model, frozen).trainable = False
    fit(compiled(model, name))
    model.save_weights(path)
    values, head = numpy_values(model.weights), slots_of(model, "head")
    for frozen in WITH_WEIGHTS[:-1]:
        layer(model, frozen).trainable = True
    by_path = {w.path: v for w, v in zip(model.weights, values)}
    fit(compiled(model, name))
    with warnings_about_state() as found:
        model.load_weights(path)
    assert_one_warning(name, found, "a/kernel", "d/bias")
    assert_same(
        {w.path: v for w, v in zip(model.weights, numpy_values(model.weights))}, by_path
    )
    if name != CONTROL:
        assert_same(slots_of(model, "head"), head)
    assert np.isfinite(fit(model)).all()


def slots_of(model, name):
    """{name: value} of the slots of a layer's weights, whatever the model's name."""
    variables = [v for v in model.optimizer.variables if f"{name}_" in v.path]
    assert variables
    names = [v.path[v.path.index(f"{name}_") :] for v in variables]
    return dict(zip(names, numpy_values(variables)))


def unnamed(kind):
    """Layers named by Keras, by number: another number each time."""
    parts = [layers.Dense(4, activation="relu") for _ in range(3)] + [layers.Dense(3)]
    if kind == "sequential":
        return keras.Sequential([keras.Input((4,)), *parts])
    inputs = x = keras.Input((4,))
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def train_unnamed(model):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 4)), random.normal(size=(32, 3))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
@every_arm
def test_weights_into_the_same_network_built_anew(name, kind, tmp_path):
    """Other auto-numbered names, equal layouts: by position, bit by bit, in silence."""
    model, again = unnamed(kind), unnamed(kind)
    assert model.weights[0].path != again.weights[0].path
    for one in (model, again):
        one.compile(MAKE[name](), loss="mse")
    train_unnamed(model)
    model.save_weights(tmp_path / "w.weights.h5")
    again.optimizer.build(again.trainable_variables)
    with warnings_about_state() as found:
        again.load_weights(tmp_path / "w.weights.h5")
    assert not found
    train_unnamed(model)
    train_unnamed(again)
    assert_states_equal(state(again), state(model))


@every_arm
def test_weights_into_a_network_already_trained(name, tmp_path):
    """As above; the state it had is replaced as a whole."""
    model, again = unnamed("functional"), unnamed("functional")
    for one in (model, again):
        one.compile(MAKE[name](), loss="mse")
        train_unnamed(one)
    train_unnamed(again)
    model.save_weights(tmp_path / "w.weights.h5")
    with warnings_about_state() as found:
        again.load_weights(tmp_path / "w.weights.h5")
    assert not found
    train_unnamed(model)
    train_unnamed(again)
    assert_states_equal(state(again), state(model))


@every_kind
def test_weights_saved_before_training_into_a_trained_model(name, kind, tmp_path):
    """No step of RAdam ten times too long: the state stays wholly as it was."""
    model = compiled(KINDS[kind](), name)
    model.save_weights(tmp_path / "start.weights.h5")
    start = weights_of(model)
    fit(model)
    before = numpy_values(model.optimizer.variables)
    with warnings_about_state() as found:
        model.load_weights(tmp_path / "start.weights.h5")
    assert len(found) == 1, found
    assert_same(weights_of(model), start)
    assert_states_equal(numpy_values(model.optimizer.variables), before)


@every_arm
def test_weights_saved_before_training_into_an_untrained_model(name, tmp_path):
    model = compiled(KINDS["functional"](), name, learning_rate=0.25)
    model.save_weights(tmp_path / "start.weights.h5")
    again = compiled(KINDS["functional"](), name, learning_rate=0.5)
    again.optimizer.build(again.trainable_variables)
    with warnings_about_state() as found:
        again.load_weights(tmp_path / "start.weights.h5")
    if name != CONTROL:
        assert not found
        assert float(again.optimizer.learning_rate) == 0.25
    assert int(again.optimizer.iterations) == 0
    assert np.isfinite(fit(again)).all()


def tower(which, kind):
    """Layers of the same names in each; a reloaded one has lost its own name."""
    inputs = keras.Input((4,))
    one, two = layers.Dense(4, name="one"), layers.Dense(4, name="two")
    if kind == "sequential":
        return keras.Sequential([inputs, one, two], name=which)
    return keras.Model(inputs, two(one(inputs)), name=which)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["sequential", "functional"])
@ours
def test_towers_with_layers_of_the_same_name(name, kind, frozen, tmp_path):
    """`left/one/kernel` may become `one/kernel`, and `right/one/kernel` too.

    With both towers they go in order. With one of two frozen the file says which of
    its variables still were trainable when it was saved.
    """
    inputs = keras.Input((4,))
    towers = [tower(which, kind) for which in ("left", "right")]
    outputs = layers.Add()([part(inputs) for part in towers])
    model = keras.Model(inputs, outputs)
    model.compile(MAKE[name](), loss="mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 32, 4))
    model.fit(x, y, epochs=2, verbose=0)
    towers[0].trainable = not frozen
    again, found = reload(model, tmp_path)
    if not frozen:
        assert not found
        for one in (model, again):
            one.fit(x, y, shuffle=False, verbose=0)
        weights = zip(numpy_values(again.weights), numpy_values(model.weights))
        for ours, theirs in weights:  # PyTorch adds in another order
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    else:
        assert_one_warning(name, found, "one/kernel")
        for one in (model, again):
            steps_on(one)
        weights = [one.get_layer("right").weights for one in (again, model)]
        assert_states_equal(*map(numpy_values, weights))


@ours
def test_a_layer_more_than_when_it_was_saved(name, tmp_path):
    """Transfer of what fits: `load_weights` with `skip_mismatch`, as Keras allows."""
    model = trained("functional", name)
    model.save_weights(tmp_path / "w.weights.h5")
    inputs = x = keras.Input(SHAPE)
    for part in KINDS["functional"]().layers[1:]:
        x = part(x)
    larger = keras.Model(inputs, layers.Dense(3, activation="softmax", name="more")(x))
    compiled(larger, name)
    larger.optimizer.build(larger.trainable_variables)
    with warnings_about_state() as found:
        larger.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True)
    assert any("more" in text for text in found), found
    assert_same(slots_of(larger, "head"), slots_of(model, "head"))
