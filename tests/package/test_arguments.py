"""Every wrong argument is refused at construction, by name, with the value."""

import inspect
import json

import keras
import numpy as np
import pytest
from table import ALL, OPTIMIZERS

import keras_gradopt as kg
from keras_gradopt import arguments
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.backend_independent, pytest.mark.oldest, pytest.mark.quick]

NAN = float("nan")
BASE = {  # argument -> wrong values
    "learning_rate": ["fast", -0.1, NAN, float("inf"), None],
    "weight_decay": [-1, "0.1", NAN],
    "clipnorm": [0, -1.0, "1"],
    "clipvalue": [0, -1.0],
    "global_clipnorm": [0, -1.0],
    "use_ema": [1, "yes", None],
    "ema_momentum": [-0.1, 1.5, None],
    "ema_overwrite_frequency": [0, 1.5, True],
    "loss_scale_factor": [0, -8],
    "gradient_accumulation_steps": [1, 2.5, "2"],
    "name": [3],
}
OWN = {
    "beta_1": [-0.1, 1, 1.5, "0.9", True, NAN, None],
    "beta_2": [-0.1, 1, "0.9"],
    "epsilon": [0, -1e-8, NAN, None],
    "momentum": [-0.1, 1.1, "0.9"],
    "nesterov": [1, "yes"],
    "angle": ["sin", None, 3],
    "lambda_1": [-1, "1"],
    "lambda_2": [-1, NAN],
    "gamma": [-0.1, "1", NAN],
    "corrected_moments": ["third", None],
    "rho_threshold": [3.9, "5"],
    "activation": ["relu", None],
    "alpha": [0, -0.1, NAN],
    "beta": [0, -20],
    "learning_rate_inside": [1, None],
    "mean_over": ["rows", None],
    "history_dtype": ["float16", "float8", 16],
}


def wrong_arguments(cls, keywords):
    for argument in [*inspect.signature(cls).parameters, *keywords]:
        for value in {**OWN, **keywords}.get(argument, []):
            yield argument, value


OPTIMIZER_CASES = [
    (row.make, argument, value)
    for row in OPTIMIZERS.values()
    for argument, value in wrong_arguments(row.make, BASE)
]
TRANSFORMS = [
    kt.Whiten,
    kt.Activate,
    kt.ScaleByL1Norm,
    kt.CorrectNorm,
    kt.DifferenceFriction,
    kt.AngularFriction,
]
TRANSFORM_CASES = [
    (cls, argument, value)
    for cls in TRANSFORMS
    for argument, value in wrong_arguments(cls, {})
]


@pytest.mark.parametrize(
    ("cls", "argument", "value"), OPTIMIZER_CASES + TRANSFORM_CASES
)
def test_wrong_value_is_refused(cls, argument, value):
    with pytest.raises(ValueError) as error:
        cls(**{argument: value})
    message = str(error.value)
    assert argument in message
    assert repr(value) in message
    assert "must be" in message


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_argument_is_tried(name):
    own = set(inspect.signature(OPTIMIZERS[name].make).parameters) - {"keywords"}
    assert own <= {*OWN, *BASE}
    assert set(arguments.OptimizerKeywords.__annotations__) == set(BASE) - {
        "learning_rate"
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unknown_argument_is_named(name):
    with pytest.raises(
        ValueError, match=r"Unknown argument `wieght_decay`.*`weight_decay`"
    ):
        OPTIMIZERS[name].make(wieght_decay=0.1)


def test_own_arguments_are_suggested():
    with pytest.raises(ValueError, match=r"`lamda_1`.*Did you mean `lambda_1`"):
        kg.AngularGrad(lamda_1=0.5)


def test_two_ways_of_clipping_are_refused():
    with pytest.raises(ValueError, match="Only one of `clipnorm`"):
        kg.AdaL(clipnorm=1.0, clipvalue=1.0)


def test_both_angular_weights_zero_is_refused():
    with pytest.raises(ValueError, match="lambda_2"):
        kt.AngularFriction(lambda_1=0, lambda_2=0)


SGD = keras.optimizers.SGD


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("sgd", "'sgd'"),
        (SGD, r"call SGD\(...\)"),
        (None, "None"),
        (kt.Whiten(), "Whiten"),
        (keras.layers.Dense(1), "Dense"),
        (lambda: kg.Transformed(SGD(), []), "in one list"),
        (lambda: kg.Transformed(SGD(), [kt.Activate()]).inner_optimizer, "in one list"),
        (lambda: keras.optimizers.LossScaleOptimizer(SGD()), "LossScaleOptimizer"),
        pytest.param(
            lambda: keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(default_optimizer=SGD())
            ),
            "MultiOptimizer",
            marks=pytest.mark.skipif(
                not hasattr(keras.optimizers, "MultiOptimizer"),
                reason="new in Keras 3.15",
            ),
        ),
    ],
)
def test_no_optimizer_is_refused_by_name(inner, says):
    if inspect.isfunction(inner):
        inner = inner()
    with pytest.raises(ValueError, match=says) as error:
        kg.Transformed(inner, [kt.Whiten()])
    assert "inner_optimizer" in str(error.value)


@pytest.mark.parametrize(
    "transforms", [kt.Whiten(), [kt.Whiten], ["whiten"], [None], None, [SGD()]]
)
def test_no_transform_is_refused_by_name(transforms):
    with pytest.raises(ValueError, match="`transforms` must be a list of"):
        kg.Transformed(SGD(), transforms)


def test_built_optimizer_is_refused():
    inner = SGD()
    inner.build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match="not yet built"):
        kg.Transformed(inner, [])


def test_numpy_numbers_are_numbers():
    optimizer = kg.AngularGrad(np.float32(0.5), beta_1=np.float64(0.8), lambda_1=1)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config["learning_rate"] == 0.5
    assert config["beta_1"] == 0.8
    assert config["lambda_1"] == 1.0


KEYWORDS = {
    "weight_decay": 0.01,
    "clipnorm": 0.5,
    "use_ema": True,
    "ema_momentum": 0.9,
    "ema_overwrite_frequency": 7,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 3,
    "name": "mine",
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_holds_every_argument(name):
    row = OPTIMIZERS[name]
    keywords = {**KEYWORDS}
    for variation in row.variations:
        keywords.update(variation)
    keywords["learning_rate"] = 0.25
    config = json.loads(json.dumps(row.make(**keywords).get_config()))
    assert {k: config[k] for k in keywords} == keywords
    assert row.make.from_config(dict(config)).get_config() == config
    own = set(inspect.signature(row.make).parameters) - {"keywords"}
    assert own <= set(config)


@pytest.mark.parametrize("name", ALL)
def test_serialized_optimizer_is_the_same(name):
    optimizer = ALL[name]()
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert repr(again) == repr(optimizer)


@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_compile_by_name(name):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=f"keras_gradopt>{name}", loss="mse")
    assert type(model.optimizer) is getattr(kg, name)


def test_schedule_and_callable_survive_a_reload():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    for optimizer in (
        kg.AngularGrad(schedule),
        kg.Transformed(keras.optimizers.Adam(schedule), [kt.Activate()]),
    ):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        again.iterations.assign(50)
        assert float(again.learning_rate) == pytest.approx(0.05, rel=1e-4)
    assert float(kg.AdaL(lambda: 0.125).learning_rate) == 0.125


def test_repr_shows_the_pipeline_in_order():
    text = repr(
        kg.Transformed(
            keras.optimizers.Lion(1e-4, clipnorm=1.0),
            [kt.Whiten("entries"), kt.AngularFriction("tan")],
        )
    )
    parts = ["gradient", "Whiten(mean_over='entries')", "AngularFriction(angle='tan'"]
    parts += ["Lion(learning_rate=0.0001", "clipnorm=1.0"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "the first moment of Adam" in repr(kg.AdamNorm())
    assert repr(kg.DiffGradNorm()).index("Friction") < repr(kg.DiffGradNorm()).index(
        "CorrectNorm"
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    text = repr(kg.AngularGrad(schedule, epsilon=1e-12))
    assert "CosineDecay(initial_learning_rate=0.1, decay_steps=100" in text
    assert "epsilon=1e-12" in text
    assert "learning_rate=<callable>" in repr(kg.AdaL(lambda: 0.1))
    assert "learning rate outside" in repr(kg.GAFSGD(learning_rate_inside=False))


def test_settings_of_the_inner_optimizer_read_and_write_through():
    inner = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    optimizer = kg.Transformed(inner, [kt.Activate()], name="mine")
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 0.01)
    assert optimizer.name == inner.name == "mine"
    optimizer.learning_rate = 0.5
    assert float(inner.learning_rate) == 0.5
    optimizer.loss_scale_factor = 4.0
    assert inner.loss_scale_factor == 4.0
    optimizer.apply([keras.ops.ones(1)], [keras.Variable([1.0])])
    assert int(optimizer.iterations) == int(inner.iterations) == 1
    assert optimizer.variables == inner.variables
    with pytest.raises(AttributeError):
        _ = optimizer.no_such_setting
