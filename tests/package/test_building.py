"""An optimizer is built wholly or not at all; none steps without its transforms."""

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from trajectories import BACKEND

import keras_gradopt as kg
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.oldest, pytest.mark.quick]


class Fails(kt.Transform):
    """A transform whose plan fails the first time, or always."""

    def __init__(self, times=1):
        self.times = times

    def plan(self, variables):
        self.times -= 1
        if self.times >= 0:
            raise KeyError("on purpose")
        return super().plan(variables)

    def apply(self, gradient, slots, context):
        return kt.Result(2.0 * gradient)


class FailsLater(kt.Transform):
    """A transform whose slots cannot be made."""

    slots = (kt.Slot("wrong", initial="wrong"),)

    def apply(self, gradient, slots, context):
        return kt.Result(gradient, slots=slots)


def inner():
    return keras.optimizers.SGD(1.0)


@pytest.mark.parametrize("make", [inner, kg.RAdam, kg.GAFSGD, kg.AdamNorm])
def test_a_failed_build_has_not_happened(make):
    optimizer, weight = kg.Transformed(make(), [Fails()]), keras.Variable([1.0])
    with pytest.raises(KeyError, match="on purpose"):
        optimizer.apply([ops.ones(1)], [weight])
    assert not optimizer.built
    optimizer.apply([ops.ones(1)], [weight])
    straight = kg.Transformed(make(), [Fails(0)])
    expected = keras.Variable([1.0])
    straight.apply([ops.ones(1)], [expected])
    assert float(weight[0]) == float(expected[0])
    assert len(optimizer.variables) == len(straight.variables)


@pytest.mark.parametrize("make", [inner, kg.RAdam])
def test_no_step_without_transforms(make):
    """Where the build fails half way."""
    weight = keras.Variable([1.0])
    optimizer = kg.Transformed(make(), [FailsLater()])
    with pytest.raises(Exception):  # noqa: B017 - of the backend
        optimizer.build([weight])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not built"):
            optimizer.apply([ops.ones(1)], [weight])
    assert float(weight[0]) == 1.0


def test_only_the_inner_optimizer_is_built():
    """Keras' has no transforms then; one of ours has them among its own."""
    weight = keras.Variable([1.0])
    keras_own = kg.Transformed(inner(), [kt.CorrectNorm()])
    keras_own.inner_optimizer.build([weight])
    with pytest.raises(RuntimeError, match="not built"):
        keras_own.apply([ops.ones(1)], [weight])
    assert float(weight[0]) == 1.0
    ours = kg.Transformed(kg.SGDCore(1.0), [Fails(0)])
    ours.inner_optimizer.build([weight])
    ours.apply([ops.ones(1)], [weight])
    assert float(weight[0]) == -1.0  # the transform doubles
    assert ours.state_layout().paths == [weight.path]


def test_a_plan_too_few_is_refused():
    class TooFew(kt.Transform):
        def plan(self, variables):
            return [None]

    variables = [keras.Variable([1.0]), keras.Variable([1.0])]
    with pytest.raises(ValueError, match="returned 1 plans for 2 variables"):
        kg.Transformed(inner(), [TooFew()]).build(variables)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="AutoGraph")
@pytest.mark.parametrize(
    "make",
    [
        lambda: kg.Transformed(inner(), [kt.Whiten()]),
        lambda: kg.WGDSGD(1.0, momentum=0.0),
        lambda: kg.Transformed(kg.GAFSGD(), [kt.Whiten(), kt.CorrectNorm()]),
    ],
)
def test_first_step_within_a_tensorflow_function(make):
    """AutoGraph must not rewrite what builds the optimizer."""
    import tensorflow as tf

    def trained(wrap):
        layer = layers.Conv2D(2, 1, kernel_initializer="ones", use_bias=False)
        layer.build((None, 3, 3, 1))
        optimizer = make()

        def step(gradient):
            optimizer.apply([gradient], [layer.kernel])

        step = wrap(step)
        for scale in (1.0, 2.0):
            step(tf.reshape([scale, 3.0 * scale], (1, 1, 1, 2)))
        return ops.convert_to_numpy(layer.kernel)

    in_function = trained(tf.function)
    np.testing.assert_allclose(in_function, trained(lambda step: step), rtol=1e-6)
    assert np.ptp(in_function) > 0.1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="AutoGraph")
@pytest.mark.parametrize("make", [inner, kg.SGDCore])
def test_a_users_transform_is_not_rewritten(make):
    """What AutoGraph rewrites it compiles from a file of its own."""
    import tensorflow as tf

    files = []

    class Where(kt.Transform):
        def plan(self, variables):
            files.append(sys._getframe().f_code.co_filename)
            return super().plan(variables)

        def apply(self, gradient, slots, context):
            files.append(sys._getframe().f_code.co_filename)
            return kt.Result(gradient)

    optimizer, weight = kg.Transformed(make(), [Where()]), keras.Variable([1.0])
    tf.function(lambda g: optimizer.apply([g], [weight]))(tf.ones(1))
    assert set(files) == {__file__}


def test_transformed_by_name_alone_says_what_is_missing():
    with pytest.raises(ValueError, match="inner optimizer and transforms"):
        keras.optimizers.get("keras_gradopt>Transformed")


def test_config_nested_without_end_is_refused():
    config = kg.Transformed(inner(), []).get_config()
    for _ in range(2000):
        config = {
            "inner_optimizer": {
                "class_name": "Transformed",
                "module": None,
                "registered_name": "keras_gradopt>Transformed",
                "config": config,
            },
            "transforms": [],
        }
    with pytest.raises(ValueError, match="nested too deeply"):
        kg.Transformed.from_config(config)


class SGD(keras.optimizers.SGD):
    """A user's, named as one of Keras': it makes half steps."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, 0.5 * learning_rate)


class Idle(kt.Transform):
    def apply(self, gradient, slots, context):
        return kt.Result(gradient)


def test_a_users_optimizer_keeps_its_own_update():
    """On PyTorch those of Keras get another class; a user's of that name must not."""
    optimizer, variable = kg.Transformed(SGD(1.0), [Idle()]), keras.Variable([0.0])
    optimizer.apply([ops.ones(1)], [variable])
    assert float(ops.convert_to_numpy(variable)[0]) == -0.5
    assert type(optimizer.inner_optimizer) is SGD


@pytest.mark.parametrize("given", [[], [Idle()]])
@pytest.mark.parametrize("make", [keras.optimizers.SGD, kg.GAFSGD])
def test_an_optimizer_belongs_to_one_transformed(make, given):
    inner = make(0.1)
    kg.Transformed(inner, given)
    with pytest.raises(ValueError, match="not Transformed already"):
        kg.Transformed(inner, [Idle()])


@pytest.mark.parametrize("make", [keras.optimizers.SGD, kg.SGDCore])
def test_the_last_exclusion_from_weight_decay_counts(make):
    inner = make(0.0, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    optimizer = kg.Transformed(inner, [Idle()])
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    again = kg.Transformed.from_config(optimizer.get_config(), {"Idle": Idle})
    for one in (optimizer, again):
        one.learning_rate = 1.0
        model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
        kernel, bias = model.trainable_variables
        for variable in (kernel, bias):
            variable.assign(np.ones(variable.shape))
        one.apply([ops.zeros(v.shape) for v in (kernel, bias)], [kernel, bias])
        np.testing.assert_allclose(ops.convert_to_numpy(kernel), 1.0)
        np.testing.assert_allclose(ops.convert_to_numpy(bias), 0.9, rtol=1e-6)


def test_a_misspelt_transforms_is_named():
    with pytest.raises(ValueError, match="Did you mean `transforms`"):
        kg.AdamCore(transform=[Idle()])


def test_a_refused_transformed_leaves_the_inner_optimizer_alone():
    inner = kg.AdamCore()
    with pytest.raises(ValueError, match="name"):
        kg.Transformed(inner, [kt.ScaleByL1Norm()], name=3)
    assert inner.transforms == ()
    assert len(kg.Transformed(inner, [kt.ScaleByL1Norm()]).transforms) == 1
    assert len(inner.transforms) == 1
