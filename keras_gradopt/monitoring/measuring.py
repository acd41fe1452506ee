"""Measuring the updates of an optimizer, within the step that makes them."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.equations import Tensor, wide_dtype
from keras_gradopt.monitoring.details import Details, Measured
from keras_gradopt.monitoring.summaries import OF_TRANSFORM, OF_UPDATE
from keras_gradopt.monitoring.vectors import length, polar
from keras_gradopt.optimizers.compilation import StepFunctions
from keras_gradopt.optimizers.pipeline import Update, dense, tensors_of
from keras_gradopt.optimizers.transformed import update_one_by_one


def scope_of(model):
    """Where variables that belong to the model's optimizer are created."""
    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow
    return strategy.scope() if strategy else contextlib.nullcontext()


def updating_optimizers(optimizer):
    """Those whose `update_step` runs, within Keras' wrappers."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return updating_optimizers(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):  # a MultiOptimizer
        return [x for one in optimizer.optimizers for x in updating_optimizers(one)]
    return [optimizer]


class TrainingStep:
    """A model's training step, in which probes measure when they are asked to.

    It stands in place of `model.train_function` while somebody asks, call by call: an
    optimizer is altered during a call only, and a call that nobody asked to measure
    (after an interrupted `fit`) puts Keras' function back. What was traced with probes
    in it is kept as long as that function, for the next `fit`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._plain: Any = None
        self._probes: list[Probe] = []
        self._asked: list[Probe] = []
        self._functions: dict[tuple[Probe, ...], Any] = {}
        self._then: list[Callable[[], None]] = []

    @classmethod
    def for_model(cls, model: keras.Model) -> "TrainingStep":
        """The one that was made for the model's present function, or a new one."""
        function = model.train_function
        if not isinstance(function, cls):
            function = getattr(function, "measured", None) or cls(model)
        return function

    def probes(
        self, optimizers: Sequence[Any], every: int, details: Details
    ) -> list["Probe"]:
        """One for each optimizer, which no other monitor has."""
        return [self._probe(optimizer, every, details) for optimizer in optimizers]

    def _probe(self, optimizer, every, details):
        for probe in self._probes:
            if probe.is_for(optimizer, every, details) and probe not in self._asked:
                return probe
        self._probes.append(Probe(optimizer, every, self._model, details))
        return self._probes[-1]

    def ask(
        self, probes: Sequence["Probe"], then: Callable[[], None] | None = None
    ) -> None:
        """Has the next call measure, and call `then` at its end."""
        model = self._model
        if model.train_function is not self and model.train_function is not self._plain:
            self._plain, self._functions = model.train_function, {}  # made anew
            self._plain.measured = self
        self._asked += [probe for probe in probes if probe not in self._asked]
        if then:
            self._then.append(then)
        key = tuple(self._asked)
        if key not in self._functions:
            self._functions[key] = self._made_anew()
        model.train_function = self

    def _made_anew(self):
        # JAX takes the equal methods `model.train_step` for one function, and would run
        # the program that it has of Keras' own
        attributes, train_step = vars(self._model), self._model.train_step
        before = attributes.get("train_step")
        attributes["train_step"] = lambda *data: train_step(*data)
        try:
            self._model.make_train_function(force=True)
        finally:
            del attributes["train_step"]
            if before is not None:
                attributes["train_step"] = before
        return self._model.train_function

    def leave(self, probes: Sequence["Probe"]) -> None:
        """Takes back what these probes were asked; Keras' function, if no other is."""
        self._asked = [probe for probe in self._asked if probe not in probes]
        if not self._asked and self._model.train_function is self:
            self._model.train_function = self._plain

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        (probes, self._asked), (then, self._then) = (self._asked, []), (self._then, [])
        if not probes:
            self.leave([])
            return self._plain(*args, **keywords)
        with contextlib.ExitStack() as attached:
            for probe in probes:
                attached.enter_context(probe.attached())
            result = self._functions[tuple(probes)](*args, **keywords)
        for function in then:
            function()
        return result


class Probe:
    """Measures the updates of one optimizer while it is attached."""

    def __init__(
        self,
        optimizer: Any,
        every: int,
        model: keras.Model,
        details: Details,
    ) -> None:
        self._outer, self._every = optimizer, every
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._pipelines = getattr(optimizer, "pipelines", [])
        transforms = [t for p in self._pipelines for t in p.transforms]
        self.labels = _labels([t.shown_as for t in transforms])
        # as its `repr` calls the update
        name = type(self._optimizer).__name__
        self.base = getattr(self._optimizer, "update_name", name)
        known = _known_variables(self._optimizer, model.trainable_variables)
        self.paths = [variable.path for variable in known]
        self.sizes = np.array([math.prod(variable.shape) for variable in known])
        self.rounding = np.array([_rounding(v.dtype) for v in known])
        self._positions = {self._index(v): i for i, v in enumerate(known)}
        self._functions = StepFunctions()
        # micro-steps, of which accumulation makes one
        self._per_step = self._optimizer.gradient_accumulation_steps or 1
        self._counter = next(
            v for v in self._optimizer.variables if v.name == "iteration"
        )
        self.details = Measured(details, self._optimizer, known, self.labels)
        self._unclipped: Iterator[Any] = iter(())
        shape = (self._without_details + self.details.width,)
        self._variables = []
        if keras.backend.backend() != "jax":  # which must keep no other state
            with scope_of(model):
                self._variables = [
                    keras.Variable(np.zeros(shape), dtype="float32", trainable=False)
                    for _ in self.paths
                ]
        self._is_attached = False
        self.begin()

    @property
    def _without_details(self) -> int:
        return len(OF_UPDATE) + len(self.labels) * len(OF_TRANSFORM)

    def begin(self) -> None:
        """Forgets what was measured before."""
        self._arrived: dict[int, dict[int, np.ndarray]] = {}  # step, position
        self._last = 0
        self._micro_steps = int(ops.convert_to_numpy(*tensors_of([self._counter])))
        for variable in self._variables:
            variable.assign(ops.zeros(variable.shape))

    def is_for(self, optimizer: Any, every: int, details: Details) -> bool:
        """Whether it measures this of this optimizer in these steps."""
        same = self._every == every and self.details.details == details
        return self._outer is optimizer and same

    @property
    def updates(self) -> int:
        """How many the optimizer has made."""
        return int(ops.convert_to_numpy(*tensors_of([self._counter]))) // self._per_step

    def _index(self, variable):
        return self._optimizer._get_variable_index(variable)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Has the optimizer measured within; leaves it as it was, whatever happens."""
        if self._is_attached:
            yield
            return
        optimizer, own_class = self._optimizer, type(self._optimizer)
        altered = ("apply", "update_step", "_clip_gradients")
        before = {name: vars(optimizer).get(name) for name in altered}
        try:
            self._is_attached = True
            update_one_by_one(optimizer)
            self._intercept(optimizer.apply, optimizer.update_step)
            yield
        finally:
            self._is_attached = False
            optimizer.__class__ = own_class
            for name, value in before.items():
                if value is not None:
                    setattr(optimizer, name, value)
                elif name in vars(optimizer):
                    delattr(optimizer, name)

    def _intercept(self, apply, update_step):
        def monitored_apply(*args, **keywords):
            with self._functions.one_step():
                return apply(*args, **keywords)

        def monitored_update_step(gradient, variable, learning_rate):
            due, unclipped = self._due(), next(self._unclipped, None)
            position = self._positions.get(self._index(variable))
            if position is None or (_runs_eagerly() and not due):
                update_step(gradient, variable, learning_rate)
                return
            update = self._prepare(gradient, variable, learning_rate)
            (before,), of_update = tensors_of([variable]), update.arguments
            beside = {}
            if unclipped is not None:
                beside["unclipped"] = dense(unclipped, variable)
            if keras.backend.backend() == "torch":  # where updates are in place
                gradient, before, of_update, beside = keras.tree.map_structure(
                    ops.copy, (gradient, before, of_update, beside)
                )
            update_step(gradient, variable, learning_rate)
            (after,) = tensors_of([variable])
            slots = self.details.slots[position]
            beside["slots"] = dict(zip(slots, tensors_of(list(slots.values()))))
            self._sample(
                due, position, update, gradient, before, of_update, after, beside
            )

        self._optimizer.apply = monitored_apply
        self._optimizer.update_step = monitored_update_step
        if self.details.details.clipping:
            self._note_gradients_before_clipping()

    def _note_gradients_before_clipping(self):
        # Keras clips all gradients, and then calls `update_step` in the same order
        clip = self._optimizer._clip_gradients

        def noted(gradients):
            clipped = clip(gradients)
            self._unclipped = iter(list(gradients))
            return clipped

        self._optimizer._clip_gradients = noted

    def _prepare(self, gradient, variable, learning_rate) -> Update:
        """What the optimizer is about to do, to be done again when it is measured."""
        if hasattr(self._outer, "prepare"):
            return self._outer.prepare(gradient, variable, learning_rate)
        return Update((), lambda: None, (), [], is_whole=False)

    def _due(self) -> Tensor:
        """Whether this step is to be sampled."""
        (micro_steps,) = tensors_of([self._counter])
        step, of_step = micro_steps // self._per_step, micro_steps % self._per_step
        # JAX comes here in all micro-steps, and drops what all but the last one did
        last = ops.equal(of_step, self._per_step - 1)
        return ops.logical_and(last, ops.equal(step % self._every, 0))

    def _sample(
        self, due, position, update, gradient, before, arguments, after, beside
    ) -> None:
        step = ops.cast(self._optimizer.iterations + 1, "float32")

        def measure():
            # TensorFlow never frees what XLA compiled, some ten times the size of the
            # graph; for what runs in few steps that does not pay
            return self._functions.call(
                ("monitor", update.key, str(before.dtype)),
                lambda *tensors: self._measure(update, *tensors),
                step, dense(gradient, before), before, after, arguments, beside,
                jit_compile=False,
            )  # fmt: skip

        if keras.backend.backend() == "jax":
            import jax

            def send():
                jax.debug.callback(self._receive, position, measure())
                return 0

            ops.cond(due, send, lambda: 0)
        else:
            variable = self._variables[position]
            (old,) = tensors_of([variable])
            self._optimizer.assign(variable, ops.cond(due, measure, lambda: old))

    def _measure(
        self, update, step, gradient, before, after, arguments, beside
    ) -> Tensor:
        """A vector: `OF_UPDATE`, `OF_TRANSFORM` for each transform, the details."""
        tolerance = max(1e-6, 4 * _rounding(gradient.dtype))
        dtype = wide_dtype(before.dtype)
        gradient, before, after = (
            ops.cast(x, dtype) for x in (gradient, before, after)
        )
        change = after - before
        plain = ops.zeros_like(change)
        if update.is_whole:
            with _all_set(self._pipelines, bypassed=True):
                parameter, _ = update.function(*arguments)
            plain = ops.cast(parameter, dtype) - before
        gradient_l2, steepest = polar(gradient)
        change_l2, direction = polar(change)
        plain_l2, plain_direction = polar(plain)
        values = [
            step,
            ops.sum(ops.abs(gradient)),
            gradient_l2,
            ops.max(ops.abs(gradient)),
            change_l2,
            polar(before)[0],
            -ops.sum(steepest * direction),
            plain_l2,
            length(direction - plain_direction),
        ]

        labels, coefficients = iter(self.labels), {}

        def observe(transform, received, result):
            label = next(labels)
            if result is None:
                values.extend([-ops.ones((), dtype)] * len(OF_TRANSFORM))
                return
            coefficient = result.coefficient
            if coefficient is None:
                coefficient = ops.ones((1,), dtype)
            coefficients[label] = coefficient
            mean = ops.mean(coefficient)
            spread = ops.sqrt(ops.mean(ops.square(coefficient - mean)))
            received_l2, came = polar(received)
            left_l2, went = polar(ops.cast(result.gradient, dtype))
            values.extend([received_l2, left_l2, length(came - went), mean, spread])

        with _all_set(self._pipelines, observer=observe):
            update.function(*arguments)
        main = ops.stack([ops.cast(value, "float32") for value in values])
        more = self.details.measure(
            gradient, change, coefficients, beside.get("unclipped"), beside["slots"],
            tolerance,
        )  # fmt: skip
        return ops.concatenate([main, *more]) if more else main

    def _receive(self, position, values) -> None:
        self._arrived.setdefault(int(values[0]), {})[int(position)] = np.array(values)

    def has_passed(self, micro_steps: int) -> bool:
        """Whether, with so many micro-steps more, there was one to sample."""
        before = self._micro_steps // self._per_step
        self._micro_steps += micro_steps
        after = self._micro_steps // self._per_step
        return (after - 1) // self._every > (before - 1) // self._every

    def new_samples(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Steps, and what was measured in each: an array (variable, quantity).

        The details are an array of their own.
        """
        if keras.backend.backend() == "jax":
            import jax

            jax.effects_barrier()
        else:
            for position, value in enumerate(tensors_of(self._variables)):
                self._receive(position, ops.convert_to_numpy(value))
        for step in sorted(self._arrived):
            of_step = self._arrived.pop(step)
            if step > self._last:
                self._last = step
                empty = np.zeros_like(next(iter(of_step.values())))
                rows = [of_step.get(i, empty) for i in range(len(self.paths))]
                values = np.array(rows, "float64")
                main, more = np.split(values, [self._without_details], axis=1)
                yield step, main, more


def _rounding(dtype):
    """The relative rounding of a floating dtype."""
    precision = {"float64": -52, "float32": -23, "float16": -10, "bfloat16": -7}
    return 2.0 ** precision.get(keras.backend.standardize_dtype(dtype), -7)


def _known_variables(optimizer, variables):
    known = []
    for variable in variables:
        if 0 in variable.shape:  # nothing to measure
            continue
        with contextlib.suppress(KeyError):
            optimizer._get_variable_index(variable)
            known.append(variable)
    return known


def _runs_eagerly() -> bool:
    """Whether a condition can be asked for, instead of being built into a graph."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly()
    return keras.backend.backend() == "torch"


def _labels(names: Sequence[str]) -> list[str]:
    """The names, those that occurred already with a number."""
    return [
        name if name not in names[:i] else f"{name}_{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]


@contextlib.contextmanager
def _all_set(pipelines: Sequence[Any], **attributes: Any) -> Iterator[None]:
    """Sets attributes of pipelines, and what they were before at the end."""
    before = [{name: getattr(p, name) for name in attributes} for p in pipelines]
    try:
        for pipeline in pipelines:
            vars(pipeline).update(attributes)
        yield
    finally:
        for pipeline, values in zip(pipelines, before):
            vars(pipeline).update(values)
