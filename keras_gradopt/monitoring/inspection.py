"""What an optimizer consists of, in words."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_gradopt import arguments
from keras_gradopt.optimizers.base import settings

_BITS = {"float64": 64, "int64": 64, "float16": 16, "bfloat16": 16, "int8": 8}


def inspect(
    optimizer: keras.optimizers.Optimizer, print_fn: Callable[[str], Any] = print
) -> None:
    """Prints what an optimizer does with a gradient, its slots and their bytes.

    Works for every Keras optimizer. Slots exist once the optimizer is built: after the
    first step, or `optimizer.build(model.trainable_variables)`.

    Args:
        optimizer: a Keras optimizer.
        print_fn: called with each line. Defaults to `print`.

    Raises:
        ValueError: if `optimizer` is not a Keras optimizer.

    Example:

    >>> import keras, keras_gradopt
    >>> optimizer = keras_gradopt.AngularGrad()
    >>> optimizer.build([keras.Variable([[1.0, 2.0]]), keras.Variable([1.0, 2.0])])
    >>> keras_gradopt.inspect(optimizer)  # doctest: +ELLIPSIS
    <AngularGrad: gradient -> AngularFriction(...) -> Adam(...)>
    slot                                tensors  entries  dtype    bytes
    momentum                                  2        4  float32  16 B
    velocity                                  2        4  float32  16 B
    angular_friction_previous_gradient        2        4  float32  16 B
    angular_friction_previous_ratio           2        4  float32  16 B
    total: 64 B, 16.0 bytes for each of 4 parameters
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise arguments.refuse(
            "optimizer", optimizer, "a keras.optimizers.Optimizer object"
        )
    described = repr(optimizer)
    if " object at " in described:  # of Keras
        described = (
            f"<{type(optimizer).__name__}: gradient -> "
            f"{type(optimizer).__name__}({settings(optimizer.get_config())})>"
        )
    print_fn(described)
    if not optimizer.built:
        print_fn("not built yet: no slots")
        return
    parameters = getattr(optimizer, "_trainable_variables", [])  # as Keras calls them
    names = [name_in_slots(variable) for variable in parameters]
    rows: dict[tuple[str, str], list[int]] = {}
    for variable in optimizer.variables:
        _, kind = owner_and_kind(variable.name, names)
        if kind in ("iteration", "learning_rate"):
            continue
        dtype = keras.backend.standardize_dtype(variable.dtype)
        row = rows.setdefault((kind, dtype), [0, 0, 0])
        entries = math.prod(variable.shape)
        for i, more in enumerate((1, entries, entries * _BITS.get(dtype, 32) // 8)):
            row[i] += more
    table = [("slot", "tensors", "entries", "dtype", "bytes")] + [
        (kind, f"{tensors:,}", f"{entries:,}", dtype, _bytes(size))
        for (kind, dtype), (tensors, entries, size) in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        cells = [
            cell.rjust(width) if i in (1, 2) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ]
        print_fn("  ".join(cells).rstrip())
    total = sum(size for _, _, size in rows.values())
    count = sum(math.prod(variable.shape) for variable in parameters)
    each = f"{total / count:.1f} bytes for each of {count:,} parameters"
    print_fn(f"total: {_bytes(total)}, {each}" if count else f"total: {_bytes(total)}")


def name_in_slots(variable: keras.Variable) -> str:
    """What the names of a variable's slots begin with."""
    return str(variable.path).replace("/", "_")


def owner_and_kind(slot: str, names: Iterable[str]) -> tuple[str, str]:
    """Whose slot it is, and of which kind, by its name.

    Args:
        slot: its name.
        names: of variables, as in slots.

    Returns:
        One of the names, empty for what is of the whole optimizer; and the rest.
    """
    owners = [name for name in names if slot.startswith(f"{name}_")]
    owner = max(owners, key=len, default="")
    return owner, slot[len(owner) + 1 :] if owner else slot


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
