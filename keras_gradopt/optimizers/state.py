"""Saved state that does not fit raises, wherever it comes from.

Keras' own optimizers warn, or say nothing, and go on with empty slots.
"""

import functools
import json
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import keras
from keras import ops

# what an optimizer has before it is built
_UNBUILT = ("iteration", "learning_rate")


def load_state(optimizer: keras.optimizers.Optimizer, store: Mapping[str, Any]) -> None:
    """Assigns saved state to a built optimizer's variables.

    The state of an optimizer that was saved before it was built has no slots; it
    fits when no step was taken either.

    Raises:
        ValueError: if number or shapes of the saved variables differ. Nothing is
            assigned then.
    """
    variables = optimizer.variables
    keys = sorted(store.keys(), key=int)
    saved = [tuple(store[key].shape) for key in keys]
    if _slots_begin(variables) == len(saved) and _is_zero(store, keys):
        variables = variables[: len(saved)]
    else:
        compare(optimizer, saved)
    for key, variable in zip(keys, variables):
        variable.assign(store[key])


def _is_zero(store, keys):
    return bool(keys) and float(ops.convert_to_numpy(store[keys[0]])) == 0


def _slots_begin(variables):
    return sum(variable.name in _UNBUILT for variable in variables)


def compare(optimizer: Any, saved: list[tuple[int, ...]]) -> None:
    """Raises `ValueError` if saved shapes are not those of the optimizer's variables.

    Args:
        optimizer: the optimizer, built.
        saved: shapes of the saved variables, in order.
    """
    variables = optimizer.variables
    problems = []
    for position, (variable, shape) in enumerate(zip_longest(variables, saved)):
        if variable is None:
            problems.append(f"saved number {position} {shape}: nothing here")
        elif shape != tuple(variable.shape):
            saved_shape = "nothing" if shape is None else shape
            here = tuple(variable.shape)
            problems.append(f"{variable.path}: here {here}, saved {saved_shape}")
    if not problems:
        return
    shown = "\n  ".join(problems[:8])
    more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
    raise ValueError(
        f"The saved state is not of this optimizer, {type(optimizer).__name__}. It "
        f"has {len(saved)} variables, this one {len(variables)}. Differences:"
        f"\n  {shown}{more}\nTo use the weights of the model alone, load them "
        "before `compile`."
    )


class CheckpointGuard:
    """Puts the shapes of an optimizer's variables into its TensorFlow checkpoints.

    `tf.train.Checkpoint` itself restores what has a counterpart and is silent about
    the rest. Restored before the optimizer is built, the shapes are compared when it
    is.

    Args:
        optimizer: the optimizer that a checkpoint tracks.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._saved: dict[str, Any] | None = None
        if keras.backend.backend() == "tensorflow":
            optimizer._checkpointed_layout = _python_state()(self)

    def layout(self) -> dict[str, Any]:
        """What a checkpoint must have to fit; no shapes if the optimizer is unbuilt."""
        optimizer = self._optimizer
        variables = optimizer.variables if optimizer.built else []
        return {
            "class": type(optimizer).__name__,
            "wrapped": hasattr(optimizer, "inner_optimizer"),
            "shapes": [tuple(variable.shape) for variable in variables],
        }

    def restored(self, layout: dict[str, Any]) -> None:
        """Takes what `layout` returned when the checkpoint was written."""
        self._saved = layout
        if self._optimizer.built:
            self.check()

    def check(self) -> None:
        """Raises `ValueError` if a restored checkpoint does not fit."""
        saved, self._saved = self._saved, None
        if not saved or not saved["shapes"]:
            return
        here = self.layout()
        if saved["wrapped"] != here["wrapped"]:
            raise ValueError(
                f"The checkpoint is of {saved['class']}, this optimizer is "
                f"{here['class']}, whose checkpoints keep the variables elsewhere."
            )
        compare(self._optimizer, [tuple(shape) for shape in saved["shapes"]])


@functools.cache
def _python_state() -> type:
    import tensorflow as tf

    class Layout(tf.train.experimental.PythonState):
        def __init__(self, guard):
            self._guard = guard

        def serialize(self):
            return json.dumps(self._guard.layout())

        def deserialize(self, string_value):
            self._guard.restored(json.loads(string_value))

    return Layout
