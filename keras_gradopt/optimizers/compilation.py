"""The fast form of an update: traced once a shape, compiled as one, scalars once.

The arithmetic of an update step is a pure function of tensors. Where TensorFlow builds
a graph (in `fit`, `tf.function`), such a function is traced once for all variables of
one shape and compiled by XLA, also where the graph as a whole is not: on CPUs and under
`tf.distribute`. Everywhere else it is called as it is: the other backends fuse whole
steps by themselves, and eager execution has nothing to gain.

`KERAS_GRADOPT_JIT_COMPILE=0` in the environment keeps XLA out, where it is broken.
"""

import contextlib
import os
import platform
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras

from keras_gradopt.equations import Tensor


class StepFunctions:
    """Compiled functions and shared scalars that live as long as one `apply`.

    Nothing outlives the step in which it was made: a new trace sees new settings of
    the optimizer, and no graph's tensors get into another graph.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] | None = None

    @contextlib.contextmanager
    def one_step(self) -> Iterator[None]:
        """The `apply` within which functions and scalars are shared."""
        self._made = {} if _building_tensorflow_graph() else None
        try:
            yield
        finally:
            self._made = None

    def call(
        self, key: Hashable, function: Callable, *tensors: Any, jit_compile: bool = True
    ) -> Any:
        """`function(*tensors)`, compiled if that helps.

        Args:
            key: what the function depends on besides its tensors.
            function: a pure function of (nested lists and dictionaries of) tensors.
            *tensors: its arguments.
            jit_compile: whether XLA can compile it; traced once a shape in any case.
        """
        made = self._made  # another thread may be tracing the same optimizer
        if made is None:
            return function(*tensors)
        import tensorflow as tf

        if key not in made:
            made[key] = tf.function(
                function,
                jit_compile=(jit_compile and _xla_is_wanted()) or None,
                autograph=False,
            )
        return made[key](*tensors)

    def scalars(self, dtype: str, function: Callable[[], Any]) -> Any:
        """What `function()` returns; computed once in a step for each dtype."""
        made = self._made
        if made is None:
            return function()
        import tensorflow as tf

        # a branch of a `cond` is a graph of its own
        key = (tf.compat.v1.get_default_graph(), dtype)
        if key not in made:
            made[key] = function()
        return made[key]


def _building_tensorflow_graph() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.inside_function()


def _xla_is_wanted() -> bool:
    if os.environ.get("KERAS_GRADOPT_JIT_COMPILE") == "0":
        return False
    import tensorflow as tf

    # there is no XLA for the GPUs of Macs
    return platform.system() != "Darwin" or not tf.config.list_physical_devices("GPU")


def outside_autograph(method: Callable) -> Callable:
    """A method that TensorFlow takes as it is, also within a user's `tf.function`.

    AutoGraph would rewrite it and all that it calls, and fails at some valid Python.
    """
    if keras.backend.backend() != "tensorflow":
        return method
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(method)


def updated_in_place(value: Tensor, old: Tensor) -> Tensor:
    """`value`, as the next value of a slot that is `old`.

    XLA updates a slot in place if each new entry is computed from the old one, and
    copies it otherwise, which costs two more words of memory traffic. So a value that
    does not depend on the old one is made to: the second branch is NaN wherever it is
    taken, as `value` is. On CPUs this would cost more than it saves.
    """
    if not _updates_in_place():
        return value
    return keras.ops.where(value == value, value, old + value)


def _updates_in_place() -> bool:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return keras.backend.backend() == "jax"  # which may compile for another machine
