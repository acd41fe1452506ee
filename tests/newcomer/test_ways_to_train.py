"""Ways to train that a newcomer finds in Keras' guides: each does what it means."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from scenarios import (
    CONTROL,
    KINDS,
    MAKE,
    WITH_WEIGHTS,
    assert_same,
    assert_states_equal,
    compiled,
    custom_step,
    data,
    every_arm,
    every_kind,
    fit,
    layer,
    of,
    reload,
    stack,
    state,
    tensorflow_only,
    trained,
    weights_of,
)
from table import ALL
from trajectories import BACKEND, numpy_values

import keras_gradopt as kg
from keras_gradopt import transforms as kt

pytestmark = pytest.mark.slow

LOSS = "sparse_categorical_crossentropy"


def assert_close(ours, theirs, rtol=1e-4, atol=1e-5):
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol, atol, err_msg=key)


@tensorflow_only
def test_readme_example_in_a_custom_loop():
    """Its first call does not raise, and every step is whitened."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    values = random.normal(size=(3, 3, 2, 4)).astype("float32")
    gradient = random.normal(size=(3, 3, 2, 4)).astype("float32")
    weight = keras.Variable(values)
    optimizer = kg.Transformed(keras.optimizers.SGD(1.0), [kt.Whiten()])

    @tf.function
    def step(g):
        optimizer.apply([g], [weight])

    for number in (1, 2):
        step(tf.constant(gradient))
        change = gradient - gradient.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(
            numpy_values([weight])[0], values - number * change, rtol=1e-5, atol=1e-5
        )


@tensorflow_only
@pytest.mark.parametrize("name", [CONTROL, *ALL])
def test_built_by_the_first_step_of_a_graph(name):
    """As in README's loop, for every optimizer: the same as eager steps."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    values = random.normal(size=(3, 3, 2, 4)).astype("float32")
    gradients = random.normal(size=(3, 3, 3, 2, 4)).astype("float32")
    weight, eager = keras.Variable(values), keras.Variable(values)
    optimizer, other = MAKE[name](), MAKE[name]()

    @tf.function
    def step(g):
        optimizer.apply([g], [weight])

    for g in gradients:
        step(tf.constant(g))
        other.apply([tf.constant(g)], [eager])
    np.testing.assert_allclose(*numpy_values([weight, eager]), rtol=1e-4, atol=1e-6)


@every_kind
def test_own_loop_is_fit(name, kind):
    """`GradientTape`, `stateless_apply`, `backward`: as each backend's guide has it."""
    model, other = KINDS[kind](), KINDS[kind]()
    other.set_weights(model.get_weights())
    optimizer = MAKE[name]()
    loss = keras.losses.SparseCategoricalCrossentropy()
    step = custom_step(model, optimizer, loss)
    x, y = data()
    for start in range(0, len(x), 16):
        step(x[start : start + 16], y[start : start + 16])
    fit(compiled(other, name))
    assert_close(weights_of(model), weights_of(other))
    assert int(optimizer.iterations) == 2


class Own(keras.Model):
    """A model with a `train_step` of its own, as the guides write it."""

    def __init__(self):
        super().__init__()
        self.stack = stack()
        self.loss_function = keras.losses.SparseCategoricalCrossentropy()

    def call(self, x, training=None):
        for part in self.stack:
            x = part(x)
        return x

    def train_step(self, *arguments):
        return getattr(self, f"{BACKEND}_step")(*arguments)

    def tensorflow_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.loss_function(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}

    def torch_step(self, batch):
        import torch

        x, y = batch
        self.zero_grad()
        loss = self.loss_function(y, self(x, training=True))
        loss.backward()
        with torch.no_grad():
            weights = self.trainable_variables
            self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss}

    def jax_step(self, state, batch):
        import jax

        trainable, other, optimizer_state, metrics = state
        x, y = batch

        def loss_of(trainable, other):
            result, other = self.stateless_call(trainable, other, x, training=True)
            return self.loss_function(y, result), other

        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, other), gradients = gradient_of(trainable, other)
        trainable, optimizer_state = self.optimizer.stateless_apply(
            optimizer_state, gradients, trainable
        )
        return {"loss": loss}, (trainable, other, optimizer_state, metrics)


@every_arm
def test_own_train_step_is_fit(name):
    model, other = Own(), KINDS["sequential"]()
    model(data()[0][:1])
    other.set_weights(model.get_weights())
    model.compile(MAKE[name]())
    fit(model, 2)
    fit(compiled(other, name), 2)
    assert_close(weights_of(model), weights_of(other))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        x, y = data()
        return x[16 * index : 16 * index + 16], y[16 * index : 16 * index + 16]


def as_tf_data():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(data()).batch(16)


def as_generator():
    while True:
        yield from (Batches()[i] for i in range(2))


@pytest.mark.parametrize("source", [as_tf_data, Batches, as_generator])
@every_arm
def test_every_source_of_data_trains_alike(name, source):
    model, other = KINDS["sequential"](), KINDS["sequential"]()
    model.set_weights(other.get_weights())
    model, other = compiled(model, name), compiled(other, name)
    model.fit(source(), epochs=2, steps_per_epoch=2, shuffle=False, verbose=0)
    fit(other, 2)
    assert_close(weights_of(model), weights_of(other))  # the graphs differ
    assert int(model.optimizer.iterations) == 4


@every_arm
def test_model_without_input(name):
    """Built by its first batch: the same training, and as much whitened."""
    model, other = keras.Sequential(stack()), KINDS["sequential"]()
    keras.utils.set_random_seed(1)
    compiled(model, name)
    model.build((None, 6, 6, 4))
    other.set_weights(model.get_weights())
    late = keras.Sequential(stack())
    late.compile(MAKE[name](), loss=LOSS)
    late.evaluate(*data(), verbose=0)  # makes the weights, not the optimizer's
    late.set_weights(other.get_weights())
    for one in (model, compiled(other, name), late):
        fit(one)
    assert_same(weights_of(model), weights_of(other))
    assert_same(weights_of(late), weights_of(other))


@every_arm
def test_frozen_layers_have_no_slots_and_stay(name):
    model = KINDS["functional"]()
    layer(model, "b").trainable = False
    before = dict(zip("kb", numpy_values(layer(model, "b").weights)))
    fit(compiled(model, name))
    assert_same(dict(zip("kb", numpy_values(layer(model, "b").weights))), before)
    assert not [v.path for v in model.optimizer.variables if "/b_" in v.path]


@pytest.mark.parametrize("by", ["variable", "name"])
@every_kind
def test_exclusions_from_weight_decay_survive(name, kind, by, tmp_path):
    """Saved and loaded, then two steps without gradients: only decay is left."""
    model = KINDS[kind]()
    optimizer = MAKE[name](learning_rate=0.1, weight_decay=0.5)
    if by == "variable":
        optimizer.exclude_from_weight_decay(var_list=layer(model, "c").weights)
    else:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    for weight in model.weights:
        weight.assign(ops.ones(weight.shape))
    model.compile(optimizer, loss=LOSS)
    once, found = reload(model, tmp_path)
    again, more = reload(once, tmp_path)
    if name != CONTROL:  # Keras warns of its own state before the first step
        assert not found and not more
    weights = again.trainable_variables
    for _ in range(2):
        again.optimizer.apply([ops.zeros(w.shape) for w in weights], weights)
    biases = [f"{part}/bias" for part in WITH_WEIGHTS]
    kept = of("c") if by == "variable" else biases
    if name == CONTROL:
        return  # Keras' own forget them
    for key, value in weights_of(again).items():
        expected = 1.0 if key in kept else 0.95**2
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=key)


@every_arm
def test_clone_trains_as_its_original(name):
    model = compiled(KINDS["functional"](), name)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    config = keras.optimizers.serialize(model.optimizer)
    clone.compile(keras.optimizers.deserialize(config), loss=LOSS)
    fit(model)
    fit(clone)
    assert_states_equal(state(model), state(clone))


@every_arm
def test_accumulated_in_fit(name):
    """Two batches of 8 are one of 16, and so many steps are counted."""
    model, other = KINDS["functional"](), KINDS["functional"]()
    model.set_weights(other.get_weights())
    fit(compiled(model, name, gradient_accumulation_steps=2), batch_size=8)
    fit(compiled(other, name))
    assert_close(weights_of(model), weights_of(other))


@every_arm
def test_mixed_float16_saved_and_loaded(name, tmp_path):
    """Loss scale and state are in the file; training goes on bit by bit."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained("functional", name)
        again, found = reload(model, tmp_path)
        assert not found
        assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
        for one in (model, again):
            assert np.isfinite(fit(one)).all()
    finally:
        keras.config.set_dtype_policy(before)
    assert_states_equal(state(model), state(again))


@every_arm
def test_loss_scale_factor_in_fit(name):
    model, other = KINDS["functional"](), KINDS["functional"]()
    model.set_weights(other.get_weights())
    fit(compiled(model, name, loss_scale_factor=64.0))
    fit(compiled(other, name))
    assert_close(weights_of(model), weights_of(other))


@every_arm
def test_class_weights(name):
    """A class of weight 0 teaches nothing: as if its examples were not there."""
    model, other = KINDS["functional"](), KINDS["functional"]()
    model.set_weights(other.get_weights())
    (x, y), weights = data(), {0: 1.0, 1: 1.0, 2: 0.0}
    settings = {"batch_size": 32, "shuffle": False, "verbose": 0}
    compiled(model, name).fit(x, y, class_weight=weights, **settings)
    sample_weight = (y != 2).astype("float32")
    compiled(other, name).fit(x, y, sample_weight=sample_weight, **settings)
    assert_close(weights_of(model), weights_of(other))


@every_arm
def test_multiple_outputs_and_shared_layers(name, tmp_path):
    """Two inputs through one layer, two heads; saved, loaded, the same next epoch."""
    shared = layers.Dense(4, activation="relu", name="shared")
    inputs = [keras.Input((4,), name=which) for which in ("left", "right")]
    joined = layers.Concatenate()([shared(one) for one in inputs])
    heads = {n: layers.Dense(1, name=n)(joined) for n in ("sum", "difference")}
    model = keras.Model(inputs, heads)
    losses = {"sum": "mse", "difference": "mae"}
    model.compile(
        MAKE[name](0.01), loss=losses, loss_weights={"sum": 2.0, "difference": 1.0}
    )
    random = np.random.default_rng(0)
    x = {which: random.normal(size=(32, 4)) for which in ("left", "right")}
    left, right = (value[:, :1] for value in x.values())
    y = {"sum": left + right, "difference": left - right}

    def go(one):
        return one.fit(x, y, epochs=3, shuffle=False, verbose=0).history["loss"]

    losses = go(model)
    assert losses[-1] < losses[0]
    again, found = reload(model, tmp_path)
    assert not found
    for one in (model, again):
        go(one)
    assert_states_equal(state(model), state(again))


@every_arm
def test_embedding_with_sparse_gradients(name, tmp_path):
    """Words that do not occur have zero gradients; the state is saved as any other."""
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(20, 4, name="words"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )
    compiled(model, name)
    words = np.random.default_rng(0).integers(0, 10, size=(32, 5))
    before = weights_of(model)["words/embeddings"]

    def go(one):
        one.fit(words, words[:, 0] % 2, epochs=2, shuffle=False, verbose=0)

    go(model)
    after = weights_of(model)["words/embeddings"]
    np.testing.assert_array_equal(before[10:], after[10:])
    assert (before[:10] != after[:10]).any(axis=1).all()
    again, _ = reload(model, tmp_path)
    for one in (model, again):
        go(one)
    assert_states_equal(state(model), state(again))
