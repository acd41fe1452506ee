"""Measuring the updates of an optimizer, within the step that makes them."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.equations import Tensor, l2_norm, wide_dtype
from keras_gradopt.optimizers.compilation import StepFunctions
from keras_gradopt.optimizers.pipeline import PureUpdate, Update, dense, read
from keras_gradopt.optimizers.transformed import Transformed, update_one_by_one
from keras_gradopt.summaries import OF_TRANSFORM, OF_UPDATE


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


class Probe:
    """Measures the updates of one optimizer, as long as it is attached."""

    def __init__(self, optimizer: Any, every: int, model: keras.Model) -> None:
        self._outer, self._every = optimizer, every
        wraps = isinstance(optimizer, Transformed)
        self._optimizer = optimizer.inner_optimizer if wraps else optimizer
        self._pipelines = getattr(optimizer, "pipelines", [])
        transforms = [t for p in self._pipelines for t in p.transforms]
        self.labels = _labels([type(t).__name__ for t in transforms])
        known = _known_variables(self._optimizer, model.trainable_variables)
        self.paths = [variable.path for variable in known]
        self.sizes = np.array([math.prod(variable.shape) for variable in known])
        precision = {"float64": -52, "float32": -23, "float16": -10, "bfloat16": -7}
        self.rounding = np.array(
            [2.0 ** precision.get(keras.backend.standardize_dtype(v.dtype), -7)
             for v in known]
        )  # fmt: skip
        self._positions = {self._index(v): i for i, v in enumerate(known)}
        self._functions = StepFunctions()
        self._arrived: dict[int, dict[int, np.ndarray]] = {}  # step, position
        self._last = 0
        # micro-steps, of which accumulation makes one
        self._per_step = self._optimizer.gradient_accumulation_steps or 1
        self._counter = next(
            v for v in self._optimizer.variables if v.name == "iteration"
        )
        self._micro_steps = int(ops.convert_to_numpy(*read([self._counter])))
        self._attach(model)

    @property
    def updates(self) -> int:
        """How many the optimizer has made."""
        return int(ops.convert_to_numpy(*read([self._counter]))) // self._per_step

    def _index(self, variable):
        return self._optimizer._get_variable_index(variable)

    def _attach(self, model: keras.Model) -> None:
        optimizer = self._optimizer
        shape = (len(OF_UPDATE) + len(self.labels) * len(OF_TRANSFORM),)
        self._variables = []
        if keras.backend.backend() != "jax":  # which must keep no other state
            with scope_of(model):
                self._variables = [
                    keras.Variable(np.zeros(shape), dtype="float32", trainable=False)
                    for _ in self.paths
                ]
        earlier = _attached(optimizer)
        if earlier:  # to an interrupted `fit`, or to this one
            warnings.warn(
                "The optimizer had a GradientMonitor, which measures no longer.",
                stacklevel=2,
            )
            earlier.detach()
        self._restore = {
            name: vars(optimizer).get(name) for name in ("apply", "update_step")
        }
        self._class = type(optimizer)
        update_one_by_one(optimizer)
        apply, update_step = optimizer.apply, optimizer.update_step

        def monitored_apply(*args, **keywords):
            with self._functions.one_step():
                return apply(*args, **keywords)

        def monitored_update_step(gradient, variable, learning_rate):
            due = self._due()
            if _runs_eagerly() and not due:
                update_step(gradient, variable, learning_rate)
                return
            update = self._prepare(gradient, variable, learning_rate)
            (before,), of_update = read([variable]), update.arguments
            if keras.backend.backend() == "torch":  # where updates are in place
                gradient, before, of_update = keras.tree.map_structure(
                    ops.copy, (gradient, before, of_update)
                )
            update_step(gradient, variable, learning_rate)
            (after,) = read([variable])
            position = self._positions[self._index(variable)]
            self._sample(due, position, update, gradient, before, of_update, after)

        monitored_update_step.probe = self  # type: ignore[attr-defined]
        optimizer.apply = monitored_apply
        optimizer.update_step = monitored_update_step

    def detach(self) -> None:
        """Leaves the optimizer as it was."""
        if _attached(self._optimizer) is not self:
            return
        for name, value in self._restore.items():
            if value is None:
                delattr(self._optimizer, name)
            else:
                setattr(self._optimizer, name, value)
        self._optimizer.__class__ = self._class

    def _prepare(self, gradient, variable, learning_rate) -> Update:
        """What the optimizer is about to do, to be done again when it is measured."""
        optimizer, pipelines = self._optimizer, self._pipelines
        if isinstance(optimizer, PureUpdate):
            before = pipelines[:1] if self._outer is not optimizer else []
            return optimizer.prepare(gradient, variable, learning_rate, before)
        updates = [p.prepare(gradient, variable, learning_rate) for p in pipelines]

        if not updates:
            return Update((), lambda: None, (), [])

        def run(gradient, learning_rate, slots):
            for update, values in zip(updates, slots):
                gradient, learning_rate, _ = update.function(
                    gradient, learning_rate, values
                )

        first = updates[0].arguments
        slots = [update.arguments[-1] for update in updates]
        key = tuple(update.key for update in updates)
        return Update(key, run, (*first[:-1], slots), [])

    def _due(self) -> Tensor:
        """Whether this step is to be sampled."""
        (micro_steps,) = read([self._counter])
        step, of_step = micro_steps // self._per_step, micro_steps % self._per_step
        # JAX comes here in all micro-steps, and drops what all but the last one did
        last = ops.equal(of_step, self._per_step - 1)
        return ops.logical_and(last, ops.equal(step % self._every, 0))

    def _sample(
        self, due, position, update, gradient, before, arguments, after
    ) -> None:
        step = ops.cast(self._optimizer.iterations + 1, "float32")

        def measure():
            return self._functions.call(
                ("monitor", update.key, str(before.dtype)),
                lambda *tensors: self._measure(update.function, *tensors),
                step, dense(gradient, before), before, after, arguments,
                jit_compile=all(p.jit_compile for p in self._pipelines),
            )  # fmt: skip

        if keras.backend.backend() == "jax":
            import jax

            def send():
                jax.debug.callback(self._receive, position, measure())
                return 0

            ops.cond(due, send, lambda: 0)
        else:
            variable = self._variables[position]
            (old,) = read([variable])
            self._optimizer.assign(variable, ops.cond(due, measure, lambda: old))

    def _measure(self, function, step, gradient, before, after, arguments) -> Tensor:
        """A vector of `OF_UPDATE`, and of `OF_TRANSFORM` for each transform."""
        dtype = wide_dtype(before.dtype)
        gradient, before, after = (
            ops.cast(x, dtype) for x in (gradient, before, after)
        )
        change = after - before
        plain = ops.zeros_like(change)
        if isinstance(self._optimizer, PureUpdate):
            with _all_set(self._pipelines, bypassed=True):
                parameter, _ = function(*arguments)
            plain = ops.cast(parameter, dtype) - before
        peak = ops.max(ops.abs(gradient)) if gradient.shape else ops.abs(gradient)
        values = [
            step,
            ops.sum(ops.abs(gradient)),
            _norm(gradient),
            peak,
            _norm(change),
            _norm(before),
            -ops.sum(_unit(gradient) * _unit(change)),
            _norm(plain),
            _chord(change, plain),
        ]

        def observe(transform, received, result):
            coefficient = result.coefficient
            if coefficient is None:
                coefficient = ops.ones((1,), dtype)
            mean = ops.mean(coefficient)
            spread = ops.sqrt(ops.mean(ops.square(coefficient - mean)))
            left = ops.cast(result.gradient, dtype)
            chord = _chord(received, left)
            values.extend([_norm(received), _norm(left), chord, mean, spread])

        with _all_set(self._pipelines, observer=observe):
            function(*arguments)
        return ops.stack([ops.cast(value, "float32") for value in values])

    def _receive(self, position, values) -> None:
        self._arrived.setdefault(int(values[0]), {})[int(position)] = np.array(values)

    def has_passed(self, micro_steps: int) -> bool:
        """Whether, with so many micro-steps more, there was one to sample."""
        before = self._micro_steps // self._per_step
        self._micro_steps += micro_steps
        after = self._micro_steps // self._per_step
        return (after - 1) // self._every > (before - 1) // self._every

    def new_samples(self) -> Iterator[tuple[int, np.ndarray]]:
        """Steps, and what was measured in each: an array (variable, quantity)."""
        if keras.backend.backend() == "jax":
            import jax

            jax.effects_barrier()
        else:
            for position, value in enumerate(read(self._variables)):
                self._receive(position, ops.convert_to_numpy(value))
        for step in sorted(self._arrived):
            of_step = self._arrived.pop(step)
            if step > self._last:
                self._last = step
                empty = np.zeros_like(next(iter(of_step.values())))
                rows = [of_step.get(i, empty) for i in range(len(self.paths))]
                yield step, np.array(rows, "float64")


def _attached(optimizer):
    """The probe that measures an optimizer, if there is one."""
    return getattr(vars(optimizer).get("update_step"), "probe", None)


def _known_variables(optimizer, variables):
    known = []
    for variable in variables:
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


def _norm(x: Tensor) -> Tensor:
    """The L2 norm, without overflow and underflow of squares."""
    if not x.shape:
        return ops.abs(x)
    peak = ops.max(ops.abs(x))
    scale = ops.where(peak > 0, peak, 1.0)
    return peak * l2_norm(x / scale)


def _unit(x: Tensor) -> Tensor:
    norm = _norm(x)
    return x / ops.where(norm > 0, norm, 1.0)


def _chord(a: Tensor, b: Tensor) -> Tensor:
    """The distance of two directions: twice the sine of half their angle."""
    return _norm(_unit(a) - _unit(b))
