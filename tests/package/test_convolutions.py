"""Which variables `Whiten` takes for convolution kernels, and that it says what it does
not know."""

import gc
import threading
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_gradopt as kg
from keras_gradopt import transforms as kt
from keras_gradopt.transforms import convolutions

pytestmark = [pytest.mark.oldest, pytest.mark.quick]


class OwnConvolution(layers.Layer):
    """A convolution that Keras does not know."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(1, 1, shape[-1], 2), name="weight")

    def call(self, x):
        return ops.conv(x, self.weight)


def own_convolution():
    layer = OwnConvolution(name="own")
    layer.build((None, 3, 3, 4))
    return layer


def test_unknown_layer_is_named_and_left_alone():
    layer = own_convolution()
    with pytest.warns(UserWarning, match="own/weight.*layers that Keras does not know"):
        assert kt.Whiten().plan([layer.weight]) == [None]


def test_no_layer_is_named():
    shapes = [(4,), (4, 4), (2, 4, 4), (2, 2, 4, 4), (2, 2, 2, 4, 4), (1,) * 6]
    variables = [keras.Variable(np.zeros(s), name=f"v{len(s)}") for s in shapes]
    with pytest.warns(UserWarning) as warned:
        plan = kt.Whiten().plan(variables)
    assert plan == [None, None, (2,), (3,), (4,), None]
    (said,) = [str(w.message) for w in warned]
    assert "v3, v4, v5, v6 belong to no layer" in said


def test_nothing_is_said_of_known_layers():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(3, 2),
            layers.BatchNormalization(),
            layers.Reshape((49, 3)),
            layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
            layers.Reshape((49, 6)),
            layers.Bidirectional(layers.LSTM(3)),
        ]
    )
    attention = layers.MultiHeadAttention(2, 3)
    attention.build((None, 5, 4), (None, 5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = kt.Whiten().plan([*model.trainable_variables, *attention.weights])
    assert [axes for axes in plan if axes] == [(3,)]


def built(layer, shape):
    layer.build((None, *shape))
    return layer


CONTAINERS = {  # that have as many weights as the one layer in them
    "sequential": lambda inner: keras.Sequential([keras.Input((5, 5, 2)), inner]),
    "functional": lambda inner: (lambda x: keras.Model(x, layers.Flatten()(inner(x))))(
        keras.Input((5, 5, 2))
    ),
    "nested": lambda inner: keras.Sequential(
        [keras.Input((5, 5, 2)), keras.Sequential([inner])]
    ),
    "wrapper": lambda inner: built(layers.TimeDistributed(inner), (3, 5, 5, 2)),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_container_is_not_taken_for_its_one_layer(container, reverse, monkeypatch):
    """Whichever of the two is found first."""
    outer = CONTAINERS[container](layers.Conv2D(3, 2))
    found = convolutions._living_layers()
    monkeypatch.setattr(
        convolutions, "_living_layers", lambda: found[::-1] if reverse else found
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kt.Whiten().plan(outer.trainable_variables) == [(3,), None]


@pytest.mark.parametrize("container", CONTAINERS)
def test_unknown_layer_in_a_container_is_named(container):
    outer = CONTAINERS[container](OwnConvolution(name="own"))
    with pytest.warns(UserWarning, match="layers that Keras does not know"):
        assert kt.Whiten().plan(outer.trainable_variables) == [None]


def test_frozen_heap_is_said(request):
    """Objects frozen by `gc.freeze()` cannot be found."""
    attention = layers.MultiHeadAttention(2, 3)
    attention.build((None, 5, 4), (None, 5, 4))
    request.addfinalizer(gc.unfreeze)
    gc.freeze()
    with pytest.warns(UserWarning, match="query/kernel.*no layer that could be found"):
        kt.Whiten().plan(attention.trainable_variables)


@pytest.mark.parametrize("mean_over", ["kernels", "entries"])
def test_axes_from_the_user(mean_over):
    layer = own_convolution()
    axes = {"own/weight": [-1]}
    whiten = kt.Whiten(mean_over, kernel_axes=axes)
    gradient = np.random.default_rng(0).normal(size=(1, 1, 4, 2)).astype("float32")
    over = 3 if mean_over == "kernels" else (0, 1, 2)
    expected = gradient - gradient.mean(over, keepdims=True)
    before = ops.convert_to_numpy(layer.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = kg.Transformed(keras.optimizers.SGD(1.0), [whiten])
        optimizer.apply([ops.convert_to_tensor(gradient)], [layer.weight])
    moved = before - ops.convert_to_numpy(layer.weight)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    again = kt.Whiten.from_config(whiten.get_config())
    assert again.kernel_axes == axes
    assert "own/weight" in repr(again)


def test_known_kernel_can_be_left_out():
    layer = layers.Conv2D(3, 2, name="conv")
    layer.build((None, 5, 5, 2))
    with pytest.warns(UserWarning, match="changes nothing"):
        plan = kt.Whiten(kernel_axes={"conv/kernel": None}).plan(layer.weights)
    assert plan == [None, None]


@pytest.mark.parametrize("axes", [{"own/weigh": [-1]}, {"wn/weight": [0]}])
def test_path_that_fits_nothing_is_refused(axes):
    layer = own_convolution()
    with pytest.raises(ValueError, match=r"none of the variables.*own/weight"):
        kt.Whiten(kernel_axes=axes).plan([layer.weight])


def test_axis_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="own/weight has 4 axes"):
        kt.Whiten(kernel_axes={"weight": [4]}).plan([own_convolution().weight])


@pytest.mark.parametrize("axes", [3, [1], {"a": 1}, {1: [1]}, {"a": [0.5]}])
def test_other_axes_are_refused(axes):
    with pytest.raises(ValueError, match="kernel_axes"):
        kt.Whiten(kernel_axes=axes)


@pytest.mark.slow
def test_other_threads_make_tuples_meanwhile():
    """To take hold of a tuple in the making is a `SystemError` where it is made."""
    layer = layers.Conv2D(3, 2)
    layer.build((None, 5, 5, 2))
    errors, stop = [], threading.Event()

    def make_tuples():
        while not stop.is_set():
            try:
                tuple(i for i in range(1000))
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=make_tuples) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            kt.Whiten().plan(layer.weights)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_the_most_special_path_counts():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, name="plain"),
            keras.layers.Conv2D(3, 3, name="special"),
        ]
    )
    variables = model.trainable_variables
    given = {"kernel": [0], "special/kernel": None}
    for axes in (given, dict(reversed(given.items()))):
        plan = kt.Whiten(kernel_axes=axes).plan(variables)
        assert plan[0] == (0,) and plan[2] is None
