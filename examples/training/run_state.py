"""What a run keeps, so that it can be killed at any time and goes on bit by bit."""

import csv
import json
import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras

from training.run_files import read_json, replacing

STATE = "run_state.json"
# all that `train.py` and `detect.py` leave, first the file that makes a run complete
OUTPUTS = [
    "run.json", "last.keras", "best.keras", "history.csv", "classes.csv",
    "curves.png", "confusion.png", "worst.png", "found.png", "precision.png",
    "monitor.csv", "monitor.png", "saved_model", "tensorboard",
]  # fmt: skip


class Keep(keras.callbacks.Callback):
    """Keeps a run after every epoch: its state, history and best model.

    The state is one file, `last.keras`, which takes the place of the one before in one
    step. It is the model with its optimizer, and within it (it is a zip file) what
    Keras does not save: the history, the settings, and the random numbers of the
    layers. `best.keras` and `history.csv` follow from it.

    A run whose `run.json` tells of the export, the last thing that is done, is
    finished.

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
    def finished(self) -> bool:
        """Whether a run in this folder has come to its end, results and all.

        Raises:
            RunError: if its `run.json` is damaged.
        """
        path = self.folder / "run.json"
        return path.exists() and "saved_model_max_difference" in read_json(path)

    @property
    def unfinished(self) -> bool:
        """Whether a run in this folder can go on."""
        return (self.folder / "last.keras").exists() and not self.finished

    @property
    def epochs(self) -> int:
        """The number of epochs done."""
        return len(self.history.get(self.monitor, []))

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best monitored value, from 0; None if all diverged."""
        values = self.history[self.monitor][: self.epochs - self.diverged]
        return values.index(max(values)) if values else None

    @property
    def diverged(self) -> bool:
        """Whether a loss is NaN or infinite after the last epoch."""
        losses = [self.history[n] for n in ("loss", "val_loss") if n in self.history]
        return not all(math.isfinite(values[-1]) for values in losses)

    @property
    def at_end(self) -> bool:
        """Whether no epoch is worth it: diverged, or too many since the best one."""
        if self.diverged or not self.patience or not self.epochs:
            return self.diverged
        return self.epochs - 1 - self.best_epoch >= self.patience

    def clear(self) -> None:
        """Removes what an earlier run left in the folder."""
        if any((self.folder / name).exists() for name in ("run.json", "last.keras")):
            for name in OUTPUTS:
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def restore(self) -> tuple[int, keras.Model | None]:
        """The number of epochs done and the model after them, or `(0, None)`.

        Raises:
            ValueError: if the run was made with other settings, or is damaged.
        """
        path = self.folder / "last.keras"
        if not path.exists():
            return 0, None
        try:
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"wrong checksum of {damaged}")
                state = json.loads(file.read(STATE))
            settings, seeds = dict(state["settings"]), list(state["seeds"])
            history = {n: [*map(float, v)] for n, v in state["history"].items()}
            if len({*map(len, history.values())}) != 1 or not history[self.monitor]:
                raise ValueError("its history is not whole")
        except Exception as error:  # damage is of every kind
            raise self._damaged(error) from error
        differing = [
            f"{name}: then {settings.get(name)!r}, now {self.settings.get(name)!r}"
            for name in {**settings, **self.settings}
            if settings.get(name) != self.settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"the run in {self.folder} has other settings ({'; '.join(differing)})"
            )
        try:
            model = keras.saving.load_model(path)
            for variable, value in zip(_seeds(model), seeds, strict=True):
                variable.assign(value)
        except Exception as error:
            raise self._damaged(error) from error
        self.history = history
        if self.write:
            self._follow()
        return self.epochs, model

    def _damaged(self, error):
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return ValueError(
            f"{self.folder / 'last.keras'} is damaged ({reason}): --overwrite begins "
            "again"
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keeps everything; called by `fit`."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        rate = _learning_rate(self.model.optimizer)
        self.history.setdefault("learning_rate", []).append(rate)
        if self.at_end:
            self.model.stop_training = True
        if self.write:
            self._write()
        else:  # saving synchronizes the processes, so all of them must
            with tempfile.TemporaryDirectory() as scratch:
                self.model.save(Path(scratch) / "model.keras")

    def _write(self):
        seeds = [keras.ops.convert_to_numpy(s).tolist() for s in _seeds(self.model)]
        state = {"settings": self.settings, "history": self.history, "seeds": seeds}
        with replacing(self.folder / "last.keras") as new:
            self.model.save(new)
            with zipfile.ZipFile(new, "a") as file:
                file.writestr(STATE, json.dumps(state))
        self._follow()

    def _follow(self):
        """Writes what follows from `last.keras`, which a kill may have prevented."""
        if self.best_epoch == self.epochs - 1:
            with replacing(self.folder / "best.keras") as new:
                shutil.copyfile(self.folder / "last.keras", new)
        with (
            replacing(self.folder / "history.csv") as new,
            open(new, "w", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history])
            writer.writerows(zip(range(1, self.epochs + 1), *self.history.values()))


def _seeds(model):
    """The variables of the model that `save` leaves out: its random generators'."""
    saved = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in saved]


def _learning_rate(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
