"""Checks of an optimizer's state: saved, loaded, of which variable it is."""

import json
import warnings
from typing import Any

import keras
import numpy as np

from keras_gradopt.testing import bench
from keras_gradopt.testing.bench import Bench
from keras_gradopt.testing.registry import check, expect

SETTINGS: dict[str, Any] = {
    "weight_decay": 0.25,
    "clipnorm": 0.75,
    "use_ema": True,
    "ema_momentum": 0.625,
    "ema_overwrite_frequency": 5,
    "loss_scale_factor": 2.0,
    "gradient_accumulation_steps": 2,
}


@check(
    "Its config, by way of JSON, makes the same optimizer, with all settings of Keras."
)
def config(b: Bench) -> str:
    optimizer = b.make()
    first = json.dumps(keras.optimizers.serialize(optimizer), sort_keys=True)
    again = b.reloaded(optimizer)
    second = json.dumps(keras.optimizers.serialize(again), sort_keys=True)
    expect(first == second, f"config {second} instead of {first}")
    streams = bench.gradients(3)
    same = bench.same_bits(b.walk(again, streams), b.walk(optimizer, streams))
    expect(same, "steps differ after a reload of its config")
    again = b.reloaded(b.optimizer(**SETTINGS))
    lost = [
        f"{name}={getattr(again, name, None)} instead of {value}"
        for name, value in SETTINGS.items()
        if getattr(again, name, None) != value
    ]
    return expect(
        not lost,
        f"{len(SETTINGS) - len(lost)} of {len(SETTINGS)} settings kept"
        + (f"; {', '.join(lost)}" if lost else ", same steps bit by bit"),
    )


@check("A .keras file has all its variables, bit by bit.")
def saved_variables(b: Bench) -> str:
    model = _stepped_model(b)
    again = b.through_file(model)
    ours, theirs = again.optimizer.variables, model.optimizer.variables
    expect(len(ours) == len(theirs), f"{len(ours)} variables instead of {len(theirs)}")
    wrong = [
        new.path
        for old, new in zip(theirs, ours)
        if not bench.same_bits(bench.numpy_values([old]), bench.numpy_values([new]))
    ]
    return expect(
        not wrong,
        f"{len(ours) - len(wrong)} of {len(ours)} variables came back bit by bit"
        + (f", not {', '.join(wrong)}" if wrong else ""),
    )


def _stepped_model(b: Bench) -> keras.Model:
    """A model whose optimizer made three steps."""
    model = bench.new_model()
    model.compile(b.make(), loss="mse")
    step = bench.stepper(model.optimizer, model.trainable_variables)
    for grads in zip(*bench.gradients(3)):
        step([bench.to_tensor(g, "float32") for g in grads])
    return model


def _store(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    store: dict[str, Any] = {}
    optimizer.save_own_variables(store)
    return store


def _said(optimizer: keras.optimizers.Optimizer, store: dict[str, Any]) -> str:
    """How it takes a state: the error or warning; nothing if it is silent."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            optimizer.load_own_variables(store)
        except Exception as error:
            return f"{type(error).__name__}"
    return ", ".join(dict.fromkeys(w.category.__name__ for w in found))


@check("State of other variables raises or warns.")
def mismatched_state(b: Bench) -> str:
    def stepped(only: list[int]) -> keras.optimizers.Optimizer:
        optimizer = b.make()
        b.walk(optimizer, bench.gradients(2), only=only)
        return optimizer

    store, seen = _store(stepped([0, 1])), []
    if len(_store(stepped([0]))) == len(store):
        return "it has no state of variables"
    for what, only in {"fewer": [0], "more": [0, 1, 2]}.items():
        said = _said(stepped(only), store)
        seen.append(f"{what} variables: {said or 'silence'}")
    return expect("silence" not in " ".join(seen), "; ".join(seen))


class Foreign(keras.optimizers.Optimizer):
    """Another optimizer with the same number and shapes of slots, all of them 1."""

    def __init__(self, model: keras.optimizers.Optimizer) -> None:
        super().__init__(learning_rate=7.0)
        self._like = tuple(  # no variables, which Keras would take for its own
            (tuple(v.shape), v.dtype)
            for v in model.variables
            if v.name not in ("iteration", "learning_rate")
        )

    def build(self, variables: list[Any]) -> None:
        super().build(variables)
        for shape, dtype in self._like:
            self.add_variable(shape, "ones", dtype, name="foreign")


@check(
    "State of another optimizer raises or warns, though number and shapes agree.",
    keras_fault="state-of-another-optimizer-is-taken-if-its-shapes-agree",
)
def foreign_state(b: Bench) -> str:
    optimizer = b.make()
    variables = b.variables()
    optimizer.build(variables)
    foreign = Foreign(optimizer)
    foreign.build(variables)
    count = len(optimizer.variables)
    expect(len(foreign.variables) == count, "its variables are not all of Keras")
    said = _said(optimizer, _store(foreign))
    return expect(said, f"{count} variables of another class: {said or 'silence'}")


@check("A variable's steps do not depend on the other variables.")
def variables_do_not_mix(b: Bench) -> str:
    streams = bench.gradients(4)
    together = b.walk(b.make(), streams)
    b.expect_moved(together)
    alone = [b.walk(b.make(), streams, only=[i])[0] for i in range(len(streams))]
    return b.expect_same(alone, together, "each alone from all together", rtol=1e-5)


@check("Variables without a gradient stay as they are, and so do their slots.")
def frozen_variables(b: Bench) -> str:
    optimizer = b.make()
    b.walk(optimizer, bench.gradients(2))
    variables = b.variables()

    def changed(indices: list[int]) -> tuple[set[int], set[int]]:
        """Which variables, and which slots, one step with these gradients changes."""
        every = [*variables, *optimizer.variables]
        before = bench.numpy_values(every)
        grads = [bench.to_tensor(g[-1], "float32") for g in bench.gradients(3)]
        optimizer.apply([grads[i] for i in indices], [variables[i] for i in indices])
        moved = {
            i
            for i, (old, new) in enumerate(zip(before, bench.numpy_values(every)))
            if not bench.same_bits([old], [new]) and np.ndim(new)
        }
        count = len(variables)
        return {i for i in moved if i < count}, {i for i in moved if i >= count}

    first, its_slots = changed([0])
    others, their_slots = changed([1, 2, 3])
    right = first == {0} and others == {1, 2, 3}
    expect(right, f"with gradients of variable 0 {first} moved, of 1, 2, 3 {others}")
    both = its_slots & their_slots
    paths = [optimizer.variables[i - len(variables)].path for i in both]
    return expect(
        not both,
        f"slots: {len(its_slots)} and {len(their_slots)} changed, "
        + (f"both times {', '.join(paths)}" if both else "none both times"),
    )


@check("A variable that it was not built with is an error.")
def unknown_variable(b: Bench) -> str:
    optimizer = b.make()
    b.walk(optimizer, bench.gradients(1))
    stranger = keras.Variable(np.ones(3, "float32"))
    try:
        optimizer.apply([bench.to_tensor(np.ones(3), "float32")], [stranger])
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    return expect(False, "it was taken silently")
