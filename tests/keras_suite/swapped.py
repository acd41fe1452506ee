"""Our optimizers under the names and defaults that Keras' own tests expect.

`stand_ins(sgd, adam)` gives a module with `SGD`, `Adam` and `AdamW`. Keras' tests
compare `SGD` with numbers, so its stand-in has the settings with which ours is plain
SGD, and no momentum unless asked. `Adam` is only asked for its behaviour; its steps
must be visible, so it learns faster than by default.
"""

import types

import keras

import keras_gradopt as kg
from keras_gradopt.transforms import AngularFriction, DifferenceFriction

UNCHANGED = {"lambda_1": 0, "lambda_2": 1}  # an angular friction of 1
LINEAR = {"alpha": 1e6, "beta": 1e-6}  # an activation that hardly bends


def _subclass(name, parent, learning_rate, **defaults):
    def __init__(self, learning_rate=learning_rate, **keywords):
        parent.__init__(self, learning_rate, **{**defaults, **keywords})

    return type(name, (parent,), {"__init__": __init__})


def _transformed(name, parent, transform, **defaults):
    def __init__(self, inner_optimizer=None, transforms=None, **keywords):
        """Called by the tests as `parent`, and by `from_config`."""
        if transforms is None:
            keywords = {**defaults, **keywords}
            if inner_optimizer is not None:
                keywords["learning_rate"] = inner_optimizer
            inner_optimizer, transforms = parent(**keywords), [transform]
        kg.Transformed.__init__(self, inner_optimizer, transforms)

    def from_config(cls, config, custom_objects=None):
        # by name alone, `keras.optimizers.get` gives an empty config
        parent = super(new, cls)
        return parent.from_config(config, custom_objects) if config else cls()

    members = {"__init__": __init__, "from_config": classmethod(from_config)}
    new = type(name, (kg.Transformed,), members)
    return new


def _sgd(name):
    if name == "Transformed SGD":
        sgd = keras.optimizers.SGD
        return _transformed("SGD", sgd, AngularFriction(**UNCHANGED))
    keywords = {"momentum": 0.0, **(LINEAR if name == "GAFSGD" else {})}
    return _subclass("SGD", getattr(kg, name), 0.01, **keywords)


def _adam(name, called):
    if name == "Transformed Adam":
        parent = getattr(keras.optimizers, called)
        return _transformed(called, parent, DifferenceFriction(), learning_rate=0.1)
    return _subclass(called, getattr(kg, name), 0.1)


SGD = ["WGDSGD", "GAFSGD", "Transformed SGD"]
OTHERS = {"AdamCore", "Transformed", *SGD}
ADAM = [*(n for n in kg.optimizers.__all__ if n not in OTHERS), "Transformed Adam"]


def stand_ins(sgd, adam):
    """A module with the stand-ins of these names, registered as `swapped_...>SGD`."""
    classes = {"SGD": _sgd(sgd), **{n: _adam(adam, n) for n in ("Adam", "AdamW")}}
    package = f"swapped_{sgd}_{adam}"
    register = keras.saving.register_keras_serializable(package)
    return types.SimpleNamespace(
        package=package, **{name: register(cls) for name, cls in classes.items()}
    )
