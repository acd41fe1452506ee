"""`inspect`: slots and bytes, counted here a second time."""

import functools

import keras
import numpy as np
import pytest

import keras_gradopt

pytestmark = pytest.mark.quick


def printed(optimizer):
    lines = []
    keras_gradopt.inspect(optimizer, lines.append)
    return lines


def built(optimizer, dtype="float32"):
    variables = [
        keras.Variable(np.zeros((3, 4)), dtype=dtype, name="kernel"),
        keras.Variable(np.zeros(4), dtype=dtype, name="bias"),
    ]
    optimizer.build(variables)
    return optimizer


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("AdamCore", {"momentum": 16, "velocity": 16}),
        (
            "AdamNorm",
            {"momentum": 16, "velocity": 16, "correct_norm_norm_average": 2},
        ),
        (
            "AngularGrad",
            {
                "momentum": 16,
                "velocity": 16,
                "angular_friction_previous_gradient": 16,
                "angular_friction_previous_ratio": 16,
            },
        ),
        ("GAFSGD", {"momentum": 16}),
    ],
)
def test_slots_and_bytes(name, slots):
    first, header, *rows, total = printed(built(getattr(keras_gradopt, name)()))
    assert first.startswith(f"<{name}: gradient -> ")
    assert header.split() == ["slot", "tensors", "entries", "dtype", "bytes"]
    found = {row.split()[0]: int(row.split()[2]) for row in rows}
    assert found == slots
    size = 4 * sum(slots.values())
    assert total == (
        f"total: {size} B, {size / 16:.1f} bytes for each of 16 parameters"
    )


def test_dtypes_and_wrappers():
    """Half precision, a bfloat16 history, and Keras' optimizers in a Transformed."""
    rows = printed(built(keras_gradopt.AngularGrad(history_dtype="bfloat16")))[2:]
    assert [row.split()[3] for row in rows[:-1]] == ["float32"] * 2 + ["bfloat16"] * 2
    assert rows[-1].startswith("total: 192 B, 12.0 bytes")
    rows = printed(built(keras_gradopt.AdamCore(), "float16"))
    assert rows[-1].startswith("total: 64 B, 4.0 bytes")
    whiten = keras_gradopt.transforms.AngularFriction()
    optimizer = keras_gradopt.Transformed(keras.optimizers.Lion(), [whiten])
    rows = printed(built(optimizer))
    assert "AngularFriction" in rows[0] and "Lion" in rows[0]
    assert rows[-1].startswith("total: 192 B, 12.0 bytes")
    rows = printed(built(keras.optimizers.SGD(0.1)))
    assert rows[0].startswith("<SGD: gradient -> SGD(learning_rate=0.1")
    assert rows[-1].startswith("total: 0 B")


def test_settings_of_wrappers_can_be_read():
    """Nested optimizers, lists of transforms, excluded names: as they were written."""
    inner = keras_gradopt.AdamCore(weight_decay=0.01)
    inner.exclude_from_weight_decay(var_names=["bias"])
    (line, _) = printed(keras.optimizers.LossScaleOptimizer(inner))
    assert "inner_optimizer=AdamCore(learning_rate=0.001, weight_decay=0.01" in line
    assert "bias" in line and "class_name" not in line
    transformed = keras_gradopt.Transformed(
        inner, [keras_gradopt.transforms.CorrectNorm()]
    )
    transformed.build([keras.Variable(np.ones(2), name="of_the_model")])
    assert "bias" in repr(transformed) and "of_the_model" not in repr(transformed)
    (line, _) = printed(keras.optimizers.LossScaleOptimizer(transformed))
    assert "transforms=[CorrectNorm(gamma=0.95)]" in line
    if hasattr(keras.optimizers, "MultiOptimizer"):
        optimizers = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
        optimizers[".*dense.*"] = keras_gradopt.AngularGrad()
        (line, _) = printed(keras.optimizers.MultiOptimizer(optimizers))
        assert "SGD(learning_rate=0.1" in line and "AngularGrad(" in line
        assert "class_name" not in line


def test_not_built_and_not_an_optimizer():
    assert printed(keras_gradopt.AngularGrad())[1:] == ["not built yet: no slots"]
    with pytest.raises(ValueError, match=r"optimizer.*'adam'"):
        keras_gradopt.inspect("adam")


class Silent(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that cannot be saved, as users write them."""

    def __call__(self, step):
        return 0.1


@pytest.mark.parametrize("rate", [Silent, lambda: functools.partial(float, 0.1)])
def test_repr_of_what_cannot_be_saved(rate):
    assert "learning_rate=<callable>" in repr(keras_gradopt.AngularGrad(rate()))
    inner = keras.optimizers.SGD(rate())
    assert "SGD(" in repr(keras_gradopt.Transformed(inner, []))
