"""Where records go beside the monitor itself."""

import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gradopt import arguments

Record = dict[str, Any]


class Sinks:
    """A CSV file, TensorBoard and a user's function, as far as they are asked for.

    Args:
        csv_path: of the file, or `None`.
        log_dir: of TensorBoard, or `None`.
        on_record: the function, or `None`.
        processes: `"each"`, `"first"`, or `None`.

    Raises:
        ValueError: for something else.
        ImportError: for `log_dir` without TensorBoard.
    """

    def __init__(
        self,
        csv_path: Path | None,
        log_dir: str | None,
        on_record: Callable[[Record], Any] | None,
        processes: str | None,
    ) -> None:
        if on_record is not None and not callable(on_record):
            raise arguments.refuse(
                "on_record", on_record, "a function of a record, or None"
            )
        if processes is not None:
            arguments.choice("processes", processes, ["each", "first"])
        self._csv, self._fields = csv_path, list[str]()
        self._board = None if log_dir is None else TensorBoard(log_dir)
        self._on_record, self._processes = on_record, processes
        self._writes: bool | None = None  # known when the processes are

    def _is_to_write(self) -> bool:
        if self._writes is None:
            index = process_index() if self._processes else 0
            self._writes = self._processes != "first" or index == 0
            if self._processes == "each":
                if self._csv:
                    name = f"{self._csv.stem}-{index}{self._csv.suffix}"
                    self._csv = self._csv.with_name(name)
                if self._board:
                    self._board.folder += f"/process-{index}"
        return self._writes

    def check(self) -> None:
        """Refuses a CSV file that is there and of another kind.

        Raises:
            ValueError: if it is.
        """
        if not self._is_to_write() or not self._csv or not self._csv.exists():
            return
        with open(self._csv, newline="") as file:
            header = next(csv.reader(file), None)
        if header is not None and not {"step", "group"} <= set(header):
            raise arguments.refuse(
                "csv_path",
                str(self._csv),
                "a new file, or one that GradientMonitor wrote: this one has the "
                f"columns {', '.join(header[:5])}",
            )

    def write(
        self,
        rows: Sequence[Record],
        names: Sequence[str],
        histograms: Sequence[Record] = (),
        *,
        anew: bool,
    ) -> None:
        """Writes the records of one step.

        Args:
            rows: numbers, by group.
            names: of all numbers that there can be.
            histograms: of variables.
            anew: whether they are the first of this run.
        """
        if not self._is_to_write():
            return
        if self._csv:
            self._write_csv(self._csv, ["step", "group", *names], rows, anew)
        if self._board:
            for row in rows:
                for name in list(row)[2:]:
                    title = f"{row['group']}/{name}"
                    self._board.scalar(title, row[name], row["step"])
            for row in histograms:
                title = f"{row['variable']}/{row['histogram']}"
                self._board.histogram(title, row["edges"], row["counts"], row["step"])
        if self._on_record:
            for row in [*rows, *histograms]:
                self._on_record(dict(row))

    def _write_csv(self, path, fields, rows, anew):
        before = _written_before(path, rows[0]["step"]) if anew else []
        if anew:  # what an earlier run had more is kept, too
            fields = [*fields, *(name for row in before for name in row)]
            self._fields = list(dict.fromkeys(fields))
        with open(path, "w" if anew else "a", newline="") as file:
            writer = csv.DictWriter(file, self._fields, lineterminator="\n")
            if anew:
                writer.writeheader()
            writer.writerows([*before, *rows])

    def flush(self) -> None:
        """Has everything on disk."""
        if self._board:
            self._board.flush()


def process_index() -> int:
    """The number of this process among those that train together, 0 if it is alone."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return int(jax.process_index())
    if backend == "torch":
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank())
        return int(os.environ.get("RANK", 0))
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    task, cluster = config.get("task", {}), config.get("cluster", {})
    before = len(cluster.get("chief", ())) if task.get("type") == "worker" else 0
    return int(task.get("index", 0)) + before


def _written_before(path: Path, step: int) -> list[Record]:
    """What an interrupted run wrote of the steps before this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) < step]


class TensorBoard:
    """Event files for TensorBoard, which need no TensorFlow.

    Args:
        folder: where the file is made, at the first record.

    Raises:
        ImportError: without TensorBoard.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboard.summary.writer import event_file_writer
        except ImportError as error:
            raise ImportError(
                "`log_dir` writes files for TensorBoard, which is not installed: "
                'pip install "keras-gradopt[tensorboard]"'
            ) from error
        self._new_file = event_file_writer.EventFileWriter
        self._file: Any = None
        self.folder = folder

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self._write(scalar_pb(name, value), step)

    def histogram(
        self, name: str, edges: np.ndarray, counts: np.ndarray, step: int
    ) -> None:
        """Writes a histogram that was counted before."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.histogram.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        bins = np.stack([edges[:-1], edges[1:], counts], axis=1)
        summary = Summary()
        summary.value.add(
            tag=name,
            metadata=create_summary_metadata(display_name=None, description=None),
            tensor=make_tensor_proto(bins, dtype=np.float64),
        )
        self._write(summary, step)

    def _write(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._file is None:
            self._file = self._new_file(self.folder)
        self._file.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Has everything on disk."""
        if self._file is not None:
            self._file.flush()
