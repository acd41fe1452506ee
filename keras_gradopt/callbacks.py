"""Callbacks that show what an optimizer does while it trains."""

import csv
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gradopt import arguments
from keras_gradopt.measuring import Probe, scope_of, updating_optimizers
from keras_gradopt.summaries import Seen, aligned, combined, recorded_names

__all__ = ["GradientMonitor"]


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
      belongs to Keras (`WGDSGD`, `Transformed` over Keras' optimizers), for which only
      the transforms are measured.

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
        self._probes: list[Probe] = []
        self._labels: list[str] = []  # of the transforms of all probes
        self._seen = Seen([])
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
        if model.optimizer is None:
            raise ValueError(
                "GradientMonitor measures `model.optimizer`, which is None: compile "
                "the model with an optimizer."
            )
        if not model.optimizer.built:
            with scope_of(model):
                model.optimizer.build(model.trainable_variables)
        self._probes = [
            Probe(optimizer, self.every, model)
            for optimizer in updating_optimizers(model.optimizer)
        ]
        labels = [label for probe in self._probes for label in probe.labels]
        labels = list(dict.fromkeys(labels))
        self._updates = max(probe.updates for probe in self._probes)
        last = max((row["step"] for row in self.records), default=0)
        goes_on = self.records and self._updates >= last and labels == self._labels
        if not goes_on:
            self.records, self._labels, self._seen = [], labels, Seen(labels)
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
        if any([probe.has_passed(micro_steps) for probe in self._probes]):
            self._take()

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
        """Leaves the optimizer and the training step as they were."""
        self._take()
        idle = all(probe.updates <= self._updates for probe in self._probes)
        if self._probes and not self.records and idle:
            warnings.warn(
                "GradientMonitor saw no update: `fit` made none by `model.optimizer`.",
                stacklevel=2,
            )
        for probe in self._probes:
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

        Where the update belongs to Keras, or half precision hides how it changes, only
        the transforms are judged, and `summary` says so.
        """
        return self._seen.alive

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints what each transform did over all samples, and the verdict.

        Args:
            print_fn: called with each line. Defaults to `print`.
        """
        for line in self._seen.lines():
            print_fn(line)
        compared = self._seen.update_known
        verdict = {
            None: "no transform was measured",
            True: "alive: the transforms change the update"
            if compared
            else "alive: the transforms act (whether the update uses it was not seen)",
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
            raise ValueError("Nothing to plot: no step was recorded.")
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

    def _take(self) -> None:
        """Takes up new samples, those of all probes in one step together."""
        samples: dict[int, list] = {}
        for probe in self._probes:
            for step, values in probe.new_samples():
                samples.setdefault(step, []).append((probe, values))
        for step, parts in sorted(samples.items()):
            values = np.concatenate(
                [aligned(probe.labels, v, self._labels) for probe, v in parts]
            )
            sizes = np.concatenate([probe.sizes for probe, _ in parts])
            rounding = np.concatenate([probe.rounding for probe, _ in parts])
            paths = [path for probe, _ in parts for path in probe.paths]
            self._seen.add(values, rounding)
            groups: dict[str, list[int]] = {}
            measured = np.flatnonzero(values[:, 0])  # they have a gradient
            for index in measured.tolist():
                groups.setdefault(self._group(paths[index]), []).append(index)
            rows = [
                {"step": step, "group": group}
                | combined(self._labels, values[indices], sizes[indices])
                for group, indices in groups.items()
            ]
            self._of_epoch.append(
                combined(self._labels, values[measured], sizes[measured])
            )
            self._write(rows)
            self.records += rows

    def _group(self, path: str) -> str:
        if callable(self.group_by):
            return self.group_by(path)
        names = {"variable": path, "layer": path.rpartition("/")[0], "model": "model"}
        return names[self.group_by]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.csv_path:
            first = rows[0]["step"]
            before = [] if self.records else self._written_before(self.csv_path, first)
            fields = ["step", "group", *recorded_names(self._labels)]
            with open(self.csv_path, "a" if self.records else "w", newline="") as file:
                writer = csv.DictWriter(file, fields, lineterminator="\n")
                if not self.records:
                    writer.writeheader()
                writer.writerows([*before, *rows])
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default():
                for row in rows:
                    for name in list(row)[2:]:
                        title = f"{row['group']}/{name}"
                        tf.summary.scalar(title, row[name], step=row["step"])

    def _written_before(self, path: Path, step: int) -> list[dict[str, Any]]:
        """What an interrupted run wrote of the steps before this one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["step"]) < step]
