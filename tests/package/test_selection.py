"""Transforms by path: where they act, and that a loaded model's act there, too."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers
from test_paths import (
    MODELS,
    assert_goes_on_alike,
    fit,
    loaded_with_other_numbers,
    numbered,
)

import keras_gradopt as kg
from keras_gradopt import transforms as kt

sequential, functional, Subclassed = MODELS
CASES = [
    ("adam", sequential),
    ("angular", Subclassed),
    pytest.param("sgd", Subclassed, marks=pytest.mark.slow),
    pytest.param("core", functional, marks=pytest.mark.slow),
]


def base(name, **keywords):
    make = {
        "sgd": lambda **k: keras.optimizers.SGD(0.1, momentum=0.9, **k),
        "adam": lambda **k: keras.optimizers.Adam(0.01, **k),
        "core": lambda **k: kg.AdamCore(0.01, **k),
        "angular": lambda **k: kg.AngularGrad(0.01, **k),
    }[name]
    return make(**keywords)


def built(make):
    model = make()
    model(np.zeros((1, 4), "float32"))
    for layer in model.layers:  # the same weights in both models of a comparison
        for i, weight in enumerate(layer.weights):
            values = np.random.default_rng(i).normal(size=weight.shape)
            weight.assign(values)
    return model


def trained(make, optimizer):
    model = built(make)
    model.compile(optimizer, "mse")
    fit(model)
    return model


def weights(model):
    return {v.path.split("/", 1)[-1]: np.array(v) for v in model.trainable_variables}


def same(one, other):
    return [
        np.array_equal(*pair) for pair in zip(one.get_weights(), other.get_weights())
    ]


@pytest.mark.parametrize(("inner", "make"), CASES)
def test_only_acts_where_it_is_told(inner, make):
    """Confined to all it is the transform itself; elsewhere there is nothing of it."""
    transform = kt.DifferenceFriction()
    plain = trained(make, base(inner))
    everywhere = trained(make, kg.Transformed(base(inner), [transform]))
    all_of_them = [kt.Only(["kernel", "bias"], transform)]
    assert all(
        same(everywhere, trained(make, kg.Transformed(base(inner), all_of_them)))
    )
    optimizer = kg.Transformed(base(inner), [kt.Only("c/", transform)])
    confined = trained(make, optimizer)
    of_friction = [v for v in optimizer.variables if "difference_friction" in v.path]
    assert [tuple(v.shape) for v in of_friction] == [(3, 2), (2,)]
    after_one_step = []
    for optimizer in (
        base(inner),
        kg.Transformed(base(inner), all_of_them),
        kg.Transformed(base(inner), [kt.Only("c/", transform)]),
    ):
        model = built(make)
        optimizer.build(model.trainable_variables)
        gradients = [keras.ops.ones(v.shape) for v in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)
        after_one_step.append(model.get_weights())
    none, everywhere, confined_step = after_one_step
    for i, value in enumerate(confined_step):
        source, other = (none, everywhere) if i < 2 else (everywhere, none)
        np.testing.assert_array_equal(value, source[i])
        assert np.any(value != other[i])
    assert not any(same(confined, plain)[2:])


@pytest.mark.parametrize(("inner", "make"), CASES)
@pytest.mark.parametrize("of", [0, 2])
def test_a_loaded_model_means_the_same(of, inner, make, tmp_path):
    """Though no path of the loaded model fits the pattern, perhaps."""
    model = built(make)
    paths = [v.path for v in model.trainable_variables]
    pattern = f"^{re.escape(paths[of])}$"
    friction, factors = kt.DifferenceFriction(), {pattern: 0.25}
    transforms = [kt.Only(pattern, friction), kt.ScaleLearningRate(factors)]
    model.compile(kg.Transformed(base(inner), transforms), "mse")
    fit(model)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    again.save(tmp_path / "again.keras")
    twice = keras.saving.load_model(tmp_path / "again.keras")
    assert paths != [v.path for v in again.trainable_variables]  # it would show nothing
    for one in (model, again, twice):
        fit(one)
    assert all(same(model, again)) and all(same(model, twice))


@pytest.mark.parametrize(("inner", "make"), CASES)
def test_factors_of_the_learning_rate(inner, make):
    """Each variable goes as with an optimizer of its own, at its own rate."""

    def scaled(optimizer, factor):
        optimizer.learning_rate = float(optimizer.learning_rate) * factor
        return optimizer

    factors = {"a/kernel": 0.5, "c/": 0.0, "kernel": 3.0}
    optimizer = kg.Transformed(base(inner), [kt.ScaleLearningRate(factors)])
    models = [built(make), *(built(make) for _ in range(3))]
    optimizers = [optimizer, *(scaled(base(inner), f) for f in (0.5, 1.0, 0.0))]
    random = np.random.default_rng(0)
    gradients = [
        [
            random.normal(size=v.shape).astype("float32")
            for v in models[0].trainable_variables
        ]
        for _ in range(3)
    ]
    start = models[0].get_weights()
    for one, model in zip(optimizers, models):
        for of_step in gradients:
            one.apply(
                list(map(keras.ops.convert_to_tensor, of_step)),
                model.trainable_variables,
            )
    got, half, whole, none = (model.get_weights() for model in models)
    # to rounding: Keras' own on PyTorch multiply in another order
    close = {"rtol": 1e-4, "atol": 1e-7}
    np.testing.assert_allclose(got[0], half[0], **close)  # the first pattern that fits
    np.testing.assert_allclose(got[1], whole[1], **close)  # none fits
    for i in (2, 3):  # not "kernel": frozen, exactly
        np.testing.assert_array_equal(got[i], start[i])
        np.testing.assert_array_equal(none[i], start[i])
    assert np.any(got[0] != whole[0])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_of_keras_is_not_scaled(decay):
    """It takes the optimizer's learning rate, whatever the factor."""
    weight = keras.Variable(np.full(3, 8.0, "float32"), name="head")
    optimizer = kg.AdamCore(
        0.25, weight_decay=decay or None, transforms=[kt.ScaleLearningRate({"head": 0})]
    )
    optimizer.apply([keras.ops.ones(3)], [weight])
    expected = 8 - 0.25 * decay * 8
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), [expected] * 3)
    again = kg.AdamCore(
        0.25, weight_decay=decay or None, transforms=[kt.ScaleLearningRate({"head": 0})]
    )
    again.exclude_from_weight_decay(var_names=["head"])
    # with a variable that decays: on PyTorch Keras fails where none does
    other = keras.Variable(np.ones(3, "float32"), name="other")
    again.apply([keras.ops.ones(3)] * 2, [weight, other])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), [expected] * 3)


@pytest.mark.parametrize(
    "transform",
    [
        kt.Only(["c/kernel", "hed"], kt.Activate()),
        kt.ScaleLearningRate({"c": 1, "hed": 2}),
    ],
)
@pytest.mark.parametrize("make", [kg.AdamCore, keras.optimizers.Adam])
def test_a_pattern_that_fits_nothing_is_named(make, transform):
    optimizer = kg.Transformed(make(), [transform])
    variables = [
        keras.Variable(np.ones(2), name="kernel"),
        keras.Variable(np.ones(2), name="head"),
    ]
    variables[0]._path = "c/kernel"
    with pytest.raises(ValueError, match=r"'hed', which is in none of 2.*\['head"):
        optimizer.build(variables)
    assert not optimizer.built


@pytest.mark.parametrize("by", [0, 2, None])
@pytest.mark.parametrize("inner", ["adam", "core"])
def test_other_numbers_of_layers_choose_the_same(inner, by, tmp_path):
    """A loaded model's `dense` may be what was saved as `dense_1`."""
    factors = {"/dense_1/": 0.0, "/dense_2/": 0.5}
    transforms = [
        kt.Only("/dense_2/", kt.DifferenceFriction()),
        kt.ScaleLearningRate(factors),
    ]
    model = numbered(kg.Transformed(base(inner), transforms))
    before = np.array(model.first.kernel)
    fit(model)
    np.testing.assert_array_equal(model.first.kernel, before)  # the patterns act
    again = loaded_with_other_numbers(model, tmp_path / "m.keras", by)
    assert_goes_on_alike(model, again)


def test_a_config_for_another_model_is_told_of():
    optimizer = kg.AdamCore(transforms=[kt.ScaleLearningRate({"head": 0.1})])
    optimizer.build([keras.Variable(np.ones(2), name=name) for name in ("a", "head")])
    again = kg.AdamCore.from_config(optimizer.get_config())
    with pytest.warns(UserWarning, match="'head' chose variables when"):
        again.build([keras.Variable(np.ones(2), name=name) for name in ("a", "b")])


def test_one_transform_serves_two_models():
    transform = kt.ScaleLearningRate({"kernel": 0.5})
    one, other = (
        kg.AdamCore(transforms=[transform]),
        kg.AdamCore(transforms=[transform]),
    )
    for optimizer, path in ((one, "a/kernel"), (other, "b/kernel")):
        variable = keras.Variable(np.ones(2), name="kernel")
        variable._path = path
        optimizer.build([variable])
    assert "chosen" not in transform.get_config()
    for optimizer, path in ((one, "a/kernel"), (other, "b/kernel")):
        (config,) = optimizer.get_config()["transforms"]
        assert config["config"]["chosen"] == [[path, 0]]


def test_several_in_one_list_and_within_each_other():
    """Slots of two of a kind are told apart; what is in both patterns, is chosen."""
    friction = kt.DifferenceFriction()
    optimizer = kg.SGDCore(
        transforms=[
            kt.Only("a/", friction),
            kt.Only("c/", friction),
            kt.Only("c/", kt.Only("kernel", friction)),
        ]
    )
    model = built(sequential)
    optimizer.build(model.trainable_variables)
    names = [v.name for v in optimizer.variables[2:]]
    assert [n[n.index("difference") :] for n in names] == [
        *["difference_friction_previous_gradient"] * 2,
        *["difference_friction_2_previous_gradient"] * 2,
        "difference_friction_3_previous_gradient",
    ]
    again = kg.SGDCore.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert again.get_config() == optimizer.get_config()
    again.build(model.trainable_variables)
    assert [v.name for v in again.variables] == [v.name for v in optimizer.variables]
    assert repr(again.transforms) == repr(optimizer.transforms)
    assert "Only(['c/'], Only(['kernel'], DifferenceFriction()))" in repr(optimizer)


@pytest.mark.parametrize(
    "chosen", ["a", [1], [["a"]], [["a", 1]], [["a", -1]], [[1, 0]]]
)
def test_damaged_configs_are_refused(chosen):
    with pytest.raises(ValueError, match="chosen"):
        kt.ScaleLearningRate.from_config({"factors": {"a": 1.0}, "chosen": chosen})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kt.Only("(a+)+", kt.Activate()), "patterns"),
        (lambda: kt.Only([], kt.Activate()), "patterns.*at least one"),
        (lambda: kt.Only(3, kt.Activate()), "patterns.*3"),
        (lambda: kt.Only([3], kt.Activate()), "patterns.*3"),
        (lambda: kt.Only("a", kt.Activate), "transform"),
        (lambda: kt.ScaleLearningRate({}), "factors.*at least one"),
        (lambda: kt.ScaleLearningRate("a"), "factors.*'a'"),
        (lambda: kt.ScaleLearningRate({"a": -1}), r"factors\['a'\].*-1"),
        (lambda: kt.ScaleLearningRate({"(": 1}), "factors"),
        (lambda: kg.layerwise_decay(keras.Sequential(), 0.5), "model"),
        (lambda: kg.layerwise_decay(built(sequential), 0), "factor.*0"),
        (lambda: kg.layerwise_decay(built(sequential), 1.5), "factor.*1.5"),
        (lambda: kg.layerwise_decay("model", 0.5), "model.*'model'"),
        (lambda: kt.ClipAdaptively(0), "clipping.*0"),
        (lambda: kt.ClipAdaptively(epsilon=0), "epsilon.*0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", MODELS)
def test_layerwise_decay(make):
    model = built(make)
    factors = kg.layerwise_decay(model, 0.5)
    assert list(factors.values()) == [1.0, 0.5]  # from the head
    head, _ = factors
    assert [bool(re.search(head, v.path)) for v in model.trainable_variables] == [
        False,
        False,
        True,
        True,
    ]
    optimizer = kg.SGDCore(1.0, transforms=[kt.ScaleLearningRate(factors)])
    before = model.get_weights()
    optimizer.apply(
        [keras.ops.ones(v.shape) for v in model.trainable_variables],
        model.trainable_variables,
    )
    for i, (old, new) in enumerate(zip(before, model.get_weights())):
        np.testing.assert_allclose(old - new, 0.5 if i < 2 else 1.0, rtol=1e-6)
    model.get_layer("a").trainable = False
    assert list(kg.layerwise_decay(model, 0.5).values()) == [1.0]


def test_layers_with_layers_in_them_count_as_one():
    inputs = keras.Input((4, 3))
    attended = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(attended))
    factors = kg.layerwise_decay(model, 0.1)
    assert len(factors) == 2
    plan = kt.ScaleLearningRate(factors).plan(model.trainable_variables)
    assert plan == [pytest.approx(0.1)] * 8 + [1.0] * 2


def test_the_monitor_tells_of_the_chosen_variables():
    """What passes as it is, is not counted; the factor is seen."""
    model = built(Subclassed)
    rates = kt.ScaleLearningRate({"a/": 0.5, "c/kernel": 0.25})
    activation = kt.Only("c/", kt.Activate("tanh", 0.2, 10))
    model.compile(kg.SGDCore(0.1, transforms=[rates, activation]), "mse")
    monitor = kg.callbacks.GradientMonitor(1, "variable")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, x[:, :2], verbose=0, callbacks=[monitor])
    seen = {row["group"].split("/", 1)[-1]: row for row in monitor.records}
    factor, gain = "ScaleLearningRate.coefficient", "Activate.gain"
    assert seen["a/kernel"][factor] == 0.5 and gain not in seen["a/kernel"]
    assert seen["inner/c/kernel"][factor] == 0.25 or seen["c/kernel"][factor] == 0.25
    biases = [row for path, row in seen.items() if path.endswith("c/bias")]
    assert factor not in biases[0] and biases[0][gain] != 1
    assert monitor.alive


def test_layers_of_one_path_have_no_factors_of_their_own():
    """Two towers made by one function: paths cannot tell them apart."""

    def tower(size):
        x = inputs = keras.Input((size,))
        x = keras.layers.Dense(3, name="in")(x)
        return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))

    x = inputs = keras.Input((4,))
    x = tower(2)(tower(4)(x))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(x))
    paths = [variable.path for variable in model.trainable_variables]
    if len({*paths}) == len(paths):
        assert len(kg.layerwise_decay(model, 0.5)) == 5
        return
    with pytest.raises(ValueError, match="two layers whose variables fit"):
        kg.layerwise_decay(model, 0.5)
