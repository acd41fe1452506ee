"""What a run keeps, so that it can be killed at any time and goes on bit by bit."""

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras


class Keep(keras.callbacks.Callback):
    """Keeps a run after every epoch: its state, history and best model.

    The state is the model, its optimizer, and the random numbers of its layers (the
    seeds of dropout, which Keras does not save).

    A checkpoint is a folder `epoch-NNNN` with the model, its optimizer and the history,
    renamed to its name only when it is complete.

    Args:
        folder: of the run.
        settings: what must be the same to go on.
        monitor: the history's name to choose the best epoch by; the highest wins.
        patience: epochs without a better one after which to stop; 0 never stops.
        write: whether to write (one of several processes does, all restore from it).
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        monitor: str = "val_accuracy",
        patience: int = 0,
        write: bool = True,
    ) -> None:
        super().__init__()
        self.folder, self.settings = folder, settings
        self.monitor, self.patience, self.write = monitor, patience, write
        self.history: dict[str, list[float]] = {}

    @property
    def out_of_patience(self) -> bool:
        """Whether too many epochs have passed since the best one."""
        if not self.patience or not self.history:
            return False
        return len(self.history[self.monitor]) - 1 - self.best_epoch >= self.patience

    @property
    def best_epoch(self) -> int:
        """The epoch with the best monitored value, from 0."""
        values = self.history[self.monitor]
        return values.index(max(values))

    def restore(self) -> tuple[int, keras.Model | None]:
        """The number of epochs done and the model after them, or `(0, None)`.

        Raises:
            ValueError: if the run was made with other settings.
        """
        done = sorted((self.folder / "resume").glob("epoch-????"))
        if not done:
            return 0, None
        state = json.loads((done[-1] / "state.json").read_text())
        saved = state["settings"]
        differing = [
            f"{name}: then {saved.get(name)!r}, now {self.settings.get(name)!r}"
            for name in {**saved, **self.settings}
            if saved.get(name) != self.settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"the run in {self.folder} has other settings ("
                + "; ".join(differing)
                + ")"
            )
        self.history = state["history"]
        model = keras.saving.load_model(done[-1] / "model.keras")
        for variable, value in zip(_seeds(model), state["seeds"], strict=True):
            variable.assign(value)
        return state["epochs"], model

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps everything; called by `fit`."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        rate = _learning_rate(self.model.optimizer)
        self.history.setdefault("learning_rate", []).append(rate)
        if self.out_of_patience:
            self.model.stop_training = True
        if self.write:
            self._write(epoch + 1)
        else:  # saving synchronizes the processes, so all of them must
            with tempfile.TemporaryDirectory() as scratch:
                self.model.save(Path(scratch) / "model.keras")

    def _write(self, epochs):
        resume = self.folder / "resume"
        unfinished, complete = resume / "unfinished", resume / f"epoch-{epochs:04d}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self.model.save(unfinished / "model.keras")
        if self.best_epoch == epochs - 1:
            new = self.folder / "best.new.keras"
            shutil.copy(unfinished / "model.keras", new)
            os.replace(new, self.folder / "best.keras")
        state = {
            "epochs": epochs,
            "history": self.history,
            "settings": self.settings,
            "seeds": [
                keras.ops.convert_to_numpy(s).tolist() for s in _seeds(self.model)
            ],
        }
        (unfinished / "state.json").write_text(json.dumps(state))
        self._write_csv()
        unfinished.rename(complete)
        for old in resume.glob("epoch-????"):
            if old != complete:
                shutil.rmtree(old)

    def _write_csv(self):
        with open(self.folder / "history.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history])
            for epoch, row in enumerate(zip(*self.history.values()), 1):
                writer.writerow([epoch, *row])

    def finish(self) -> None:
        """Keeps the last model and drops what only an interrupted run needs."""
        (last,) = (self.folder / "resume").glob("epoch-????")
        os.replace(last / "model.keras", self.folder / "last.keras")
        shutil.rmtree(self.folder / "resume")


def _seeds(model):
    """The variables of the model that `save` leaves out: its random generators'."""
    saved = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in saved]


def _learning_rate(optimizer):
    """The learning rate; of a `MultiOptimizer` the highest."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    if hasattr(optimizer, "optimizers"):
        return max(map(_learning_rate, optimizer.optimizers))
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
