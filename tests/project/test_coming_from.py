"""docs/coming-from.md: what it calls the same steps are the same steps."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_gradopt
from keras_gradopt.transforms import ScaleLearningRate, Whiten

PAGE = (Path(__file__).parents[2] / "docs/coming-from.md").read_text()
PAIR = r"(?m)^\| `({}\..+?)` \| `(keras.+?)` \|$"
OF_TORCH = re.findall(PAIR.format("torch"), PAGE)
OF_TENSORFLOW_1 = re.findall(PAIR.format("tf.train"), PAGE)

RANDOM = np.random.default_rng(0)
START = RANDOM.normal(size=4)
GRADIENTS = RANDOM.normal(size=(30, 4))


def path_of(optimizer, gradients):
    weight, path = keras.Variable(START, dtype="float32"), []
    for gradient in gradients:
        optimizer.apply([keras.ops.array(gradient, "float32")], [weight])
        path.append(keras.ops.convert_to_numpy(weight).copy())
    return np.array(path)


def test_the_tables_are_found():
    assert len(OF_TORCH) == 9 and len(OF_TENSORFLOW_1) == 5


@pytest.mark.parametrize("size", [1.0, 1e-6])  # where epsilon matters, too
@pytest.mark.parametrize(("theirs", "ours"), OF_TORCH)
def test_torch(theirs, ours, size):
    torch = pytest.importorskip("torch")
    if size < 1 and ("NAdam" in theirs or "RAdam" in theirs):
        pytest.skip("their epsilon is another, as the page says")
    weight, path = torch.nn.Parameter(torch.tensor(START)), []
    optimizer = eval(theirs, {"torch": torch, "p": [weight]})
    for gradient in size * GRADIENTS:
        weight.grad = torch.tensor(gradient, device=weight.device)
        optimizer.step()
        path.append(weight.detach().cpu().numpy().copy())
    found = path_of(
        eval(ours, {"keras": keras, "keras_gradopt": keras_gradopt}), size * GRADIENTS
    )
    np.testing.assert_allclose(found, path, atol=5e-6)


@pytest.mark.parametrize("size", [1.0, 1e-6])
@pytest.mark.parametrize(("theirs", "ours"), OF_TENSORFLOW_1)
def test_tensorflow_1(theirs, ours, size):
    tf = pytest.importorskip("tensorflow").compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        weight = tf.Variable(START, dtype=tf.float64, use_resource=True)
        gradient, path = tf.placeholder(tf.float64, [4]), []
        step = eval(theirs, {"tf": tf}).apply_gradients([(gradient, weight)])
        session.run(tf.global_variables_initializer())
        for value in size * GRADIENTS:
            session.run(step, {gradient: value})
            path.append(session.run(weight))
    found = path_of(eval(ours, {"keras": keras}), size * GRADIENTS)
    np.testing.assert_allclose(found, path, atol=5e-6)


def test_arguments_of_keras_2():
    with pytest.raises(ValueError, match="lr"):
        keras.optimizers.Adam(lr=0.1)
    with pytest.raises(ValueError, match="jit_compile"):
        keras.optimizers.Adam(jit_compile=True)
    with pytest.warns(UserWarning, match="`decay` is no longer supported"):
        adam = keras.optimizers.Adam(decay=0.1)
    assert adam.get_config()["learning_rate"] == pytest.approx(0.001)
    for name in ("lr", "get_weights", "weights", "minimize"):
        assert not hasattr(adam, name)


def test_defaults():
    sgd, adamw = keras.optimizers.SGD(), keras.optimizers.AdamW()
    assert float(sgd.learning_rate) == pytest.approx(0.01)
    assert adamw.weight_decay == 0.004
    rmsprop = keras.optimizers.RMSprop()
    assert (rmsprop.rho, rmsprop.epsilon) == (0.9, 1e-7)
    assert keras.optimizers.Adagrad().initial_accumulator_value == 0.1
    assert keras.optimizers.Adadelta().rho == 0.95
    assert keras.layers.BatchNormalization().momentum == 0.99
    torch = pytest.importorskip("torch")
    weight = [torch.nn.Parameter(torch.zeros(1))]
    for name, expected in {
        "SGD": {"lr": 1e-3},
        "AdamW": {"weight_decay": 0.01},
        "NAdam": {"lr": 2e-3, "momentum_decay": 4e-3},
        "RMSprop": {"lr": 0.01, "alpha": 0.99, "eps": 1e-8},
        "Adagrad": {"lr": 0.01, "initial_accumulator_value": 0},
        "Adadelta": {"lr": 1.0, "rho": 0.9},
    }.items():
        defaults = getattr(torch.optim, name)(weight).defaults
        assert {key: defaults[key] for key in expected} == expected, name
    assert torch.nn.BatchNorm2d(1).momentum == 0.1


@pytest.mark.parametrize(
    ("base", "same"), [(keras.optimizers.SGD, True), (keras.optimizers.Adam, False)]
)
def test_a_multiplier_of_the_gradient_is_one_of_the_rate_for_sgd_only(base, same):
    scaled = keras_gradopt.Transformed(base(0.01), [ScaleLearningRate({".": 0.1})])
    difference = path_of(scaled, GRADIENTS) - path_of(base(0.01), 0.1 * GRADIENTS)
    assert (abs(difference).max() < 1e-6) == same


def test_whitening_of_entries_is_gradient_centralization():
    layer = keras.layers.Conv2D(3, 2, use_bias=False)
    layer.build((None, 4, 4, 5))
    before = keras.ops.convert_to_numpy(layer.kernel).copy()
    optimizer = keras_gradopt.SGDCore(1.0, transforms=[Whiten(mean_over="entries")])
    gradient = RANDOM.normal(size=before.shape).astype("float32")
    optimizer.apply([keras.ops.array(gradient)], [layer.kernel])
    centralized = gradient - gradient.mean(axis=(0, 1, 2), keepdims=True)
    after = keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(before - after, centralized, atol=1e-5)
