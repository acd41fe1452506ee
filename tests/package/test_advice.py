"""GAF's procedure: its three measurements, on losses whose shape is known."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_gradopt import recommend_activation
from keras_gradopt.monitoring.advice import filter_normalized


class Power(keras.layers.Layer):
    """`|w|^p`, summed; `w` of rank 2, as only those are moved."""

    def __init__(self, power, **keywords):
        super().__init__(**keywords)
        self.power = power

    def build(self, input_shape):
        self.w = self.add_weight(shape=(8, 2), initializer="ones")

    def call(self, x):
        return 0 * x + ops.sum(ops.power(ops.abs(self.w - 1), self.power))

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def model_of(power, rate=1e-9):
    model = keras.Sequential([keras.Input((1,)), Power(power)])
    model.compile(keras.optimizers.SGD(rate), lambda y, p: ops.mean(p))
    model.layers[0].w.assign(np.ones((8, 2)) + 1e-3)
    return model


X = np.zeros((16, 1), "float32")
QUICK = {"batch_size": 8, "directions": 1}


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("power", "product"),
    [(1.0, 0.5), *(pytest.param(p, 2, marks=pytest.mark.slow) for p in (2.0, 4.0))],
)
def test_growth_decides_the_product(power, product):
    """Flatter than a parabola: enlarge small gradients; sharper: reduce them."""
    advice = recommend_activation(model_of(power), X, X, steps=2, **QUICK)
    assert advice.growth == pytest.approx(power, abs=0.1)
    assert advice.alpha * advice.beta == pytest.approx(product)
    assert len(advice.scales) == len(advice.losses) == 11
    assert advice.losses.argmin() == 5


@pytest.mark.parametrize(("activation", "bound"), [("arctan", np.pi / 2), ("tanh", 1)])
def test_alpha_restrains_the_largest_gradient(activation, bound):
    """Slope 1 everywhere: the bound is 1/2."""
    advice = recommend_activation(model_of(1.0), X, X, activation, steps=3, **QUICK)
    assert advice.maximal_gradients == pytest.approx([1, 1, 1])
    assert advice.alpha * bound == pytest.approx(0.5)
    assert f"{advice.alpha:.3g}" in advice.reason


def test_the_model_stays_as_it_is():
    model = model_of(2.0, rate=0.1)
    before = model.layers[0].w.numpy()
    advice = recommend_activation(model, X, X, steps=4, **QUICK)
    assert (model.layers[0].w.numpy() == before).all()
    assert not model.optimizer.built or int(model.optimizer.iterations) == 0
    # the copy trained: gradients fell
    assert advice.maximal_gradients[-1] < advice.maximal_gradients[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*lambda")
def test_a_learning_rate_may_be_a_function():
    model = model_of(2.0)
    model.compile(keras.optimizers.SGD(lambda: 1e-9), model.loss)
    advice = recommend_activation(model, X, X, steps=2, **QUICK)
    assert len(advice.maximal_gradients) == 2


def test_filter_normalized():
    """Each filter as long as the weights' own; biases stay."""
    weight = np.random.default_rng(0).normal(size=(3, 3, 2, 5)) * np.arange(5)
    direction = filter_normalized(np.random.default_rng(1), weight)
    for i in range(5):
        norm = np.linalg.norm(direction[..., i])
        assert norm == pytest.approx(np.linalg.norm(weight[..., i]))
    assert not filter_normalized(np.random.default_rng(1), np.ones(4)).any()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("steps", 0, "a whole number, at least 1, below 2**31"),
        ("steps", 2.5, "a whole number, at least 1, below 2**31"),
        ("batch_size", 0, "a whole number, at least 1, below 2**31"),
        ("batch_size", True, "a whole number, at least 1, below 2**31"),
        ("radius", 0, "a finite number in (0, inf)"),
        ("radius", float("nan"), "a finite number in (0, inf)"),
        ("points", 3, "a whole number, at least 5, below 2**31"),
        ("points", 20, "an odd number, at least 5"),
        ("directions", 0, "a whole number, at least 1, below 2**31"),
        ("seed", -1, "a whole number, at least 0, below 2**31"),
    ],
)
def test_arguments_are_checked_before_anything_is_done(name, value, allowed):
    """The model is none; it is not looked at."""
    expected = re.escape(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    with pytest.raises(ValueError, match=expected):
        recommend_activation(None, X, X, **{name: value})


@pytest.mark.parametrize(
    ("x", "y"), [(X[:0], X[:0]), (X, X[:3]), ([], []), (np.float32(1), X)]
)
def test_no_examples_and_other_numbers_of_targets(x, y):
    """Without examples it used to draw orders of none for ever."""
    with pytest.raises(ValueError, match=r"equally many examples.*x of shape \("):
        recommend_activation(None, x, y)


def test_whole_numbers_of_numpy():
    advice = recommend_activation(
        model_of(1.0), X, X, steps=np.int64(2), batch_size=np.int32(8), directions=1
    )
    assert len(advice.maximal_gradients) == 2


def test_wrong_arguments():
    model = model_of(2.0)
    with pytest.raises(ValueError, match="'arctan', 'tanh'"):
        recommend_activation(model, X, X, "log")
    with pytest.raises(ValueError, match="compiled"):
        recommend_activation(keras.Sequential([keras.layers.Dense(1)]), X, X)
    flat = model_of(2.0)
    flat.layers[0].w.assign(np.ones((8, 2)))
    with pytest.raises(ValueError, match="All gradients are zero"):
        recommend_activation(flat, X, X, steps=1, **QUICK)
