"""What every optimizer of this package has beside what Keras gives it."""

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.arguments import LearningRate, OptimizerKeywords
from keras_gradopt.equations import Tensor, narrow, wide_dtype
from keras_gradopt.optimizers.compilation import outside_autograph
from keras_gradopt.optimizers.pipeline import (
    Pipeline,
    Update,
    add_slots,
    dense,
    step_number,
    tensors_of,
)
from keras_gradopt.optimizers.state import (
    CheckpointGuard,
    Layout,
    load_state,
    save_state,
)
from keras_gradopt.paths import matching, same_variables
from keras_gradopt.transforms import Slot, Transform


class BaseOptimizer(keras.optimizers.Optimizer):
    """An optimizer whose update is one pure function, with transforms before it.

    A subclass states its slots and says in `change` what to add to a variable.
    Transforms and change are then one function, compiled as one. What is saved is
    restored by name, exclusions from weight decay included, of which Keras knows
    nothing after a reload.

    Args:
        learning_rate: a float, a `keras.optimizers.schedules.LearningRateSchedule`,
            or a callable without arguments.
        transforms: a list of `keras_gradopt.transforms.Transform` objects, that run
            before the update, first to last. Defaults to none.
        **keywords: those of every Keras optimizer.

    Raises:
        ValueError: for an argument out of range or unknown.
    """

    update_name = ""  # of the update alone, for `repr`
    said_otherwise: Sequence[str] = ()  # arguments that are in `_update_in_words`
    slots: Sequence[Slot] = ()  # of the update itself

    def __init__(
        self,
        learning_rate: LearningRate,
        transforms: Sequence[Transform] = (),
        **keywords: Unpack[OptimizerKeywords],
    ) -> None:
        own = inspect.signature(type(self).__init__).parameters
        super().__init__(
            arguments.learning_rate(learning_rate),
            **arguments.optimizer_keywords(
                {*own, "transforms"} - {"self", "keywords"}, keywords
            ),
        )
        # copies: a transform may keep what it found out about the variables
        self._given = tuple(map(copy.copy, Pipeline(self, transforms).transforms))
        self._pipeline = Pipeline(self, self._given)
        self._named: list[Transform] = []  # what a class is named for
        self._parts: list[Pipeline] = []
        self._exclusions: dict[str, list[Any]] = {}
        self._excluded_ids: tuple[int, ...] = ()  # of the variables that were given
        self._guard = CheckpointGuard(self)

    # of what it is made

    def _run_last(self, transform: Transform) -> None:
        """Gives a named class the transform that it is named for."""
        self._named.append(transform)
        self._pipeline = Pipeline(self, [*self.transforms, transform])

    def _run_within(self, transform: Transform) -> None:
        """Gives a named class a transform of something within its update."""
        self._named.append(transform)
        self._parts.append(Pipeline(self, [transform]))

    def run_first(self, transforms: Sequence[Transform]) -> Pipeline:
        """Puts transforms before those that there are; not after the build."""
        Pipeline(self, transforms)  # checks them
        self._pipeline = Pipeline(self, [*transforms, *self.transforms])
        return self._pipeline

    def guarded_by(self, guard: CheckpointGuard) -> None:
        """Leaves checkpoints to the guard of what this optimizer is within."""
        self._guard = guard
        if hasattr(self, "_checkpointed_layout"):
            del self._checkpointed_layout

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms that run before the update, first to last."""
        return self._pipeline.transforms

    @property
    def pipelines(self) -> list[Pipeline]:
        """All that transforms within the update, in the order in which it runs."""
        return [self._pipeline, *self._parts]

    # what a subclass says

    def step_scalars(self, step: Tensor) -> dict[str, Tensor]:
        """What depends on the number of the step alone, counted from 1."""
        return {}

    def change(
        self,
        gradient: Tensor,
        learning_rate: Tensor,
        scalars: dict[str, Tensor],
        slots: list[Tensor],
        parts: list[Callable[[Tensor], Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """The update. A pure function of tensors, float32 or wider.

        Args:
            gradient: of one variable, after the transforms.
            learning_rate: a scalar, or of the variable's shape.
            scalars: from `step_scalars`.
            slots: the values of `slots`.
            parts: the transforms within the update, to be called.

        Returns:
            What to add to the variable, and the new values of the slots.
        """
        raise NotImplementedError

    # the step

    @outside_autograph
    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slot variables, one set per model variable."""
        if self.built:
            return
        for pipeline in self.pipelines:
            pipeline.plan(variables)  # what can fail comes before anything is made
        self._find_excluded(variables)
        super().build(variables)
        self._own_slots = [add_slots(self, v, self.slots) for v in variables]
        for pipeline in self.pipelines:
            pipeline.build(variables)
        self._guard.built_on(variables)

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
        """Transforms the gradient and updates one variable."""
        update = self.prepare(gradient, variable, learning_rate)
        self.assign(variable, self._pipeline.call(update))

    def prepare(self, gradient: Any, variable: Any, learning_rate: Any) -> Update:
        """The update of one variable, transforms and all; see `update_step`."""
        index = self._get_variable_index(variable)
        slots, plans = zip(
            *(pipeline.for_variable(index) for pipeline in self.pipelines)
        )
        own = self._own_slots[index]
        dtype = wide_dtype(variable.dtype)

        def update(gradient, parameter, learning_rate, scalars, slots, own):
            gradient, value = ops.cast(gradient, dtype), ops.cast(parameter, dtype)
            step = scalars["step"]
            gradient, learning_rate, first = self._pipeline.run(
                gradient, learning_rate, slots[0], plans[0], value, step
            )
            moved = [first, *slots[1:]]

            def part(position, pipeline):
                def run(x):
                    x, _, moved[position] = pipeline.run(
                        x, 1.0, slots[position], plans[position], value, step
                    )
                    return x

                return run

            parts = [part(i, pipeline) for i, pipeline in enumerate(self._parts, 1)]
            wide = [ops.cast(slot, dtype) for slot in own]
            change, new = self.change(gradient, learning_rate, scalars, wide, parts)
            new = [narrow(after, before.dtype) for after, before in zip(new, own)]
            parameter = parameter + narrow(change, parameter.dtype)
            return parameter, [*itertools.chain(*moved), *new]

        def scalars():
            step = step_number(self, dtype)
            return {"step": step, **self.step_scalars(step)}

        tensors = (
            dense(gradient, variable),
            *tensors_of([variable]),
            ops.cast(learning_rate, dtype),
            self._pipeline.functions.scalars(dtype, scalars),
            [tensors_of(values) for values in slots],
            tensors_of(own),
        )
        moved = [*itertools.chain(*slots), *own]
        return Update((plans, dtype), update, tensors, moved, is_whole=True)

    # what is saved

    def state_layout(self) -> Layout:
        """What this optimizer's variables are."""
        return Layout.of(self, self._guard.variables)

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
        exclusions: dict[str, list[Any]] = {
            "paths": [variable.path for variable in var_list or []],
            "var_names": [arguments.pattern("var_names", x) for x in var_names or []],
        }
        keeper = self._excluding()
        if self.built:
            known = {name: keeper._exclusions.get(name, []) for name in exclusions}
            if any(sorted(exclusions[name]) != sorted(known[name]) for name in known):
                raise ValueError(
                    "`exclude_from_weight_decay` must be called before the optimizer "
                    f"is built. Received: var_list={var_list}, var_names={var_names}"
                )
            return
        keeper._exclusions = exclusions
        keeper._excluded_ids = tuple(map(id, var_list or []))
        super().exclude_from_weight_decay(var_list, var_names)

    def _excluding(self) -> "BaseOptimizer":
        """The optimizer that keeps what is excluded from weight decay."""
        return self

    def _find_excluded(self, variables: Sequence[keras.Variable]) -> None:
        excluded = self._exclusions
        if not excluded:
            return
        here = [getattr(variable, "path", variable.name) for variable in variables]
        places = {id(variable): place for place, variable in enumerate(variables)}
        # what was given is found by what it is; after a reload there are paths only,
        # of all variables of the build and where in them the excluded ones were
        given = self._excluded_ids or (0,) * len(excluded["paths"])
        found = {places[i] for i in given if i in places}
        before = excluded.get("built_on", [])
        wanted = dict.fromkeys(excluded.get("positions", ()))
        pairs = same_variables(here, before)
        found |= {place for place, there in pairs.items() if there in wanted}
        known = {before[there] for there in wanted}
        rest = [p for p, i in zip(excluded["paths"], given) if i not in places]
        rest = [path for path in rest if path not in known]
        by_path = matching(here, rest)
        found |= set(by_path)
        missing = [before[there] for there in wanted if there not in pairs.values()]
        missing += [p for i, p in enumerate(rest) if i not in by_path.values()]
        positions = sorted(found)
        listed = [variables[place] for place in positions]
        super().exclude_from_weight_decay(listed, excluded["var_names"])
        self._exclusions = {
            "paths": [here[place] for place in positions] + missing,
            "var_names": [*excluded["var_names"]],
            "built_on": here,
            "positions": positions,
        }
        if missing:
            warnings.warn(
                "Excluded from weight decay, but not among the variables that the "
                f"optimizer is built on: {missing}",
                stacklevel=2,
            )

    def _exclusions_config(self) -> dict[str, Any]:
        excluded = self._exclusions
        return {"exclude_from_weight_decay": excluded} if excluded else {}

    @staticmethod
    def _checked_exclusions(config: Any) -> dict[str, list[Any]]:
        """The exclusions in a config, which may have been damaged."""
        names = {"paths", "var_names"}  # and, of an optimizer that was built:
        kinds: dict[str, type] = {"built_on": str, "positions": int}
        if config and not (
            isinstance(config, Mapping)
            and set(config) in (names, names | set(kinds))
            and all(isinstance(x, (list, tuple)) for x in config.values())
            and all(type(x) is kinds.get(n, str) for n in config for x in config[n])
            and set(config.get("positions", ())).issubset(
                range(len(config.get("built_on", ())))
            )
        ):
            raise arguments.refuse(
                "exclude_from_weight_decay",
                config,
                "a dictionary of lists of strings, `paths` and `var_names`; of an "
                "optimizer that was built also `built_on` and `positions` in it",
            )
        for name in config and config["var_names"]:
            arguments.pattern("var_names", name)
        return dict(config)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        config = super().get_config()
        if self._given:
            serialize = keras.saving.serialize_keras_object
            config["transforms"] = [serialize(transform) for transform in self._given]
        for transform in self._named:
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
        if "transforms" in config:
            config["transforms"] = [
                keras.saving.deserialize_keras_object(item, custom_objects)
                for item in config["transforms"]
            ]
        optimizer = super().from_config(config, custom_objects)
        optimizer._exclusions = exclusions
        return optimizer

    def _update_in_words(self, update: str) -> str:
        """The update, for `repr`, from that without its parts."""
        return update

    def __repr__(self) -> str:
        config = config_of(self)
        elsewhere = {"transforms", "exclude_from_weight_decay", *self.said_otherwise}
        for transform in self._named:
            elsewhere |= set(transform.get_config())
        own = {name: x for name, x in config.items() if name not in elsewhere}
        update = self._update_in_words(f"{self.update_name}({settings(own)})")
        steps = [*map(repr, self.transforms), update]
        return f"<{type(self).__name__}: gradient -> {' -> '.join(steps)}>"


def config_of(optimizer: Any) -> dict[str, Any]:
    """The config of an optimizer, for its `repr`: of one that cannot be saved, too.

    A schedule or callable of a user may be unable to describe itself.
    """
    try:
        return dict(optimizer.get_config())
    except Exception:  # of someone else's class, of any kind
        return {"learning_rate": {"class_name": "function"}}


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
            found_out = ("built_on", "positions")  # of excluded variables
            shown = [
                f"{k!r}: {show(v)}" for k, v in value.items() if k not in found_out
            ]
            return f"{{{', '.join(shown)}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(show, value))}]"
        # a learning rate is kept in float32: show it as it was given
        return repr(float(f"{value:.7g}") if isinstance(value, float) else value)

    return ", ".join(
        f"{name}={show(value)}"
        for name, value in config.items()
        if name not in unused and value is not None and value is not False
    )
