"""How transforms run at an optimizer's `update_step`: one mechanism for all."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor, narrow, wide_dtype
from keras_gradopt.optimizers.compilation import StepFunctions, updated_in_place
from keras_gradopt.optimizers.state import label
from keras_gradopt.transforms import LEFT_ALONE, Context, Result, Slot, Transform


def dense(gradient: Any, variable: Any) -> Tensor:
    """The gradient as a dense tensor.

    An embedding's sparse gradient (`tf.IndexedSlices`, on JAX a `BCOO` matrix) holds
    only the rows that occurred; rows that did not have gradient zero.
    """
    if hasattr(gradient, "dense_shape"):  # IndexedSlices: convert_to_tensor keeps them
        rows = ops.expand_dims(gradient.indices, -1)
        gradient = ops.scatter(rows, gradient.values, variable.shape)
    else:
        gradient = ops.convert_to_tensor(gradient, sparse=False)
    return gradient


class Update(NamedTuple):
    """An update of one variable, as a pure function and what it is called with.

    Attributes:
        key: what the function depends on besides its arguments.
        function: a pure function of tensors, to what the update makes of them and the
            new values of `slots`.
        arguments: of the function: tensors as they are before the update.
        slots: the variables of the optimizer that the function moves.
        is_whole: whether the function makes the new value of the variable. Of an
            update that belongs to Keras it makes gradient and learning rate only.
    """

    key: Hashable
    function: Callable
    arguments: tuple
    slots: list[keras.Variable]
    is_whole: bool


class Pipeline:
    """Transforms in order, with their slots among the variables of one optimizer.

    The slots belong to the optimizer, so whatever it does with its variables (save,
    restore, mirror, leave as they were at a skipped step) includes them.

    Args:
        optimizer: the optimizer at whose `update_step` the transforms act.
        transforms: the transforms, first to last.

    Raises:
        ValueError: if something in `transforms` is not a transform.

    Attributes:
        observer: called with each transform, the gradient that it received and its
            `Result` (`None` where it leaves the variable alone); or `None`.
        bypassed: whether `run` leaves everything as it is.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, transforms: Sequence[Transform]
    ) -> None:
        if not isinstance(transforms, (list, tuple)):
            raise arguments.refuse("transforms", transforms, "a list of transforms")
        for transform in transforms:
            if not isinstance(transform, Transform):
                is_class = isinstance(transform, type)
                hint = f": call {transform.__name__}(...)" if is_class else ""
                raise arguments.refuse(
                    "transforms",
                    transform,
                    "a list of keras_gradopt.transforms.Transform objects" + hint,
                )
        self.transforms = tuple(transforms)
        self._optimizer = optimizer
        self.jit_compile = all(t.jit_compile for t in transforms)
        self.functions = StepFunctions()
        self.observer: Callable[[Transform, Tensor, Result | None], None] | None = None
        self.bypassed = False
        self._plans: list[list[Any]] | None = None
        self._slots: list[list[list[keras.Variable]]] | None = None

    def plan(self, variables: Sequence[keras.Variable]) -> None:
        """Asks each transform what it must know of the variables; creates nothing.

        Raises:
            ValueError: if a transform has not one plan for each variable.
        """
        plans = [list(transform.plan(variables)) for transform in self.transforms]
        for transform, of_transform in zip(self.transforms, plans):
            if len(of_transform) != len(variables):
                raise ValueError(
                    f"`plan` of {transform!r} returned {len(of_transform)} plans for "
                    f"{len(variables)} variables"
                )
        self._plans = plans

    @property
    def built(self) -> bool:
        """Whether it has its slots."""
        return self._slots is not None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots, transform by transform, variable by variable."""
        kinds: Counter[str] = Counter()
        slots = []
        for transform, plans in zip(self.transforms, self._plans or ()):
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", transform.shown_as).lower()
            kinds[kind] += 1
            prefix = kind + (f"_{kinds[kind]}" if kinds[kind] > 1 else "")
            slots.append(
                [
                    add_slots(
                        self._optimizer,
                        v,
                        () if plan is LEFT_ALONE else transform.slots,
                        transform.history_dtype,
                        prefix,
                    )
                    for v, plan in zip(variables, plans)
                ]
            )
        self._slots = slots

    def for_variable(self, index: int) -> tuple[list[keras.Variable], "Plans"]:
        """The slots and the plans of the variable with this index.

        Raises:
            RuntimeError: if the transforms are not built.
        """
        if self._slots is None or self._plans is None:
            raise RuntimeError(
                f"The transforms {list(self.transforms)} of {self._optimizer.name!r} "
                "are not built, so it makes no step: their build failed, or only the "
                "inner optimizer was built. Make a new optimizer."
            )
        slots = [slot for rows in self._slots for slot in rows[index]]
        return slots, Plans(plans[index] for plans in self._plans)

    def run(
        self,
        gradient: Tensor,
        learning_rate: Tensor,
        slots: Sequence[Tensor],
        plans: Sequence[Any],
        value: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Runs the transforms. A pure function of tensors.

        Args:
            gradient: of one variable, float32 or wider.
            learning_rate: a scalar.
            slots: the values of the variable's slots.
            plans: what `for_variable` returned.
            value: the variable's.
            step: its number, from 1.

        Returns:
            The gradient and the learning rate for the optimizer's own update, and the
            new values of the slots. After a friction the learning rate has the
            variable's shape.
        """
        if self.bypassed:
            return gradient, learning_rate, list(slots)
        dtype, left, moved = gradient.dtype, iter(slots), []
        for transform, plan in zip(self.transforms, plans):
            if plan is LEFT_ALONE:
                if self.observer:
                    self.observer(transform, gradient, None)
                continue
            old = [next(left) for _ in transform.slots]
            wide = [ops.cast(value, dtype) for value in old]
            context = Context(plan, value, step, learning_rate)
            result = transform.apply(gradient, wide, context)
            if self.observer:
                self.observer(transform, gradient, result)
            new = result.slots or wide  # none: they stay as they are
            if len(new) != len(old):
                raise ValueError(
                    f"{transform!r} has {len(old)} slots, but its `apply` returned "
                    f"{len(new)} values"
                )
            for slot, before, after in zip(transform.slots, old, new):
                if any(after is value for value in wide):
                    after = ops.copy(after)  # PyTorch assigns in place
                after = narrow(after, before.dtype)
                moved.append(updated_in_place(after, before) if slot.history else after)
            gradient = ops.cast(result.gradient, dtype)
            if result.coefficient is not None:
                learning_rate = learning_rate * result.coefficient
        return gradient, learning_rate, moved

    def prepare(self, gradient: Any, variable: Any, learning_rate: Any) -> Update:
        """The run on what `update_step` received."""
        # the one index that Keras documents for its optimizers' `update_step`
        slots, plans = self.for_variable(self._optimizer._get_variable_index(variable))
        dtype = wide_dtype(variable.dtype)

        def run(gradient, value, learning_rate, step, slots):
            gradient, value = ops.cast(gradient, dtype), ops.cast(value, dtype)
            gradient, learning_rate, moved = self.run(
                gradient, learning_rate, slots, plans, value, step
            )
            return (gradient, learning_rate), moved

        arguments = (
            dense(gradient, variable),
            *tensors_of([variable]),
            ops.cast(learning_rate, dtype),
            step_number(self._optimizer, dtype),
            tensors_of(slots),
        )
        return Update((plans, dtype), run, arguments, slots, is_whole=False)

    def call(self, update: Update) -> Any:
        """Makes an update, compiled if that helps; moves the slots.

        Returns:
            What the update's function makes beside their new values.
        """
        made, moved = self.functions.call(
            update.key, update.function, *update.arguments, jit_compile=self.jit_compile
        )
        for slot, value in zip(update.slots, moved):
            self._optimizer.assign(slot, value)
        return made


def step_number(optimizer: keras.optimizers.Optimizer, dtype: str) -> Tensor:
    """The number of the step that is being made, from 1."""
    return ops.cast(optimizer.iterations + 1, dtype)


class Plans(tuple):
    """The plans of one variable; equal plans make the same function."""

    def __hash__(self) -> int:
        try:
            return super().__hash__()
        except TypeError:  # of a transform whose plans cannot be told apart so
            return id(self)

    def __eq__(self, other: Any) -> bool:
        try:
            super().__hash__()
        except TypeError:
            return self is other
        return super().__eq__(other)


def tensors_of(variables: Sequence[Any]) -> list[Tensor]:
    """The values of variables, also of TensorFlow's own (as in a replica)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [tf.convert_to_tensor(variable) for variable in variables]
    return [ops.convert_to_tensor(variable) for variable in variables]


def add_slots(
    optimizer: keras.optimizers.Optimizer,
    variable: keras.Variable,
    slots: Sequence[Slot],
    history_dtype: str | None = None,
    prefix: str = "",
) -> list[keras.Variable]:
    """Adds slots for a variable to an optimizer."""
    if getattr(variable, "overwrite_with_gradient", False):
        return []  # no gradient step, hence no slots, in Keras' optimizers too
    added = []
    for slot in slots:
        name = f"{prefix}_{slot.name}" if prefix else slot.name
        initial = keras.initializers.Constant(slot.initial)
        if slot.scalar or (slot.history and history_dtype):
            one = optimizer.add_variable(
                () if slot.scalar else variable.shape,
                initial,
                wide_dtype(variable.dtype) if slot.scalar else history_dtype,
                layout=None if slot.scalar else getattr(variable, "_layout", None),
                name=f"{label(variable)}_{name}",
            )
        else:
            one = optimizer.add_variable_from_reference(variable, name, initial)
        added.append(one)
    return added
