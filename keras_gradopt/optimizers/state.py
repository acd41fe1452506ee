"""The state of an optimizer, saved and restored by name.

The file says whose state it is, and of each number in it which variable of the model
it belongs to and what it means. Keras' own optimizers know positions only: after a
layer was frozen they warn and forget everything, and they take the state of any
optimizer that has as many variables.
"""

import functools
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.paths import matching

_KEY = "layout"  # of the description among the numbered variables of a file
_ADVICE = (
    "To use the weights of the model alone, load them before `compile`, or load the "
    "file with `keras.saving.load_model(path, compile=False)`, and then compile the "
    "model with a new optimizer."
)


def label(variable: Any) -> str:
    """What the names of a variable's slots begin with, as Keras makes it."""
    path = getattr(variable, "path", None)
    return (path or str(variable.name).replace(":", "_")).replace("/", "_")


@dataclass
class Layout:
    """What the variables of an optimizer are.

    Attributes:
        optimizer: its class, and for a `Transformed` that of its inner optimizer.
        paths: of the model's variables; none if the optimizer is not built.
        trainable: whether each of these variables still was trainable.
        slots: for each variable of the optimizer the position in `paths` of the
            variable that it belongs to, or -1, and what it means.
        shapes: of the optimizer's variables.
    """

    optimizer: str
    paths: list[str]
    trainable: list[bool]
    slots: list[tuple[int, str]]
    shapes: list[tuple[int, ...]]

    @classmethod
    def of(cls, optimizer: Any, variables: Sequence[Any]) -> "Layout":
        """The layout of an optimizer that was built on these variables."""
        owners: dict[str, list[int]] = {}
        for position, variable in enumerate(variables):
            owners.setdefault(label(variable), []).append(position)
        seen: Counter[str] = Counter()
        slots = []
        for variable in optimizer.variables:
            name = variable.name
            ends = [i for i, letter in enumerate(name) if letter == "_"]
            end = next((i for i in reversed(ends) if name[:i] in owners), None)
            if end is None:
                slots.append((-1, name))
                continue
            # the same name again: of the next variable with this label, or, after all
            # of them, of a second transform
            of_label = owners[name[:end]]
            again, turn = divmod(seen[name], len(of_label))
            seen[name] += 1
            meaning = name[end + 1 :] + (f"_{again + 1}" if again else "")
            slots.append((of_label[turn], meaning))
        return cls(
            _class_name(optimizer),
            [getattr(variable, "path", variable.name) for variable in variables],
            [bool(getattr(variable, "trainable", True)) for variable in variables],
            _told_apart(slots),
            [tuple(variable.shape) for variable in optimizer.variables],
        )

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout that `to_json` wrote.

        Raises:
            ValueError: if it is damaged.
        """
        try:
            layout = cls(**json.loads(text))
            layout.slots = _told_apart(
                [(int(i), str(what)) for i, what in layout.slots]
            )
            layout.shapes = [tuple(map(int, shape)) for shape in layout.shapes]
            layout.paths = [str(path) for path in layout.paths]
            layout.trainable = [bool(x) for x in layout.trainable]
            layout.names()
            dict(zip(layout.paths, layout.trainable, strict=True))
        except (TypeError, ValueError, IndexError, RecursionError) as error:
            raise ValueError(
                f"The saved state of the optimizer is damaged: {error}"
            ) from error
        return layout

    def to_json(self) -> str:
        """The layout as text."""
        return json.dumps(asdict(self))

    def names(self) -> list[str]:
        """The optimizer's variables in words."""
        return [
            what if owner < 0 else f"{what} of {self.paths[owner]}"
            for owner, what in self.slots
        ]

    def is_too_early_for(self, optimizer: Any) -> bool:
        """Whether this is of an optimizer not built, and the given one has stepped."""
        return not self.paths and optimizer.built and int(optimizer.iterations) > 0

    def counterparts(self, saved: "Layout") -> dict[int, int]:
        """For each optimizer variable that `saved` has too its position there."""
        # a loaded model's optimizer has what was trainable when it was saved
        left = [i for i, is_trainable in enumerate(saved.trainable) if is_trainable]
        pairs = matching(self.paths, [saved.paths[i] for i in left])
        if len(pairs) == len(self.paths) == len(left):
            pairs = {position: left[i] for position, i in pairs.items()}
        else:
            pairs = matching(self.paths, saved.paths)
        if not len(pairs) == len(self.paths) == len(saved.paths):
            # the same model built again has other names, but all in the same order
            if (self.slots, self.shapes) == (saved.slots, saved.shapes):
                pairs = {position: position for position in range(len(self.paths))}
        theirs = {slot: position for position, slot in enumerate(saved.slots)}
        wanted = (
            (pairs.get(owner) if owner >= 0 else -1, what) for owner, what in self.slots
        )
        found = {i: theirs[slot] for i, slot in enumerate(wanted) if slot in theirs}
        if self.is_all_of(saved, found):
            return found
        # those whose names do not say whose they are: only as part of the whole
        vague = {name for x in (self, saved) for name in _numbered(x.slots)}
        return {i: j for i, j in found.items() if self.slots[i] not in vague}

    def is_all_of(self, saved: "Layout", found: Mapping[int, int]) -> bool:
        """Whether these counterparts are all variables of both, in one order."""
        both = len(self.slots), len(saved.slots)
        return all(list(found.items()) == [(i, i) for i in range(n)] for n in both)

    def check(self, saved: "Layout") -> dict[int, int]:
        """The same as `counterparts`.

        Raises:
            ValueError: if `saved` is of another class, has other shapes, or has
                nothing in common with this one.
        """
        if saved.optimizer != self.optimizer:
            raise ValueError(
                f"The saved state is of {saved.optimizer}, this optimizer is "
                f"{self.optimizer}. {_ADVICE}"
            )
        found = self.counterparts(saved)
        names = self.names()
        wrong = [
            f"{names[i]}: here {self.shapes[i]}, saved {saved.shapes[j]}"
            for i, j in found.items()
            if self.shapes[i] != saved.shapes[j]
        ]
        if wrong:
            separator = "\n  "
            raise ValueError(
                f"The saved state of {self.optimizer} has other shapes:"
                f"\n  {_listed(wrong, separator)}\n{_ADVICE}"
            )
        owned = [any(owner >= 0 for owner, _ in x.slots) for x in (self, saved)]
        if all(owned) and all(self.slots[i][0] < 0 for i in found):
            raise ValueError(
                f"The saved state of {self.optimizer} and this optimizer have no "
                f"variable in common. Here: {_listed(self.paths)}. Saved: "
                f"{_listed(saved.paths)}. {_ADVICE}"
            )
        return found


def _told_apart(slots):
    """The slots; those that belong to no variable and have one name are numbered.

    Keras counts variables without a name, in a process on and on: it is left out.
    """
    seen: Counter[tuple[int, str]] = Counter()
    names = []
    for owner, what in slots:
        if owner < 0:
            what = re.sub(r"^variable_\d+$", "variable", what)
        seen[owner, what] += 1
        number = seen[owner, what]
        again = owner < 0 and number > 1
        names.append((owner, f"{what} ({number})" if again else what))
    return names


def _numbered(slots):
    """The slots that `_told_apart` had to tell apart."""
    several = {what.rpartition(" (")[0] for owner, what in slots if owner < 0} - {""}
    return {
        (owner, what)
        for owner, what in slots
        if owner < 0 and (what in several or what.rpartition(" (")[0] in several)
    }


def _class_name(optimizer):
    name = keras.saving.get_registered_name(type(optimizer))
    inner = getattr(optimizer, "inner_optimizer", None)
    return f"{name}({_class_name(inner)})" if inner is not None else name


def _listed(items, separator=", "):
    most = 20
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(map(str, items[:most])) + more


def save_state(layout: Layout, optimizer: Any, store: Any) -> None:
    """Puts the optimizer's variables into a store, and what they are."""
    for position, variable in enumerate(optimizer.variables):
        store[str(position)] = ops.convert_to_numpy(variable)
    store[_KEY] = np.frombuffer(layout.to_json().encode(), "uint8")


def load_state(layout: Layout, optimizer: Any, store: Mapping[str, Any]) -> None:
    """Restores what a store and the optimizer both have; warns of what only one has.

    Args:
        layout: of the optimizer.
        optimizer: the optimizer.
        store: what `save_state` filled.

    Raises:
        ValueError: if the state is of another class, has other shapes, or has nothing
            in common with the optimizer. Nothing is assigned then.

    Warns:
        UserWarning: of what is not restored. Of an optimizer that is not built that is
            all: a late step with new moments would be neither the one nor the other.
    """
    keys = set(store.keys())
    if not keys:
        warnings.warn(
            f"The file holds no state of an optimizer: {layout.optimizer} stays as it "
            "is.",
            stacklevel=2,
        )
        return
    if _KEY not in keys:
        raise ValueError(
            f"The saved state does not say whose it is, so not {layout.optimizer}'s: "
            f"that of an optimizer of keras_gradopt does. {_ADVICE}"
        )
    saved = Layout.from_json(bytes(bytearray(store[_KEY])).decode(errors="replace"))
    if keys - {_KEY} != {str(position) for position in range(len(saved.slots))}:
        raise ValueError(
            f"The saved state of the optimizer is damaged: it has {len(keys) - 1} "
            f"variables and describes {len(saved.slots)}."
        )
    found = layout.check(saved)
    if not layout.paths and any(owner >= 0 for owner, _ in saved.slots):
        warnings.warn(
            f"The state of {layout.optimizer} was not restored, as this optimizer is "
            "not built: call `optimizer.build(model.trainable_variables)` before "
            "loading.",
            stacklevel=2,
        )
        return
    values = {i: np.asarray(store[str(j)]) for i, j in found.items()}
    variables = optimizer.variables
    for i, value in values.items():
        if value.shape != tuple(variables[i].shape):
            raise ValueError(
                f"The saved state of the optimizer is damaged: {layout.names()[i]} has "
                f"shape {value.shape}"
            )
    if saved.is_too_early_for(optimizer):
        warnings.warn(
            f"The saved state of {layout.optimizer} is from before its first step. "
            "This optimizer has made steps and stays as it is; to begin anew, compile "
            "the model with a new optimizer.",
            stacklevel=2,
        )
        return
    for i, value in values.items():
        variables[i].assign(value)
    _warn_of_the_rest(layout, saved, found)


def _warn_of_the_rest(layout, saved, found):
    # saved before the first step, there was nothing else
    here = _without(layout, set(found)) if saved.paths else []
    left = _without(saved, set(found.values()))
    said = []
    if here:
        said.append(f"not in the file, so as it was: that of {_listed(here)}")
    if left:
        said.append(f"in the file, but not here: that of {_listed(left)}")
    if said:
        warnings.warn(
            f"The state of {layout.optimizer} was restored in part; {'; '.join(said)}.",
            stacklevel=2,
        )


def _without(layout, found):
    """What has no counterpart: variables of the model, or single slots of them."""
    names, owners = layout.names(), [owner for owner, _ in layout.slots]
    partly = {owners[position] for position in found}
    return list(
        dict.fromkeys(
            names[i] if owner in partly or owner < 0 else layout.paths[owner]
            for i, owner in enumerate(owners)
            if i not in found
        )
    )


class CheckpointGuard:
    """Puts the layout of an optimizer into its TensorFlow checkpoints.

    `tf.train.Checkpoint` restores by position, whatever a variable means. So the
    layouts are compared before it assigns anything; or, for an optimizer that is not
    built yet, when it is.

    Args:
        optimizer: the optimizer that a checkpoint tracks.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.variables: list[Any] = []  # here, where Keras does not track them
        self._saved: Layout | None = None
        if keras.backend.backend() == "tensorflow":
            # an attribute, because TensorFlow tracks attributes
            optimizer._checkpointed_layout = _python_state()(self)

    def text(self) -> str:
        """What a checkpoint keeps."""
        return self._optimizer.state_layout().to_json()

    def restored(self, text: str) -> None:
        """Takes what `text` returned when the checkpoint was written."""
        self._saved = Layout.from_json(text)
        self.check()

    def built_on(self, variables: Sequence[Any]) -> None:
        """Takes the model's variables, in order, and checks what was restored."""
        self.variables = list(variables)
        self.check()

    def check(self) -> None:
        """Raises `ValueError` if a restored checkpoint does not fit."""
        here, saved = self._optimizer.state_layout(), self._saved
        if not saved:
            return
        if here.paths:
            self._saved = None
        found = here.check(saved)
        if saved.is_too_early_for(self._optimizer):
            raise ValueError(
                f"The checkpoint of {saved.optimizer} is from before its first step: "
                "restore it into a new optimizer."
            )
        if not (here.paths and saved.paths):
            return
        if here.is_all_of(saved, found):
            return
        ours, theirs = set(here.names()), set(saved.names())
        differences = [
            *(f"{name}: not in the checkpoint" for name in sorted(ours - theirs)),
            *(f"{name}: only in the checkpoint" for name in sorted(theirs - ours)),
        ] or ["the same variables in another order"]
        separator = "\n  "
        raise ValueError(
            f"The checkpoint of {saved.optimizer} has other variables, and TensorFlow "
            f"restores by position:\n  {_listed(differences, separator)}\nMake the "
            "same variables trainable as when it was written, or save `.keras` or "
            "`.weights.h5` files, which are restored by name."
        )


@functools.cache
def _python_state() -> type:
    import tensorflow as tf

    class PythonState(tf.train.experimental.PythonState):
        def __init__(self, guard):
            self._guard = guard

        def serialize(self):
            return self._guard.text()

        def deserialize(self, string_value):
            self._guard.restored(tf.compat.as_str(string_value))

    return PythonState
