"""Callbacks that show what an optimizer does while it trains."""

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor, l2_norm, wide_dtype
from keras_gradopt.optimizers.compilation import StepFunctions
from keras_gradopt.optimizers.pipeline import PureUpdate, Update, dense, read
from keras_gradopt.optimizers.transformed import Transformed, update_one_by_one

__all__ = ["GradientMonitor"]

_OF_UPDATE = (
    "step", "gradient_l1", "gradient_l2", "gradient_max", "update_l2", "parameter_l2",
    "cosine", "plain_l2", "plain_chord",
)  # fmt: skip
_OF_TRANSFORM = ("input_l2", "output_l2", "chord", "coefficient", "spread")
_TOLERANCE = 1e-4  # of ratios and angles, beside the rounding of the parameters


class GradientMonitor(keras.callbacks.Callback):
    """Records gradients, updates, and what each gradient transform did to them.

    It answers "is my optimizer doing anything?" for every Keras optimizer: any of
    this package, `Transformed`, Keras' own, also inside `LossScaleOptimizer` and
    `MultiOptimizer`. It measures within the compiled training step, on the gradients
    of that step (after clipping, accumulation and the all-reduce); there is no second
    backward pass, and next to nothing happens in steps that are not sampled.

    Each entry of `records` is a dictionary of one sampled step and one group of
    variables, with

    - `step`: the number of the update, from 1, and `group`;
    - `gradient_l1`, `gradient_l2`, `gradient_max`: norms of the gradient;
    - `update_l2`: norm of what the update added to the variables (without decoupled
      weight decay), `parameter_l2`: norm of the variables before it;
    - `effective_learning_rate`: `update_l2 / gradient_l2`;
    - `cosine`: of the update and the negative gradient, 1 along steepest descent;
    - for each transform T, of the gradient that came into it and the one that left:
      `T.gain`, the ratio of their norms; `T.removed_energy`, `1 - gain^2`, 0 where the
      gain is above 1; `T.angle` between them in radians; `T.changed`, the share of the
      group's variables for which they differ; `T.coefficient` and
      `T.coefficient_spread`, mean and standard deviation over entries of its factor of
      the learning rate, 1 and 0 if it has none;
    - `effect_angle` (radians) and `effect_scale`: how the update differs in direction
      and length from the update that the same optimizer would have made in this step,
      from the same state, had all its transforms done nothing. NaN where the update
      belongs to Keras (`WGDSGD`, `Transformed` over Keras' optimizers), for which only
      the transforms are measured.

    AdaNorm's correction and the activation of GAFSGD's velocity count as transforms.

    At the end of each epoch, means over its samples and all variables are in `logs`,
    and so in what `fit` returns: `gradient_l2`, `update_l2`, `cosine`,
    `effective_learning_rate`, and each transform's `gain` and `coefficient`.

    Args:
        every: sample each step whose number is 1 plus a multiple of this. Of a model
            that its first step builds, the first step is not seen; with
            `steps_per_execution` above `every`, only the last sample of an execution
            is. Defaults to `10`.
        group_by: `"variable"`, `"layer"`, `"model"` (one group), or a function from
            a variable's path to the name of its group. Defaults to `"layer"`.
        csv_path: a file to which records are written as they come. Defaults to none.
        log_dir: a folder for TensorBoard. Defaults to none.

    Raises:
        ValueError: for an argument out of range.

    Example:

    >>> import keras, keras_gradopt, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(keras_gradopt.AngularGrad(), "mse")
    >>> monitor = keras_gradopt.callbacks.GradientMonitor(every=1, group_by="model")
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> _ = model.fit(x, x.sum(1), 16, epochs=2, verbose=0, callbacks=[monitor])
    >>> len(monitor.records)
    8
    >>> 0.5 <= monitor.records[-1]["AngularFriction.coefficient"] <= 0.881
    True
    >>> monitor.alive
    True
    """

    def __init__(
        self,
        every: int = 10,
        group_by: str | Callable[[str], str] = "layer",
        csv_path: str | Path | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise arguments.refuse(
                "every", every, "a whole number of steps, at least 1"
            )
        if not callable(group_by):
            arguments.choice("group_by", group_by, ["variable", "layer", "model"])
        self.every = every
        self.group_by = group_by
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.log_dir = None if log_dir is None else str(log_dir)
        self.records: list[dict[str, Any]] = []
        self._probes: list[_Probe] = []
        self._seen: list[_Seen] = []
        self._writer: Any = None

    # of Keras

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins to measure in the training step, which is compiled anew."""
        if self.model.built:
            self._attach()
        if self.log_dir and self._writer is None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(self.log_dir)

    def _attach(self) -> None:
        model = self.model
        if not model.optimizer.built:
            with _scope(model):
                model.optimizer.build(model.trainable_variables)
        self._probes = [
            _Probe(optimizer, self.every, model)
            for optimizer in _updating_optimizers(model.optimizer)
        ]
        if not self._seen:
            self._seen = [_Seen(probe.labels) for probe in self._probes]
        model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begins the means of an epoch."""
        self._batch = -1
        self._of_epoch: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        """Takes up what was sampled."""
        micro_steps, self._batch = batch - self._batch, batch
        if not self._probes:  # the first step built the model
            self._attach()
            return
        for probe in self._probes:
            if probe.has_passed(micro_steps):
                self._take(probe)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the means of the epoch to `logs`."""
        for probe in self._probes:
            self._take(probe)
        names = ["gradient_l2", "update_l2", "cosine", "effective_learning_rate"]
        for probe in self._probes:
            names += [f"{t}.{x}" for t in probe.labels for x in ("gain", "coefficient")]
        for name in dict.fromkeys(names):
            values = [row[name] for row in self._of_epoch if name in row]
            if values and logs is not None:
                logs[name] = float(np.mean(values))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leaves the optimizer and the training step as they were."""
        for probe in self._probes:
            self._take(probe)
            probe.detach()
        self._probes = []
        if self._writer is not None:
            self._writer.flush()
        self.model.make_train_function(force=True)

    # results

    @property
    def alive(self) -> bool | None:
        """Whether the transforms do something that a learning rate alone could not.

        False: in no sample and for no variable did they change a direction, or vary
        in their factor: then the optimizer is its base optimizer, up to a constant
        factor of the learning rate. None: no samples yet, or no transforms.
        """
        verdicts = [seen.alive for seen in self._seen if seen.alive is not None]
        return any(verdicts) if verdicts else None

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints what each transform did over all samples, and the verdict.

        Args:
            print_fn: called with each line. Defaults to `print`.
        """
        for seen in self._seen:
            for line in seen.lines():
                print_fn(line)
        verdict = {
            None: "no transform was measured",
            True: "alive: the transforms change the update",
            False: "DEAD: the optimizer is its base, up to a constant learning rate",
        }
        print_fn(verdict[self.alive])

    def series(self, name: str, group: str | None = None) -> tuple[list, list]:
        """Steps and values of one quantity.

        Args:
            name: a key of the records.
            group: a group. Defaults to the only one.

        Returns:
            Two lists of equal length.

        Raises:
            ValueError: if there is no such quantity or group, or `group` is not
                given and there are several.
        """
        groups = list(dict.fromkeys(row["group"] for row in self.records))
        if group is None and len(groups) == 1:
            (group,) = groups
        if group not in groups:
            raise arguments.refuse("group", group, f"one of {groups}")
        rows = [row for row in self.records if row["group"] == group]
        if name not in rows[0]:
            raise arguments.refuse("name", name, f"one of {list(rows[0])}")
        return [row["step"] for row in rows], [row[name] for row in rows]

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the records, one panel for each quantity, one line for each group.

        Args:
            path: where to save the picture. Defaults to nowhere.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: if nothing was recorded.
        """
        from matplotlib.figure import Figure

        if not self.records:
            raise ValueError("Nothing to plot: no step was recorded.")
        shown = {
            "gradient_l2": "gradient, L2 norm",
            "update_l2": "update, L2 norm",
            "effective_learning_rate": "effective learning rate",
            "cosine": "cosine of update and -gradient",
        }
        for name in self.records[0]:
            transform, _, quantity = name.partition(".")
            if quantity in ("gain", "angle", "coefficient"):
                _, values = np.array([(0, row.get(name, 1)) for row in self.records]).T
                if np.ptp(values) > 0:
                    unit = ", radians" if quantity == "angle" else ""
                    shown[name] = f"{transform}: {quantity}{unit}"
        groups = dict.fromkeys(row["group"] for row in self.records)
        rows = math.ceil(len(shown) / 2)
        figure = Figure(figsize=(11, 2.8 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for axis in axes[len(shown) :]:
            axis.remove()
        for axis, (name, title) in zip(axes, shown.items()):
            for group in groups:
                points = [
                    (row["step"], row[name])
                    for row in self.records
                    if row["group"] == group and name in row
                ]
                axis.plot(*np.array(points).reshape(-1, 2).T, label=group, linewidth=1)
            axis.set(title=title, xlabel="step")
            axis.grid(alpha=0.3)
            if name in ("gradient_l2", "update_l2", "effective_learning_rate"):
                axis.set_yscale("log")
        if 1 < len(groups) <= 12:
            axes[0].legend(fontsize="x-small")
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    # samples

    def _take(self, probe: "_Probe") -> None:
        for step, values in probe.new_samples():
            self._seen[self._probes.index(probe)].add(values, probe.rounding)
            groups: dict[str, list[int]] = {}
            for index, path in enumerate(probe.paths):
                groups.setdefault(self._group(path), []).append(index)
            rows = [
                {"step": step, "group": group}
                | _combined(probe.labels, values[indices], probe.sizes[indices])
                for group, indices in groups.items()
            ]
            self._of_epoch.append(_combined(probe.labels, values, probe.sizes))
            self._write(rows)
            self.records += rows

    def _group(self, path: str) -> str:
        if callable(self.group_by):
            return self.group_by(path)
        names = {"variable": path, "layer": path.rpartition("/")[0], "model": "model"}
        return names[self.group_by]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.csv_path:
            self.csv_path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.records
            with open(self.csv_path, "w" if new else "a", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerows(rows)
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default():
                for row in rows:
                    for name in list(row)[2:]:
                        title = f"{row['group']}/{name}"
                        tf.summary.scalar(title, row[name], step=row["step"])


def _scope(model):
    """Where variables that belong to the model's optimizer are created."""
    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow
    return strategy.scope() if strategy else contextlib.nullcontext()


def _updating_optimizers(optimizer):
    """Those whose `update_step` runs, within Keras' wrappers."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _updating_optimizers(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):  # a MultiOptimizer
        return [x for one in optimizer.optimizers for x in _updating_optimizers(one)]
    return [optimizer]


class _Probe:
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
        (iterations,) = read([self._optimizer.iterations])
        self._micro_steps = self._per_step * int(ops.convert_to_numpy(iterations))
        self._attach(model)

    def _index(self, variable):
        return self._optimizer._get_variable_index(variable)

    def _attach(self, model: keras.Model) -> None:
        optimizer = self._optimizer
        shape = (len(_OF_UPDATE) + len(self.labels) * len(_OF_TRANSFORM),)
        self._variables = []
        if keras.backend.backend() != "jax":  # which must keep no other state
            with _scope(model):
                self._variables = [
                    keras.Variable(np.zeros(shape), dtype="float32", trainable=False)
                    for _ in self.paths
                ]
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
            update = self._prepare(gradient, variable, learning_rate)
            tensors = dense(gradient, variable), *read([variable]), update.arguments
            if keras.backend.backend() == "torch":  # where updates are in place
                tensors = keras.tree.map_structure(ops.copy, tensors)
            update_step(gradient, variable, learning_rate)
            (after,) = read([variable])
            position = self._positions[self._index(variable)]
            self._sample(position, update, after, *tensors)

        optimizer.apply = monitored_apply
        optimizer.update_step = monitored_update_step

    def detach(self) -> None:
        """Leaves the optimizer as it was."""
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

        def run(gradient, learning_rate, slots):
            for update, values in zip(updates, slots):
                gradient, learning_rate, _ = update.function(
                    gradient, learning_rate, values
                )

        arguments = (
            dense(gradient, variable),
            ops.cast(learning_rate, wide_dtype(variable.dtype)),
            [update.arguments[-1] for update in updates],
        )
        return Update(tuple(update.key for update in updates), run, arguments, [])

    def _sample(self, position, update, after, gradient, before, arguments) -> None:
        iterations = self._optimizer.iterations
        due = ops.equal(ops.mod(iterations, self._every), 0)
        step = ops.cast(iterations + 1, "float32")

        def measure():
            return self._functions.call(
                ("monitor", update.key, str(before.dtype)),
                lambda *tensors: self._measure(update.function, *tensors),
                step, gradient, before, after, arguments,
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
        """A vector of `_OF_UPDATE`, and of `_OF_TRANSFORM` for each transform."""
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


def _known_variables(optimizer, variables):
    known = []
    for variable in variables:
        with contextlib.suppress(KeyError):
            optimizer._get_variable_index(variable)
            known.append(variable)
    return known


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


def _angle(chord):
    return 2 * np.arcsin(np.minimum(np.abs(chord) / 2, 1))


def _root_sum(x):
    return math.sqrt(np.sum(np.square(x)))


def _ratio(a, b):
    return a / b if b else math.nan


def _between(a, b, chords):
    """The chord between two vectors, from their parts' norms and chords."""
    a, b = a / max(_root_sum(a), 1e-300), b / max(_root_sum(b), 1e-300)
    return math.sqrt(np.sum((a - b) ** 2 + a * b * chords**2))


def _of_transforms(labels, values):
    """For each transform its label, and its quantities for all variables."""
    size = len(_OF_TRANSFORM)
    columns = values.T[len(_OF_UPDATE) :]
    return [(label, columns[i * size :][:size]) for i, label in enumerate(labels)]


def _combined(labels, values, sizes) -> dict[str, float]:
    """What is recorded of some variables together."""
    named = dict(zip(_OF_UPDATE, values.T))
    gradient, update = named["gradient_l2"], named["update_l2"]
    steepness = np.sum(named["cosine"] * gradient * update)
    row = {
        "gradient_l1": float(np.sum(named["gradient_l1"])),
        "gradient_l2": _root_sum(gradient),
        "gradient_max": float(np.max(named["gradient_max"])),
        "update_l2": _root_sum(update),
        "parameter_l2": _root_sum(named["parameter_l2"]),
        "cosine": _ratio(steepness, _root_sum(gradient) * _root_sum(update)),
        "effective_learning_rate": _ratio(_root_sum(update), _root_sum(gradient)),
    }
    for label, columns in _of_transforms(labels, values):
        received, left, chord, coefficient, spread = columns
        gain = _ratio(_root_sum(left), _root_sum(received))
        mean = np.average(coefficient, weights=sizes)
        square = np.average(spread**2 + (coefficient - mean) ** 2, weights=sizes)
        differ = (np.abs(left - received) > 1e-6 * received) | (chord > 1e-6)
        row |= {
            f"{label}.gain": gain,
            f"{label}.removed_energy": max(1 - gain**2, 0.0),
            f"{label}.angle": float(_angle(_between(received, left, chord))),
            f"{label}.changed": float(np.mean(differ)),
            f"{label}.coefficient": float(mean),
            f"{label}.coefficient_spread": math.sqrt(square),
        }
    plain = named["plain_l2"]
    chord = _between(update, plain, named["plain_chord"])
    known = bool(np.any(plain))
    row["effect_angle"] = float(_angle(chord)) if known else math.nan
    row["effect_scale"] = _ratio(_root_sum(update), _root_sum(plain))
    return row


class _Seen:
    """The extremes of what was measured, variable by variable."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.samples = 0
        self._ranges: dict[str, tuple[float, float]] = {}
        self._sums = {label: np.zeros(3) for label in labels}
        self._varies = dict.fromkeys([*labels, "update"], False)
        self._plain_known = False

    def add(self, values: np.ndarray, rounding: np.ndarray) -> None:
        """Takes one sampled step, and the rounding of each variable's dtype."""
        self.samples += 1
        named = dict(zip(_OF_UPDATE, values.T))
        for label, columns in _of_transforms(self.labels, values):
            received, left, chord, coefficient, spread = columns
            there = received > 0
            if not there.any():
                continue
            gain = left[there] / received[there]
            self._widen(f"{label}.gain", gain)
            self._widen(f"{label}.coefficient", coefficient[there])
            self._widen(f"{label}.angle", _angle(chord[there]))
            relative = spread[there] / np.maximum(np.abs(coefficient[there]), 1e-30)
            self._varies[label] |= bool(np.any(chord[there] > _TOLERANCE))
            self._varies[label] |= bool(np.any(relative > _TOLERANCE))
            for quantity in ("gain", "coefficient"):
                low, high = self._ranges[f"{label}.{quantity}"]
                self._varies[label] |= high - low > _TOLERANCE * abs(high)
            self._sums[label] += [
                np.mean(gain),
                np.mean(coefficient[there]),
                np.mean((np.abs(gain - 1) > 1e-6) | (chord[there] > 1e-6)),
            ]
        update, plain = named["update_l2"], named["plain_l2"]
        there = (plain > 0) & (update > 0)
        if there.any():
            self._plain_known = True
            # parameters are rounded, so the change of one is known only so well
            noise = 4 * (rounding * named["parameter_l2"])[there] / plain[there]
            tolerance = _TOLERANCE + noise
            turned = named["plain_chord"][there] > tolerance
            scale = update[there] / plain[there]
            self._widen("update.low", scale + tolerance * scale)
            self._widen("update.high", scale - tolerance * scale)
            # no constant factor is within the tolerance of every ratio
            apart = self._ranges["update.high"][1] > self._ranges["update.low"][0]
            self._varies["update"] |= bool(np.any(turned)) or apart

    def _widen(self, name, values):
        values = values[np.isfinite(values)]
        low, high = self._ranges.get(name, (math.inf, -math.inf))
        if len(values):
            low, high = min(low, values.min()), max(high, values.max())
        self._ranges[name] = (low, high)

    @property
    def alive(self) -> bool | None:
        """Whether some transform, and with it the update, does something."""
        if not self.samples or not self.labels:
            return None
        acts = any(self._varies[label] for label in self.labels)
        return acts and (self._varies["update"] or not self._plain_known)

    def lines(self) -> Iterator[str]:
        """What each transform did, in words."""
        for label in self.labels:
            if f"{label}.gain" not in self._ranges:
                continue
            gain, coefficient, changed = self._sums[label] / self.samples
            low, high = self._ranges[f"{label}.gain"]
            first, last = self._ranges[f"{label}.coefficient"]
            _, angle = self._ranges[f"{label}.angle"]
            state = "alive" if self._varies[label] else "DEAD"
            yield (
                f"{label}: {state}; changed {changed:.0%} of gradients; gain "
                f"{gain:.4g} ({low:.4g} to {high:.4g}), turned by up to {angle:.3g} "
                f"rad; coefficient {coefficient:.4g} ({first:.4g} to {last:.4g})"
            )
        if self.labels and self._plain_known:
            differs = "differs from" if self._varies["update"] else "IS"
            yield f"The update {differs} the one without transforms."
