"""What the newcomer's scenarios share: optimizers, kinds of model, data, going on.

Each scenario is tried with Keras' own Adam too, as the control: what fails there as
well is Keras' limit or a fault of the scenario, not of ours.
"""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from table import ALL
from trajectories import BACKEND, numpy_values

CONTROL = "Adam"
CHOSEN = ["AngularGrad", "Transformed Adam"]  # of ours, on every backend
MAKE = {CONTROL: keras.optimizers.Adam, **ALL}
every_arm = pytest.mark.parametrize("name", [CONTROL, CHOSEN[0]])
ours = pytest.mark.parametrize("name", CHOSEN)


def on(*backends, why):
    """Skips a scenario on the backends where there is no such thing."""
    return pytest.mark.skipif(BACKEND not in backends, reason=why)


tensorflow_only = on("tensorflow", why="TensorFlow's own")


def stack(units=3):
    """Layers of which several have kernels of one shape, so that a mix-up shows."""
    return [
        layers.Conv2D(4, 3, padding="same", activation="relu", name="a"),
        layers.Conv2D(4, 3, padding="same", activation="relu", name="b"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(4, activation="relu", name="c"),
        layers.Dense(4, activation="relu", name="d"),
        layers.Dense(units, activation="softmax", name="head"),
    ]


SHAPE = (6, 6, 4)
WITH_WEIGHTS = ["a", "b", "c", "d", "head"]


def sequential(**keywords):
    return keras.Sequential([keras.Input(SHAPE), *stack(**keywords)])


def functional(**keywords):
    inputs = x = keras.Input(SHAPE)
    for layer in stack(**keywords):
        x = layer(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("newcomer")
class Subclassed(keras.Model):
    def __init__(self, units=3, **keywords):
        super().__init__(**keywords)
        self.units = units
        self.stack = stack(units)

    def call(self, x, training=None):
        for layer in self.stack:
            x = layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed(**keywords):
    model = Subclassed(**keywords)
    model(np.zeros((1, *SHAPE), "float32"))
    return model


KINDS = {
    "sequential": sequential,
    "functional": functional,
    "subclassed": subclassed,
}
# the control on each kind of model, ours in turns
BY_KIND = {
    "sequential": [CONTROL, "AngularGrad"],
    "functional": [CONTROL, "AdamNorm"],
    "subclassed": [CONTROL, "Transformed Adam"],
}
every_kind = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for kind in KINDS for name in BY_KIND[kind]]
)


def layer(model, name):
    return next(found for found in model.layers if found.name == name)


def data(examples=32):
    random = np.random.default_rng(0)
    labels = np.arange(examples) % 3
    images = random.normal(size=(examples, *SHAPE)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def compiled(model, name, **keywords):
    """The model, compiled with the optimizer of this name."""
    optimizer = MAKE[name](**keywords)
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    return model


def fit(model, epochs=1, **keywords):
    x, y = data()
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0, **keywords}
    return model.fit(x, y, epochs=epochs, **settings).history["loss"]


def trained(kind, name, **keywords):
    model = compiled(KINDS[kind](), name, **keywords)
    fit(model)
    return model


def steps_on(model, only=None, steps=3):
    """Steps of the model's optimizer on gradients that the weights' names decide.

    So two models whose trainable weights differ take the same steps with those that
    both have (`only`), however these are ordered, and are compared bit by bit.
    Gradients are large at first, so that a state that is lost or mixed up shows.
    """
    weights = [
        w for w in model.trainable_variables if not only or short(w.path) in only
    ]
    for step in range(steps):
        grads = [ops.convert_to_tensor(_gradient(weight, step)) for weight in weights]
        model.optimizer.apply(grads, weights)


def _gradient(weight, step):
    seed = [*short(weight.path).encode(), step]
    values = np.random.default_rng(seed).normal(size=weight.shape)
    return (values / (1 + 9 * step)).astype(weight.dtype)


def short(path):
    """A weight's path without the model's own name, which differs when reloaded."""
    return "/".join(path.split("/")[-2:])


def weights_of(model):
    """{short path: value} of the trainable weights."""
    weights = model.trainable_variables
    return dict(zip((short(w.path) for w in weights), numpy_values(weights)))


def assert_same(ours, theirs, only=None):
    """Bit by bit, all that `only` names (all, by default)."""
    assert ours.keys() == theirs.keys() or only
    for key in only or ours:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def assert_goes_on(name, reloaded, never_stopped, only):
    """The next steps are those of the model that was never stopped, bit by bit.

    Keras' own optimizers start again from nothing: the control only has to run.
    """
    for model in (reloaded, never_stopped):
        steps_on(model, only)
    if name != CONTROL:
        assert_same(weights_of(reloaded), weights_of(never_stopped), only)
        assert int(reloaded.optimizer.iterations) == int(
            never_stopped.optimizer.iterations
        )


def of(*names):
    """The short paths of the weights of these layers."""
    return [f"{name}/{weight}" for name in names for weight in ("kernel", "bias")]


@contextlib.contextmanager
def warnings_about_state():
    """Collects the warnings about state, ours or Keras'; others are let go."""
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found += [
        str(w.message)
        for w in caught
        if issubclass(w.category, UserWarning)
        and any(word in str(w.message) for word in ("optimizer", "state", "saved"))
        and "changes nothing here" not in str(w.message)
    ]


def assert_one_warning(name, found, *names):
    """One warning, which names all of these (parts of) names; Keras' is another."""
    assert len(found) == 1, found
    if name != CONTROL:
        for part in names:
            assert part in found[0], found[0]


def reload(model, folder):
    """The model, saved and loaded; and what was said of its state."""
    path = folder / "model.keras"
    model.save(path)
    with warnings_about_state() as found:
        again = keras.saving.load_model(path)
    return again, found


def state(model):
    """All of a model's and its optimizer's values, in order."""
    return numpy_values([*model.variables, *model.optimizer.variables])


def assert_states_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def custom_step(model, optimizer, loss_function):
    """A training step as the documentation of each backend writes it."""
    return {"tensorflow": _tape, "jax": _stateless, "torch": _backward}[BACKEND](
        model, optimizer, loss_function
    )


def _tape(model, optimizer, loss_function):
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def _stateless(model, optimizer, loss_function):
    import jax

    optimizer.build(model.trainable_variables)

    def loss_of(trainable, other, x, y):
        predictions, other = model.stateless_call(trainable, other, x, training=True)
        return loss_function(y, predictions), other

    @jax.jit
    def update(trainable, other, state, x, y):
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, other), gradients = gradient_of(trainable, other, x, y)
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        return loss, trainable, other, state

    def step(x, y):
        groups = [
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        ]
        values = [[v.value for v in group] for group in groups]
        loss, *values = update(*values, x, y)
        for group, new in zip(groups, values):
            for variable, value in zip(group, new):
                variable.assign(value)
        return loss

    return step


def _backward(model, optimizer, loss_function):
    import torch

    def step(x, y):
        model.zero_grad()
        loss = loss_function(ops.convert_to_tensor(y), model(x, training=True))
        loss.backward()
        with torch.no_grad():
            weights = model.trainable_variables
            optimizer.apply([w.value.grad for w in weights], weights)
        return loss.detach()

    return step
