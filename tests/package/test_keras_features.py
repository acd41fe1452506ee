"""What Keras lets a user do with an optimizer, beside what the kit checks."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from keras import ops
from table import ALL
from trajectories import BACKEND, numpy_values, stepper

pytestmark = pytest.mark.oldest

every_optimizer = pytest.mark.parametrize("name", ALL)

STEPS = 6


def streams(steps=STEPS, scale=1.0):
    """Gradients for the variables of `new_variables`, `(steps, *shape)` each."""
    random = np.random.default_rng(3)
    shapes = [(2, 2, 2, 3), (4, 3), (3,)]
    return [
        (scale * random.normal(size=(steps, *shape))).astype("float32")
        for shape in shapes
    ]


def new_variables():
    random = np.random.default_rng(4)
    shapes = {"conv_kernel": (2, 2, 2, 3), "kernel": (4, 3), "bias": (3,)}
    return [
        keras.Variable(random.normal(size=shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]


def go(optimizer, gradients, before_step=None, variables=None):
    """Applies gradients step by step; returns the final values."""
    variables = variables or new_variables()
    for t, grads in enumerate(zip(*gradients)):
        if before_step:
            before_step(t, optimizer)
        optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)
    return numpy_values(variables)


def assert_close(ours, theirs, rtol=2e-5, atol=2e-6):
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_differ(ours, theirs):
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs)) > 1e-5


@every_optimizer
@pytest.mark.parametrize("by", ["name", "variable"])
def test_weight_decay_exclusions_survive_a_reload(name, by):
    """Keras' own forget them."""
    variables = new_variables()
    optimizer = ALL[name](learning_rate=0.1, weight_decay=0.5)
    if by == "name":
        optimizer.exclude_from_weight_decay(var_names=["bias", "conv"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[variables[0], variables[2]])
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    assert again.get_config() == optimizer.get_config()
    start = numpy_values(variables)
    end = go(again, [0 * g for g in streams()], variables=variables)
    shrunk = start[1] * 0.95**STEPS
    assert_close(end, [start[0], shrunk, start[2]], rtol=1e-4)
    with pytest.raises(ValueError, match="before the optimizer is built"):
        again.exclude_from_weight_decay(var_names=["kernel"])


@every_optimizer
def test_pickle_and_copy(name):
    optimizer = ALL[name](learning_rate=0.125)
    for again in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert again is not optimizer
        assert again.get_config() == optimizer.get_config()


@pytest.mark.skipif(BACKEND != "jax", reason="right elsewhere")
def test_nadam_with_loss_scaling_is_wrong_on_jax():
    """When this fails, Keras has mended it: tell so in docs/keras-notes.md."""
    variables, gradients = new_variables(), streams(2)
    nadam = keras.optimizers.Nadam()
    wrapped = keras.optimizers.LossScaleOptimizer(nadam, initial_scale=8.0)
    wrapped.build(variables)
    for grads in zip(*gradients):
        stepper(wrapped, variables)([ops.convert_to_tensor(8 * g) for g in grads])
    assert_differ(numpy_values(variables), go(keras.optimizers.Nadam(), gradients))


@pytest.mark.skipif(BACKEND != "jax", reason="right elsewhere")
def test_a_model_does_not_train_on_after_use_ema_on_jax():
    """When this fails, Keras has mended it: tell so in docs/keras-notes.md."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    x, y = np.ones((8, 3)), np.ones((8, 2))
    model.fit(x, y, verbose=0)
    with pytest.raises((TypeError, ValueError)):
        model.fit(x, y, verbose=0)


@every_optimizer
def test_apply_gradients_is_apply(name):
    variables = new_variables()
    optimizer = ALL[name]()
    for grads in zip(*streams()):
        pairs = list(zip(map(ops.convert_to_tensor, grads), variables))
        iterations = optimizer.apply_gradients(pairs)
    assert int(iterations) == STEPS
    assert_close(numpy_values(variables), go(ALL[name](), streams()), rtol=0, atol=0)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="new in Keras 3.15"
)
@every_optimizer
def test_multi_optimizer_runs_two_of_ours(name):
    """Each variable moves as if its optimizer were alone."""
    variables = new_variables()
    optimizers = keras.optimizers.OptimizerMap(ALL[name](0.01))
    optimizers["conv_kernel"] = ALL[name](0.001)
    both = go(
        keras.optimizers.MultiOptimizer(optimizers), streams(), variables=variables
    )
    head = go(ALL[name](0.01), streams())
    backbone = go(ALL[name](0.001), streams())
    assert_close(both, [backbone[0], *head[1:]], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@every_optimizer
def test_no_nan_where_adam_has_none(name, dtype):
    """Zero, repeated, tiny and huge gradients, in every dtype of the variables."""
    random = np.random.default_rng(0)
    one = random.normal(size=(2, 2, 2, 3))
    # the squares of `large` are finite, their sum is not
    limits = {"float16": (1e4, 100, 1e-7), "float64": (1e30, 5e153, 1e-30)}
    huge, large, tiny = limits.get(dtype, (1e30, 5e18, 1e-30))

    def final(optimizer, scales):
        variable = keras.Variable(random.normal(size=one.shape), dtype=dtype)
        for scale in scales:
            gradient = ops.cast(ops.convert_to_tensor(scale * one), dtype)
            optimizer.apply([gradient], [variable])
        wide = ops.cast(variable.value, "float64" if dtype == "float64" else "float32")
        return np.isfinite(ops.convert_to_numpy(wide))

    for scales in (
        [0, 0, 1, 1],
        [1, 1, 1, 1],
        [tiny, tiny, 1],
        [1, 1, 1, huge],
        [1, large, 1, 1],
    ):
        ours = final(ALL[name](), scales)
        adam = final(keras.optimizers.Adam(), scales)
        assert (ours >= adam).all(), scales


def small_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu", name="backbone"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )


def data():
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = random.normal(size=(48, 6, 6, 2)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def fit(model, epochs=1):
    return model.fit(*data(), epochs=epochs, batch_size=16, shuffle=False, verbose=0)


@pytest.mark.slow
@every_optimizer
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
        model.compile(ALL[name](0.01), loss="sparse_categorical_crossentropy")
        losses = fit(model, 4).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    wraps = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert wraps == (policy == "mixed_float16")
