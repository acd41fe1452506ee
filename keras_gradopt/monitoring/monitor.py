"""A callback that shows what an optimizer does while it trains."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gradopt import arguments
from keras_gradopt.monitoring.details import (
    Clipped,
    Details,
    combined_details,
    recorded_details,
)
from keras_gradopt.monitoring.measuring import (
    Probe,
    TrainingStep,
    scope_of,
    updating_optimizers,
)
from keras_gradopt.monitoring.sinks import Sinks
from keras_gradopt.monitoring.summaries import (
    OF_UPDATE,
    Summary,
    Verdict,
    aligned,
    combined,
    recorded_names,
)


class GradientMonitor(keras.callbacks.Callback):
    """Records gradients, updates, and what each gradient transform did to them.

    It answers "is my optimizer doing anything?" for every Keras optimizer: any of
    this package, `Transformed`, Keras' own, also inside `LossScaleOptimizer` and
    `MultiOptimizer`. It measures within the compiled training step, on the gradients
    of that step (after clipping, accumulation and the all-reduce); there is no second
    backward pass. In a graph, steps that are not sampled only keep what the update
    overwrites, which is little beside a training step, but not for SGD on the sparse
    gradient of a large embedding; PyTorch, and TensorFlow where it runs eagerly, leave
    them alone.

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
      belongs to Keras (`Transformed` over Keras' optimizers), for which only
      the transforms are measured.

    And, where it is asked for, with

    - `unclipped_l2`: norm of the gradient before Keras clipped it; `clipped`, the share
      of the group's variables whose gradient clipping changed (`clipping=True`);
    - for each slot S of the optimizer that has its variable's shape, Adam's `momentum`
      and `velocity` for instance, after the update: `S.l2`, its norm, and `S.angle` to
      the gradient in radians, NaN where one of them is zero (`moments=True`). Keras'
      SGD keeps steps in its momentum and no gradients: its angle is pi where an
      average of gradients would have 0.

    With `histograms=`, each entry of `histograms` is a dictionary of one sampled step
    and one variable, however records are grouped: `step`, `variable`, `histogram`
    (`"gradient"`, `"update"` or `"T.coefficient"`), `edges`, an array of 31 numbers
    from the lowest to the highest entry at equal distances, and `counts`, an array of
    30 numbers of entries between them. Entries that are not finite are not counted.

    AdaNorm's correction and the activation of GAFSGD's velocity count as transforms.

    A variable without a gradient is in no group. The parts of a `MultiOptimizer` are
    recorded together; what is said of a transform is of the variables that have it.

    At the end of each epoch, means over its samples and all variables are in `logs`,
    and so in what `fit` returns: `gradient_l2`, `update_l2`, `cosine`,
    `effective_learning_rate`, and each transform's `gain` and `coefficient`; NaN if no
    step of the epoch was sampled.

    A monitor can be used again: `fit` goes on with its records, or begins anew if it
    is of another optimizer or from an earlier step.

    Args:
        every: sample each step whose number is 1 plus a multiple of this. Of a model
            that its first step builds, the first step is not seen; with
            `steps_per_execution` above `every`, only the last sample of an execution
            is. Defaults to `10`.
        group_by: `"variable"`, `"layer"`, `"model"` (one group), or a function from
            a variable's path to the name of its group. Defaults to `"layer"`.
        csv_path: a file to which records are written as they come. If it exists, what
            it has of earlier steps than the first of this run is kept. Defaults to
            none.
        log_dir: a folder for TensorBoard, which must be installed (TensorFlow need
            not be). Defaults to none.
        optimizer: which to measure, of a model that trains with several of its own (a
            GAN, say). Such an optimizer is built by its first step, which is not seen,
            unless you build it before. Defaults to `model.optimizer`.
        on_record: a function that is called with each record as it comes, a new
            dictionary; and with each histogram, if they are asked for, which has
            `"counts"`. What it returns is ignored, what it raises ends the training.
            Defaults to none.
        histograms: of what each sampled step has histograms: a list of `"gradient"`
            (after clipping), `"update"`, `"coefficient"` (of each transform); `True`
            for all of them. Defaults to `False`, none.
        moments: whether the optimizer's moments are measured. Defaults to `False`.
        clipping: whether the gradient before clipping is measured, and whether clipping
            acted. Not with several replicas of `tf.distribute`. Defaults to `False`.
        processes: of several processes that train together: `"first"`, only process 0
            writes (`csv_path`, `log_dir`) and calls `on_record`; `"each"`, every one
            does, process 1 to `records-1.csv` where `csv_path` is `records.csv`, and to
            the folder `process-1` in `log_dir`. It is their number in JAX, in PyTorch's
            process group or its `RANK`, in TensorFlow's `TF_CONFIG`. Defaults to
            `None`: every process writes to the paths as they are, as one that is
            alone does.

    Raises:
        ValueError: for an argument out of range; when training begins, for `clipping`
            with several replicas.
        ImportError: for `log_dir` without TensorBoard.

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
    >>> monitor.verdict.degree in ("alive", "barely alive")
    True
    """

    def __init__(
        self,
        every: int = 10,
        group_by: str | Callable[[str], str] = "layer",
        csv_path: str | Path | None = None,
        log_dir: str | Path | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        on_record: Callable[[dict[str, Any]], Any] | None = None,
        histograms: bool | Sequence[str] = False,
        moments: bool = False,
        clipping: bool = False,
        processes: str | None = None,
    ) -> None:
        super().__init__()
        if not callable(group_by):
            arguments.choice("group_by", group_by, ["variable", "layer", "model"])
        if not isinstance(optimizer, keras.optimizers.Optimizer | None):
            raise arguments.refuse(
                "optimizer", optimizer, "a keras.optimizers.Optimizer object, or None"
            )
        self.every = arguments.whole_number("every", every, 1)
        self.group_by = group_by
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.log_dir = None if log_dir is None else str(log_dir)
        self.optimizer = optimizer
        self._details = Details.checked(histograms, moments, clipping)
        self._sinks = Sinks(self.csv_path, self.log_dir, on_record, processes)
        self.records: list[dict[str, Any]] = []
        self.histograms: list[dict[str, Any]] = []
        self._step: Any = None  # a TrainingStep
        self._probes: list[Probe] = []
        self._then: Callable[[], None] | None = None  # after each call by hand
        self._batch = -1
        self._of_epoch: list[dict[str, Any]] = []
        self._variables: list[str] = []
        self._labels: list[str] = []  # of the transforms of all probes
        self._summary, self._clipped = Summary([]), Clipped()
        self._why_nothing = "no training step was made with this monitor"

    # of Keras

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begins to measure in the training step, which is compiled anew."""
        if self._step is not None:  # of a `fit` that was interrupted
            self._step.leave(self._probes)
        self._step, self._probes, self._batch, self._then = None, [], -1, None
        self._sinks.check()
        self._attach(first=True)

    def _measured(self) -> keras.optimizers.Optimizer:
        optimizer = self.optimizer or self.model.optimizer
        if optimizer is None:
            raise ValueError(
                "GradientMonitor measures `model.optimizer`, which is None: compile "
                "the model with an optimizer, or name one (`optimizer=`)."
            )
        return optimizer

    def _attach(self, first: bool) -> None:
        model, optimizer = self.model, self._measured()
        if not optimizer.built and model.built and self.optimizer is None:
            with scope_of(model):
                optimizer.build(model.trainable_variables)
        if not optimizer.built:  # the first step will
            return
        self._step = TrainingStep.for_model(model)
        self._check_replicas()
        self._probes = self._step.probes(
            updating_optimizers(optimizer), self.every, self._details
        )
        for probe in self._probes:
            probe.begin()
        labels = [label for probe in self._probes for label in probe.labels]
        labels = list(dict.fromkeys(labels))
        variables = [path for probe in self._probes for path in probe.paths]
        self._saw_first, self._updates = first, self._updates_made()
        last = max((row["step"] for row in self.records), default=0)
        goes_on = self.records and self._updates >= last
        if not goes_on or (labels, variables) != (self._labels, self._variables):
            bases = [probe.base for probe in self._probes if probe.labels]
            base = " and ".join(dict.fromkeys(bases))
            self.records, self._summary = [], Summary(labels, base)
            self.histograms, self._clipped = [], Clipped()
            self._labels, self._variables = labels, variables
        self._step.ask(self._probes, self._then)

    def _check_replicas(self):
        strategy = getattr(self.model, "distribute_strategy", None)  # of TensorFlow
        replicas = getattr(strategy, "num_replicas_in_sync", 1)
        if self._details.clipping and replicas > 1:
            raise arguments.refuse(
                "clipping", True, f"False with tf.distribute ({replicas} replicas): "
                "Keras clips the gradients of each replica before it adds them up"
            )  # fmt: skip

    def _updates_made(self) -> int:
        return max(probe.updates for probe in self._probes)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begins the means of an epoch."""
        self._batch = -1
        self._of_epoch = []

    def on_train_batch_begin(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        """Measures this step, also in a training function that was made meanwhile."""
        if self._probes:
            self._step.ask(self._probes)

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        """Takes up what was sampled."""
        micro_steps, self._batch = batch - self._batch, batch
        if not self._probes:
            self._attach(first=False)
            return
        if any([probe.has_passed(micro_steps) for probe in self._probes]):
            self._take()
        self._step.ask(self._probes, self._then)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the means of the epoch to `logs`."""
        self._take()
        names = ["gradient_l2", "update_l2", "cosine", "effective_learning_rate"]
        names += [f"{t}.{x}" for t in self._labels for x in ("gain", "coefficient")]
        for name in names:
            values = [row[name] for row in self._of_epoch if name in row]
            if logs is not None:
                logs[name] = float(np.mean(values)) if values else math.nan

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leaves the training step as it was."""
        try:
            self._take()
            if not self.records:
                self._why_nothing = self._reason()
                warnings.warn(
                    f"GradientMonitor measured nothing: {self._why_nothing}.",
                    stacklevel=2,
                )
        finally:
            if self._step is not None:
                self._step.leave(self._probes)
            self._probes = []
        self._sinks.flush()

    def _reason(self) -> str:
        name = "`optimizer`" if self.optimizer else "`model.optimizer`"
        other = "" if self.optimizer else "; of several, name one (`optimizer=`)"
        if not self._probes or self._updates_made() <= self._updates:
            if self._probes and not self._saw_first:
                return (
                    "the only step was the one that built the model or the optimizer, "
                    "which is not seen; build it before"
                )
            return f"{name} made no update{other}"
        steps = f"steps {self._updates + 1} to {self._updates_made()}"
        unseen = "" if self._saw_first else ", and the first step, which builds, is not"
        return (
            f"of {steps} none is sampled, with every={self.every}: only those whose "
            f"number is 1 plus a multiple of it are{unseen}"
        )

    # by hand

    @contextlib.contextmanager
    def watching(self, model: keras.Model) -> Iterator["GradientMonitor"]:
        """Measures without `fit`: `train_on_batch`, or a training step of your own.

        `train_on_batch` is all that is needed. After a step of your own, call
        `on_train_batch_end` with its number, from 0. If it is a `tf.function` or
        `jax.jit`, let it be traced within, and not be used after.

        Args:
            model: whose optimizer is measured. It must be built; an `optimizer` that
                was named, too.

        Yields:
            The monitor.

        Raises:
            ValueError: if they are not.

        Example:

        >>> import keras, keras_gradopt, numpy as np
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile(keras_gradopt.AngularGrad(), "mse")
        >>> monitor = keras_gradopt.callbacks.GradientMonitor(1, "model")
        >>> x = np.random.default_rng(0).normal(size=(16, 3))
        >>> with monitor.watching(model):
        ...     for _ in range(3):
        ...         _ = model.train_on_batch(x, x.sum(1))
        >>> len(monitor.records)
        3
        """
        self.set_model(model)
        optimizer = self._measured()
        if not (optimizer.built or (model.built and self.optimizer is None)):
            raise ValueError(
                "`watching` needs variables: build the model (give it an Input, or "
                "call it on a batch), or the `optimizer` if you named one."
            )
        if model.compiled:
            model.make_train_function()
        self.on_train_begin()
        self._then = lambda: self.on_train_batch_end(self._batch + 1)
        self._step.ask([], self._then)
        try:
            with contextlib.ExitStack() as attached:
                for probe in self._probes:
                    attached.enter_context(probe.attached())
                yield self
        finally:
            self.on_train_end()

    # results

    @property
    def alive(self) -> bool | None:
        """Whether the transforms do something that a learning rate alone could not.

        False: in no sample and for no variable did they change a direction, or vary
        in their factor: then the optimizer is its base optimizer, up to a constant
        factor of the learning rate. None: no samples yet, or no transforms. True says
        nothing of how much they do: see `verdict`.

        Where the update belongs to Keras, or half precision hides how it changes, only
        the transforms are judged, and `summary` says so.
        """
        return self._summary.alive

    @property
    def verdict(self) -> Verdict:
        """The verdict in degrees: dead, barely alive or alive.

        "Barely alive" are transforms that a constant factor of the learning rate
        replaces nearly: of no variable is the update farther than 5 % from c times the
        update that the same optimizer would have made, from the same state, without
        its transforms (`|u - c u_plain| <= 0.05 |u|` over all samples, with the best c
        over all variables). Try the base at c times the learning rate.

        Transforms that change gradients are held to the same of the gradients, as an
        update shows only a part of what they do: moments remember earlier gradients.
        """
        verdict = self._summary.verdict()
        if verdict.degree is None and not self.records:
            sentence = f"nothing was measured: {self._why_nothing}"
            verdict = verdict._replace(sentence=sentence)
        return verdict

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints what each transform did over all samples, and the verdict.

        Of an optimizer without transforms it prints norms and cosine; where nothing
        was measured, why.

        Args:
            print_fn: called with each line. Defaults to `print`.
        """
        for line in [*self._summary.lines(), *self._clipped.lines()]:
            print_fn(line)
        print_fn(self.verdict.sentence)

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
        names = list(dict.fromkeys(key for row in rows for key in row))
        if name not in names:
            raise arguments.refuse("name", name, f"one of {names}")
        rows = [row for row in rows if name in row]
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
            raise ValueError(f"Nothing to plot: {self._why_nothing}.")
        shown = {
            "gradient_l2": "gradient, L2 norm",
            "update_l2": "update, L2 norm",
            "effective_learning_rate": "effective learning rate",
            "cosine": "cosine of update and -gradient",
        }
        for name in recorded_names(self._labels):
            transform, _, quantity = name.partition(".")
            if quantity in ("gain", "angle", "coefficient"):
                values = {row.get(name, 1) for row in self.records}
                if sum(map(math.isfinite, values)) > 1:  # not a constant
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
                # a line of one point is not seen
                axis.plot(
                    *np.array(points).reshape(-1, 2).T, label=group, linewidth=1,
                    marker="o" if len(points) == 1 else None,
                )  # fmt: skip
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

    def _take(self) -> None:
        """Takes up new samples, those of all probes in one step together."""
        samples: dict[int, list] = {}
        for probe in self._probes:
            for step, values, more in probe.new_samples():
                samples.setdefault(step, []).append((probe, values, more))
        for step, parts in sorted(samples.items()):
            values = np.concatenate(
                [aligned(probe.labels, v, self._labels) for probe, v, _ in parts]
            )
            sizes = np.concatenate([probe.sizes for probe, *_ in parts])
            rounding = np.concatenate([probe.rounding for probe, *_ in parts])
            paths = [path for probe, *_ in parts for path in probe.paths]
            details = {
                name: np.concatenate(
                    [
                        probe.details.scalars(more).get(name, np.full(len(more), -1.0))
                        for probe, _, more in parts
                    ]
                )
                for name in self._detail_names()
            }
            self._of_epoch.append(self._summary.add(paths, values, sizes, rounding))
            groups: dict[str, list[int]] = {}
            measured = np.flatnonzero(values[:, 0])  # they have a gradient
            for index in measured.tolist():
                groups.setdefault(self._group(paths[index]), []).append(index)

            def of(indices, details=details):
                return {name: column[indices] for name, column in details.items()}

            self._clipped.add(of(measured))
            gradient_l2 = values[:, OF_UPDATE.index("gradient_l2")]
            rows = [
                {"step": step, "group": group}
                | combined(self._labels, values[indices], sizes[indices])
                | combined_details(of(indices), gradient_l2[indices])
                for group, indices in groups.items()
            ]
            histograms = [
                {"step": step, "variable": probe.paths[i], "histogram": title}
                | {"edges": edges, "counts": counts}
                for probe, _, more in parts
                for i, title, edges, counts in probe.details.histograms(more)
            ]
            names = recorded_names(self._labels) + recorded_details(
                self._detail_names()
            )
            self._sinks.write(rows, names, histograms, anew=not self.records)
            self.records += rows
            self.histograms += histograms

    def _detail_names(self) -> list[str]:
        names = (name for probe in self._probes for name in probe.details.names)
        return list(dict.fromkeys(names))

    def _group(self, path: str) -> str:
        if callable(self.group_by):
            return self.group_by(path)
        names = {"variable": path, "layer": path.rpartition("/")[0], "model": "model"}
        return names[self.group_by]
