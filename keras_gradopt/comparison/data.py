"""One part of the data, of whichever kind: its batches in an order that repeats."""

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gradopt.arguments import refuse

SAMPLE = 2**20  # bytes of an array that its digest is made from
SMALL = 2**24  # bytes of arrays that are evaluated at once
AT_ONCE = 16  # batches of training that are


def kind(part: Any) -> str:
    """Which of the three kinds it is, or an empty string."""
    if isinstance(part, keras.utils.PyDataset):
        return "PyDataset"
    if hasattr(part, "element_spec") and hasattr(part, "batch"):
        return "tf.data"
    if isinstance(part, (tuple, list)) and len(part) in (2, 3):
        leaves = keras.tree.flatten(part)
        if leaves and all(len(getattr(leaf, "shape", ())) for leaf in leaves):
            return "arrays"
    return ""


def check(name: str, part: Any) -> None:
    """Refuses what cannot be trained on."""
    found = kind(part)
    allowed = (
        "a pair of arrays (inputs, targets), a tf.data.Dataset or a "
        "keras.utils.PyDataset"
    )
    if not found:
        shown = type(part).__name__
        if isinstance(part, (tuple, list)):
            shown = f"a {shown} of {', '.join(type(x).__name__ for x in part)}"
        raise refuse(f"data: {name}", shown, allowed)
    if found == "arrays":
        lengths = {len(leaf) for leaf in keras.tree.flatten(part)}
        if len(lengths) > 1 or 0 in lengths:
            shown = ", ".join(str(leaf.shape) for leaf in keras.tree.flatten(part))
            raise refuse(
                f"data: {name}", f"shapes {shown}", "arrays of equally many examples"
            )


class Feed:
    """The training part of one run: batches of every epoch, as its seed orders them.

    Args:
        part: Arrays, a `tf.data.Dataset` or a `PyDataset`.
        batch_size: Of arrays; `None` is 32.
        steps: Batches in an epoch; `None`: all.
        seed: Of the order.

    Raises:
        ValueError: If there is no batch, or no end.
    """

    def __init__(
        self, part: Any, batch_size: int | None, steps: int | None, seed: int
    ) -> None:
        self.part, self.kind = part, kind(part)
        self.seed, self.number = seed, 0
        self.random = np.random.default_rng(seed)
        self.size = batch_size or 32
        if self.kind != "arrays" and batch_size is not None:
            raise refuse(
                "batch_size", batch_size, f"None: {self.kind} makes batches itself"
            )
        found = self._count(steps)
        self.steps = found if steps is None else min(steps, found)

    def _count(self, steps: int | None) -> int:
        if self.kind == "arrays":
            examples = len(keras.tree.flatten(self.part)[0])
            self.size = min(self.size, examples)
            return examples // self.size
        if self.kind == "PyDataset":
            found = self.part.num_batches
        else:
            found = int(self.part.cardinality())
            found = None if found == -1 else found  # tf.data.INFINITE_CARDINALITY
            if found == -2 and steps is None:  # tf.data.UNKNOWN_CARDINALITY
                found = sum(1 for _ in self.part)
            elif found == -2:
                found = steps
        found = steps if found is None else found
        if found is None:
            raise refuse("steps_per_epoch", None, "a number, as the data has no end")
        if found == 0:
            raise refuse("data: train", "0 batches", "at least one")
        return found

    def epoch(self) -> Iterator[tuple[Any, ...]]:
        """The batches of the next epoch."""
        self._seed(0)
        if self.kind == "arrays":
            for chosen in self._order().reshape(-1, self.size):
                yield tuple(
                    keras.tree.map_structure(lambda leaf, i=chosen: leaf[i], part)
                    for part in self.part
                )
        elif self.kind == "PyDataset":
            self._begin()
            for index in self._order():
                yield tuple(self.part[int(index)])
            self._end()
        else:
            for step, batch in enumerate(self.part, 1):
                yield tuple(native(part) for part in batch)
                if step == self.steps:
                    break
        self.number += 1

    def skip(self) -> None:
        """Goes on as after an epoch that was trained on before."""
        self._seed(0)
        if self.kind == "tf.data":
            iter(self.part)  # its shuffling counts the iterators that were made
        elif self.kind == "PyDataset":
            self._begin()
            self._order()
            self._end()
        else:
            self._order()
        self.number += 1

    def _seed(self, part: int) -> None:
        """What draws from the process' generators goes on alike after a kill.

        So does Dropout on PyTorch, and NumPy in a `PyDataset`.
        """
        key = [self.seed, self.number, *([part] if part else [])]
        seed = np.random.SeedSequence(key).generate_state(1)[0]
        keras.utils.set_random_seed(int(seed))

    def _end(self) -> None:
        self._seed(1)
        self.part.on_epoch_end()

    def _begin(self) -> None:
        if hasattr(self.part, "on_epoch_begin"):
            self.part.on_epoch_begin()

    def _order(self) -> np.ndarray:
        if self.kind == "arrays":
            examples = len(keras.tree.flatten(self.part)[0])
            return self.random.permutation(examples)[: self.steps * self.size]
        batches = self.part.num_batches
        if batches is None:
            return np.arange(self.steps)
        return self.random.permutation(batches)[: self.steps]


def native(part: Any) -> Any:
    """Tensors of TensorFlow as arrays, where the backend is another."""
    if keras.backend.backend() == "tensorflow":
        return part
    return keras.tree.map_structure(np.asarray, part)


def changes(part: Any) -> bool:
    """Whether a part may have another order or content in its next epoch."""
    if kind(part) == "PyDataset":
        plain = keras.utils.PyDataset
        return any(
            getattr(type(part), name, None) is not getattr(plain, name, None)
            for name in ("on_epoch_begin", "on_epoch_end")
        )
    if kind(part) != "tf.data":
        return False
    first, second = (digest(next(iter(part), ())) for _ in range(2))
    return first != second


def first_inputs(part: Any) -> Any:
    """The inputs of one or a few examples, to build a model on."""
    if kind(part) == "arrays":
        return keras.tree.map_structure(lambda leaf: leaf[:1], part[0])
    batch = part[0] if kind(part) == "PyDataset" else next(iter(part))
    return native(batch[0])


def evaluated_at_once(part: Any, batch_size: int | None) -> int:
    """How many examples of arrays: more than a batch of training, which keeps more."""
    leaves = keras.tree.flatten(part)
    size, examples = batch_size or 32, len(leaves[0])
    each = sum(leaf.nbytes for leaf in leaves) // examples
    return min(examples, max(size, min(AT_ONCE * size, SMALL // max(1, each))))


def evaluate(model: keras.Model, part: Any, batch_size: int | None) -> dict[str, float]:
    """The loss and metrics of a model on a part."""
    if kind(part) != "arrays":
        found = model.evaluate(part, return_dict=True, verbose=0)
        return {name: float(value) for name, value in found.items()}
    size = evaluated_at_once(part, batch_size)
    if size == len(keras.tree.flatten(part)[0]):
        model.reset_metrics()  # for small data `evaluate` takes longer than training
        found = model.test_on_batch(*part, return_dict=True)
    else:
        x, y, *weights = part
        found = model.evaluate(
            x,
            y,
            sample_weight=weights[0] if weights else None,
            batch_size=size,
            return_dict=True,
            verbose=0,
        )
    return {name: float(value) for name, value in found.items()}


def facts(part: Any) -> dict[str, Any]:
    """What can be said of a part without training: its kind, its size, a digest."""
    found: dict[str, Any] = {"kind": kind(part)}
    if found["kind"] == "arrays":
        found["examples"] = len(keras.tree.flatten(part)[0])
        found["digest"] = digest(part)
    elif found["kind"] == "tf.data":
        found["elements"] = str(part.element_spec)
    else:
        found["batches"] = part.num_batches
    return found


def digest(part: Any) -> str:
    """Tells arrays apart, by shapes, types, and up to a megabyte of each."""
    found = hashlib.sha256()
    for leaf in map(np.asarray, keras.tree.flatten(part)):
        found.update(f"{leaf.shape} {leaf.dtype}".encode())
        step = max(1, leaf.nbytes // SAMPLE)
        rows = leaf[:: min(step, max(1, len(leaf) // 16))]
        text = str(rows.tolist()) if leaf.dtype.hasobject else ""
        found.update(text.encode() or np.ascontiguousarray(rows).tobytes())
    return found.hexdigest()[:16]
