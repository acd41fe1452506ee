"""How transforms run at an optimizer's `update_step`: one mechanism for all.

`Pipeline` runs transforms and owns their slots. `Pipelined` puts one in front of
the update of a Keras optimizer class; `Transformed` (in its own module) in front of
that of an optimizer object.
"""

import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor, narrow, wide_dtype
from keras_gradopt.optimizers.compilation import (
    StepFunctions,
    following,
    outside_autograph,
)
from keras_gradopt.optimizers.paths import matching
from keras_gradopt.optimizers.state import (
    CheckpointGuard,
    Layout,
    label,
    load_state,
    save_state,
)
from keras_gradopt.transforms import Result, Transform


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
        function: a pure function of tensors.
        arguments: of the function: tensors as they are before the update.
        slots: the variables whose new values the function returns last.
    """

    key: Hashable
    function: Callable
    arguments: tuple
    slots: list[keras.Variable]


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
            `Result`, or `None`.
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
        self.exclusions: dict[str, list[str]] = {}  # from weight decay
        self._optimizer = optimizer
        self.jit_compile = all(t.jit_compile for t in transforms)
        self.functions = StepFunctions()
        self.observer: Callable[[Transform, Tensor, Result], None] | None = None
        self.bypassed = False
        self.variables: list[keras.Variable] = []  # of the model
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

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots, transform by transform, variable by variable."""
        self._slots = [
            [self._add_slots(transform, position, v) for v in variables]
            for position, transform in enumerate(self.transforms)
        ]
        self.variables = list(variables)

    def _add_slots(self, transform, position, variable):
        if getattr(variable, "overwrite_with_gradient", False):
            return []  # no gradient step, hence no slots, in Keras' optimizers too
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(transform).__name__).lower()
        prefix = f"{kind}_{position}"
        variables = []
        for slot in transform.slots:
            initial = keras.initializers.Constant(slot.initial)
            dtype = transform.slot_dtype(slot)
            if slot.scalar:
                added = add_scalar(
                    self._optimizer, variable, f"{prefix}_{slot.name}", initial
                )
            elif dtype:
                added = self._optimizer.add_variable(
                    variable.shape,
                    initial,
                    dtype,
                    layout=getattr(variable, "_layout", None),
                    name=f"{label(variable)}_{prefix}_{slot.name}",
                )
            else:
                added = self._optimizer.add_variable_from_reference(
                    variable, f"{prefix}_{slot.name}", initial
                )
            variables.append(added)
        return variables

    @property
    def slots(self) -> list[keras.Variable]:
        """All slot variables, flat, in the order in which they are saved."""
        return [slot for rows in self._slots or () for row in rows for slot in row]

    def of(self, index: int) -> tuple[list[keras.Variable], "Plans"]:
        """The slots and the plans of the variable with this index.

        Raises:
            RuntimeError: if the transforms are not built.
        """
        if self._slots is None:
            raise RuntimeError(
                f"The transforms {list(self.transforms)} of {self._optimizer.name!r} "
                "are not built, so it makes no step: their build failed, or only the "
                "inner optimizer was built. Make a new optimizer."
            )
        slots = [slot for rows in self._slots for slot in rows[index]]
        return slots, Plans(plans[index] for plans in self._plans)

    def run(
        self, gradient: Tensor, learning_rate: Tensor, slots: list[Tensor], plans: Any
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Runs the transforms. A pure function of tensors.

        Args:
            gradient: of one variable, float32 or wider.
            learning_rate: a scalar.
            slots: the values of the variable's slots.
            plans: what `of` returned.

        Returns:
            The gradient and the learning rate for the optimizer's own update, and the
            new values of the slots. After a friction the learning rate has the
            variable's shape.
        """
        if self.bypassed:
            return gradient, learning_rate, slots
        dtype, left, moved = gradient.dtype, iter(slots), []
        for transform, plan in zip(self.transforms, plans):
            old = [next(left) for _ in transform.slots]
            wide = [ops.cast(value, dtype) for value in old]
            result = transform.apply(gradient, wide, plan)
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
                moved.append(following(after, before) if slot.history else after)
            gradient = ops.cast(result.gradient, dtype)
            if result.coefficient is not None:
                learning_rate = learning_rate * result.coefficient
        return gradient, learning_rate, moved

    def prepare(self, gradient: Any, variable: Any, learning_rate: Any) -> Update:
        """The run on what `update_step` received."""
        # the one index that Keras documents for its optimizers' `update_step`
        slots, plans = self.of(self._optimizer._get_variable_index(variable))
        dtype = wide_dtype(variable.dtype)

        def run(gradient, learning_rate, slots):
            return self.run(ops.cast(gradient, dtype), learning_rate, slots, plans)

        arguments = (
            dense(gradient, variable),
            ops.cast(learning_rate, dtype),
            read(slots),
        )
        return Update((plans, dtype), run, arguments, slots)

    def __call__(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> tuple[Tensor, Tensor]:
        """Runs the transforms on what `update_step` received, and moves their slots.

        Returns:
            The gradient and the learning rate for the optimizer's own update.
        """
        if not self.transforms:
            return gradient, learning_rate
        update = self.prepare(gradient, variable, learning_rate)
        gradient, learning_rate, values = self.functions.call(
            update.key, update.function, *update.arguments, jit_compile=self.jit_compile
        )
        for slot, value in zip(update.slots, values):
            self._optimizer.assign(slot, value)
        return gradient, learning_rate


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


def read(variables: Sequence[Any]) -> list[Tensor]:
    """The values of variables, also of TensorFlow's own (as in a replica)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [tf.convert_to_tensor(variable) for variable in variables]
    return [ops.convert_to_tensor(variable) for variable in variables]


def add_scalar(
    optimizer: keras.optimizers.Optimizer,
    variable: keras.Variable,
    name: str,
    initializer: Any = "zeros",
) -> keras.Variable:
    """Adds a slot of one number for `variable`, float32 or wider."""
    dtype = wide_dtype(variable.dtype)
    return optimizer.add_variable(
        (), initializer, dtype, name=f"{label(variable)}_{name}"
    )


def settings(config: Mapping[str, Any]) -> str:
    """The settings in an optimizer's config that are set, for its `repr`."""
    unused = {"name"}
    if not config.get("use_ema"):
        unused |= {"ema_momentum", "ema_overwrite_frequency"}

    def show(value):
        if isinstance(value, dict) and "class_name" in value:  # something serialized
            if value["class_name"] in ("function", "__lambda__"):
                return "<callable>"
            return f"{value['class_name']}({settings(value['config'])})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{k!r}: {show(v)}' for k, v in value.items())}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(show, value))}]"
        # a learning rate is kept in float32: show it as it was given
        return repr(float(f"{value:.7g}") if isinstance(value, float) else value)

    return ", ".join(
        f"{name}={show(value)}"
        for name, value in config.items()
        if name not in unused and value is not None and value is not False
    )


class Persistent(keras.optimizers.Optimizer):
    """Mixin: what is saved of an optimizer is restored by name, and wholly.

    Keras itself restores slots by position, and forgets what
    `exclude_from_weight_decay` was told: after a reload it decays what it did not
    before.
    """

    def state_layout(self) -> Layout:
        """What this optimizer's variables are."""
        return Layout.of(self, self._pipeline.variables)

    def save_own_variables(self, store: Any) -> None:
        """Saves the state, and what each number in it is."""
        save_state(self.state_layout(), self, store)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Restores the state, by name.

        Raises:
            ValueError: if it is of another optimizer, has other shapes, or no variable
                in common with this one. Nothing is restored then.

        Warns:
            UserWarning: of what only the file or only this optimizer has.
        """
        load_state(self.state_layout(), self, store)

    def _trackable_children(self, save_type="checkpoint", **keywords):
        # TensorFlow's: a SavedModel is not restored, and has no use for the layout
        children = super()._trackable_children(save_type, **keywords)
        if save_type == "savedmodel":
            children.pop("_checkpointed_layout", None)
        return children

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Excludes variables from weight decay; call it before the optimizer is built.

        Args:
            var_list: variables to exclude. Defaults to none.
            var_names: regular expressions; variables in whose name one is found are
                excluded. Defaults to none.

        Raises:
            ValueError: for what is no regular expression or one that could take
                exponential time; or if the optimizer is built already, unless it is
                told the same again (as by a second replica under `tf.distribute`).
        """
        exclusions = {
            "paths": [variable.path for variable in var_list or []],
            "var_names": [arguments.pattern("var_names", x) for x in var_names or []],
        }
        if self.built and exclusions != self._pipeline.exclusions:
            raise ValueError(
                "`exclude_from_weight_decay` must be called before the optimizer is "
                f"built. Received: var_list={var_list}, var_names={var_names}"
            )
        self._pipeline.exclusions = exclusions
        super().exclude_from_weight_decay(var_list, var_names)

    def _find_excluded(self, variables: Sequence[keras.Variable]) -> None:
        # After a reload there are paths of variables only.
        excluded = self._pipeline.exclusions
        if not excluded:
            return
        here = [getattr(variable, "path", variable.name) for variable in variables]
        found = matching(here, excluded["paths"])
        listed = [variables[position] for position in found]
        super().exclude_from_weight_decay(listed, excluded["var_names"])
        missing = set(range(len(excluded["paths"]))) - set(found.values())
        if missing:
            warnings.warn(
                "Excluded from weight decay, but not among the variables that the "
                f"optimizer is built on: {[excluded['paths'][i] for i in missing]}",
                stacklevel=2,
            )

    def _exclusions_config(self) -> dict[str, Any]:
        excluded = self._pipeline.exclusions
        return {"exclude_from_weight_decay": excluded} if excluded else {}

    @staticmethod
    def _checked_exclusions(config: Any) -> dict[str, list[str]]:
        """The exclusions in a config, which may have been damaged."""
        if config and not (
            isinstance(config, Mapping)
            and set(config) == {"paths", "var_names"}
            and all(isinstance(x, (list, tuple)) for x in config.values())
            and all(isinstance(name, str) for x in config.values() for name in x)
        ):
            raise arguments.refuse(
                "exclude_from_weight_decay",
                config,
                "a dictionary of two lists of strings, `paths` and `var_names`",
            )
        for name in config and config["var_names"]:
            arguments.pattern("var_names", name)
        return dict(config)


class PureUpdate(keras.optimizers.Optimizer):
    """Mixin for an optimizer whose own update is a pure function too.

    Transforms and update are then one function, compiled as one. To be mixed in
    before `Pipelined`.

    Attributes:
        own_slots: a method from a variable's index to its slots, without those of the
            transforms.
        step_scalars: a method from the number of the step, counted from 1, to what
            depends on it alone: a dictionary of scalars.
        change: a method from the gradient, the learning rate, `step_scalars` and the
            values of `own_slots`, to what to add to the variable and the new values.
    """

    own_slots: Callable[[int], list[keras.Variable]]
    step_scalars: Callable[[Tensor], dict[str, Tensor]]
    change: Callable[..., tuple[Tensor, list[Tensor]]]

    def prepare(
        self,
        gradient: Any,
        variable: Any,
        learning_rate: Any,
        before: Sequence[Pipeline] = (),
    ) -> Update:
        """The update of one variable, transforms and all; see `update_step`."""
        pipelines = [*before, self._pipeline]
        index = self._get_variable_index(variable)
        slots, plans = zip(*(pipeline.of(index) for pipeline in pipelines))
        own = self.own_slots(index)
        dtype = wide_dtype(variable.dtype)

        def step(gradient, parameter, learning_rate, scalars, slots, own):
            gradient, moved = ops.cast(gradient, dtype), []
            for pipeline, values, plan in zip(pipelines, slots, plans):
                gradient, learning_rate, values = pipeline.run(
                    gradient, learning_rate, values, plan
                )
                moved += values
            wide = [ops.cast(value, dtype) for value in own]
            change, new = self.change(gradient, learning_rate, scalars, wide)
            moved += [narrow(after, old.dtype) for after, old in zip(new, own)]
            return parameter + narrow(change, parameter.dtype), moved

        def scalars():
            return self.step_scalars(ops.cast(self.iterations + 1, dtype))

        arguments = (
            dense(gradient, variable),
            *read([variable]),
            ops.cast(learning_rate, dtype),
            self._pipeline.functions.scalars(dtype, scalars),
            [read(values) for values in slots],
            read(own),
        )
        return Update((plans, dtype), step, arguments, [*itertools.chain(*slots), *own])

    def update_step(
        self,
        gradient: Any,
        variable: Any,
        learning_rate: Any,
        before: Sequence[Pipeline] = (),
    ) -> None:
        """Transforms the gradient and updates one variable.

        Args:
            gradient: of the variable.
            variable: to update.
            learning_rate: a scalar.
            before: pipelines that run before this optimizer's own.
        """
        update = self.prepare(gradient, variable, learning_rate, before)
        parameter, moved = self._pipeline.functions.call(
            update.key,
            update.function,
            *update.arguments,
            jit_compile=all(p.jit_compile for p in [*before, self._pipeline]),
        )
        self.assign(variable, parameter)
        for slot, value in zip(update.slots, moved):
            self.assign(slot, value)


class Pipelined(Persistent):
    """Mixin for a Keras optimizer class: transforms run before its own update.

    Also checks the keywords that all optimizers share, and has the pipeline in `repr`.
    """

    update_name = "Adam"

    def __init__(self, learning_rate: Any, *args: Any, **keywords: Any) -> None:
        own = inspect.signature(type(self).__init__).parameters
        super().__init__(
            arguments.learning_rate(learning_rate),
            *args,
            **arguments.optimizer_keywords(set(own) - {"self", "keywords"}, keywords),
        )
        self._run_first()
        self._guard = CheckpointGuard(self)

    def _run_first(self, *transforms: Transform) -> None:
        self._pipeline = Pipeline(self, transforms)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms that run before the update, first to last."""
        return self._pipeline.transforms

    @property
    def pipelines(self) -> list[Pipeline]:
        """All that transforms within the update, in the order in which it runs."""
        return [self._pipeline]

    @outside_autograph
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slot variables, one set per model variable."""
        if self.built:
            return
        for pipeline in self.pipelines:
            pipeline.plan(variables)  # what can fail comes before anything is made
        self._find_excluded(variables)
        super().build(variables)
        self._pipeline.build(variables)
        self._transform_slots = self._pipeline.slots
        self._add_slots(variables)
        self._guard.check()

    def _add_slots(self, variables: Sequence[keras.Variable]) -> None:
        """Creates what slots an optimizer has beside its base's and its transforms'."""

    @outside_autograph
    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        """Updates the variables by their gradients, building first if necessary."""
        with self._pipeline.functions.one_step():
            super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Transforms the gradient, then updates one variable."""
        gradient, learning_rate = self._pipeline(gradient, variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        config = super().get_config()
        for transform in self.transforms:
            config.update(transform.get_config())
        return {**config, **self._exclusions_config()}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        """Creates the optimizer from what `get_config` returned."""
        config = dict(config)
        exclusions = cls._checked_exclusions(
            config.pop("exclude_from_weight_decay", {})
        )
        optimizer = super().from_config(config, custom_objects)
        optimizer._pipeline.exclusions = exclusions
        return optimizer

    def _steps(self) -> list[str]:
        own = super().get_config()
        steps = [repr(transform) for transform in self.transforms]
        return [*steps, f"{self.update_name}({settings(own)})"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: gradient -> {' -> '.join(self._steps())}>"
