"""One run: a model trained with one optimizer, one learning rate, one seed.

A run is the same whatever ran before it in the process, and whether or not it was
killed on its way: the seed draws the weights and the order, and after an epoch that
took long everything is kept in a file.
"""

import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gradopt.comparison import data
from keras_gradopt.comparison.arms import settings
from keras_gradopt.comparison.files import replacing
from keras_gradopt.comparison.tasks import Parts, Task


class Trainer:
    """Trains a model with an optimizer again and again, compiled once.

    Args:
        task: What to train.
        optimizer: Not yet built.
        parts: Of any seed, to build the model on.
    """

    def __init__(
        self, task: Task, optimizer: keras.optimizers.Optimizer, parts: Parts
    ) -> None:
        self.task = task
        self.settings = repr(settings(optimizer))
        self.kind = type(optimizer)
        self.model = new_model(task, parts)
        self.model.compile(
            optimizer,
            loss=task.loss,
            metrics=[own(metric) for metric in task.metrics] or None,
            jit_compile=task.jit_compile,
        )
        self.optimizer = self.model.optimizer  # in half precision one around it
        self.optimizer.build(self.model.trainable_variables)
        self.state = _state(self.optimizer)
        self.initial = [keras.ops.convert_to_numpy(v) for v in self.state]

    def fits(self, optimizer: keras.optimizers.Optimizer) -> bool:
        """Whether this can train with another optimizer, by the learning rate alone."""
        found = settings(optimizer)
        same = type(optimizer) is self.kind and repr(found) == self.settings
        return self.task.reuse and found is not None and same

    def reset(self, seed: int, parts: Parts) -> None:
        """Fresh weights, and an optimizer that has seen nothing.

        Raises:
            ValueError: If the model's weights do not depend on the random seed alone.
        """
        for variable, value in zip(
            _weights(self.model), self._fresh(seed, parts), strict=True
        ):
            variable.assign(value)
        for variable, start in zip(self.state, self.initial):
            variable.assign(start)

    def _fresh(self, seed: int, parts: Parts) -> list[Any]:
        made = []
        for _ in range(2):
            keras.utils.set_random_seed(seed)
            made.append(_weights(new_model(self.task, parts)))
        first, second = (
            [keras.ops.convert_to_numpy(v).tobytes() for v in each] for each in made
        )
        if first != second:
            raise ValueError(
                f"`model` of task {self.task.name!r} must make the same weights for "
                "the same seed of `keras.utils.set_random_seed`. Received: others the "
                f"second time, with seed {seed}"
            )
        return made[0]

    def run(
        self,
        rate: float | None,
        seed: int,
        parts: Parts,
        weights_shift: int = 0,
        kept: "Kept | None" = None,
    ) -> dict[str, Any]:
        """Trains once; the outcome.

        Args:
            rate: Learning rate, before the task's schedule; `None`: the optimizer has a
                schedule of its own.
            seed: Of the weights and the order.
            parts: The data of this seed.
            weights_shift: Added to the seed of the weights.
            kept: Where the run is kept, and goes on from.
        """
        task, model = self.task, self.model
        self.reset(seed + weights_shift, parts)
        feed = data.Feed(parts.train, task.batch_size, task.steps_per_epoch, seed)
        total, losses, seconds, train_loss = feed.steps * task.epochs, [], 0.0, 0.0
        variables = [*_weights(model), *self.state]
        at_end, measured = (parts.validation, task.batch_size), {}
        if kept is not None and (found := kept.restore(variables)):
            losses, seconds = found["losses"], found["seconds"]
            train_loss = found["train_loss"]
        for _ in losses:
            feed.skip()
        if rate is not None:
            self.optimizer.learning_rate = rate
        for epoch in range(len(losses), task.epochs):
            if losses and not math.isfinite(train_loss + losses[-1]):
                break
            begin = time.perf_counter()
            sums = np.zeros(2)
            for step, batch in enumerate(feed.epoch()):
                if rate is not None and task.schedule != "constant":
                    done = (epoch * feed.steps + step) / total
                    self.optimizer.learning_rate = rate * task.factor(done)
                model.reset_metrics()  # not every release of Keras does so itself
                logs = model.train_on_batch(*batch, return_dict=True)
                size = len(keras.tree.flatten(batch[0])[0])
                sums += size * float(logs["loss"]), size
            train_loss = float(sums[0] / sums[1])
            seconds += time.perf_counter() - begin
            if epoch + 1 == task.epochs:  # as `fit` does: averaged weights, if any
                self.optimizer.finalize_variable_values(model.trainable_variables)
            measured = data.evaluate(model, *at_end)
            losses.append(measured["loss"])
            if kept is not None and epoch + 1 < task.epochs:
                history = {"losses": losses, "seconds": seconds}
                kept.after_epoch(variables, {**history, "train_loss": train_loss})
        diverged = not math.isfinite(train_loss + losses[-1])
        validation = measured or data.evaluate(model, *at_end)
        test = data.evaluate(model, parts.test, task.batch_size)
        steps = feed.steps * len(losses)
        row = {
            "diverged": int(diverged),
            "train_loss": math.inf if diverged else train_loss,
            "validation_loss": math.inf if diverged else losses[-1],
            "test_loss": math.inf if diverged else _finite(test.pop("loss")),
            "ms_per_step": round(1e3 * seconds / steps, 3),
            "validation_losses": " ".join(f"{loss:.6g}" for loss in losses),
        }
        test.pop("loss", None)
        for name, value in test.items():
            row |= {f"validation_{name}": validation[name], f"test_{name}": value}
        return row


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def base_rate(task: Task, optimizer: keras.optimizers.Optimizer) -> float | None:
    """The learning rate of a new optimizer; `None` if it has a schedule of its own.

    Raises:
        ValueError: If the task's schedule cannot set it.
    """
    rate = getattr(optimizer, "learning_rate", None)
    try:
        optimizer.learning_rate = rate
        return float(keras.ops.convert_to_numpy(rate))
    except (TypeError, ValueError, AttributeError):
        if task.schedule == "constant":
            return None
        raise ValueError(
            f"{type(optimizer).__name__} has a schedule of its own, or no learning "
            f"rate that can be set, but `schedule` of task {task.name!r} must set it. "
            f"Received: schedule={task.schedule!r}; allowed here: 'constant'"
        ) from None


def new_model(task: Task, parts: Parts) -> keras.Model:
    """A new model, built.

    Raises:
        ValueError: If the task's function returns anything else.
    """
    model = task.model()
    if not isinstance(model, keras.Model):
        shown = type(model).__name__
        raise ValueError(
            f"`model` of task {task.name!r} must return a keras.Model. Received: a "
            f"{shown}"
        )
    if getattr(model, "compiled", False):
        raise ValueError(
            f"`model` of task {task.name!r} must return a model that is not compiled"
        )
    if not model.built:
        model(data.first_inputs(parts.train))
    return model


def own(metric: Any) -> Any:
    """The metric, or one like it that no other model uses."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def _weights(model: keras.Model) -> list[Any]:
    """All variables of a model but its metrics' and optimizer's; also random states."""
    known = {id(v) for metric in model.metrics for v in metric.variables}
    return [v for v in model.variables if id(v) not in known]


def _state(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """All variables of an optimizer, also one that Keras' Nadam does not list."""
    found = list(optimizer.variables)
    while optimizer is not None:
        found += [v for v in vars(optimizer).values() if isinstance(v, keras.Variable)]
        optimizer = vars(optimizer).get("inner_optimizer")
    return list({id(variable): variable for variable in found}.values())


class Kept:
    """A run's state in a file, from which it goes on after a kill.

    Args:
        path: Of the file.
        every: Seconds after which it is written again, at the end of an epoch.
        made: What makes the run; one that was made otherwise does not go on.
    """

    def __init__(self, path: Path, every: float, made: str = "") -> None:
        self.path, self.every, self.last = path, every, time.monotonic()
        self.made = made

    def after_epoch(self, variables: list[Any], history: dict[str, Any]) -> None:
        """Writes everything, if the last time is long ago."""
        if time.monotonic() - self.last < self.every:
            return
        values = {
            f"v{i}": keras.ops.convert_to_numpy(keras.ops.cast(v, _wide(v.dtype)))
            for i, v in enumerate(variables)
        }
        with replacing(self.path) as new, open(new, "wb") as file:
            text = json.dumps({**history, "made": self.made})
            np.savez(file, history=text, **values)
        self.last = time.monotonic()

    def restore(self, variables: list[Any]) -> dict[str, Any] | None:
        """Assigns what was kept and returns the history; `None` if nothing fits."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path) as file:
                values = [file[f"v{i}"] for i in range(len(variables))]
                history = json.loads(str(file["history"]))
                if len(file.files) != len(variables) + 1:
                    return None
                if history.pop("made", None) != self.made:
                    return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # it begins again
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            return None
        for variable, value in zip(variables, values):
            variable.assign(value)
        return dict(history)


def _wide(dtype: str) -> str:
    """A type that NumPy can save, and holds every value of this one."""
    return "float32" if dtype == "bfloat16" else dtype
