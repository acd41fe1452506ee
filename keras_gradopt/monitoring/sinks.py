"""Where records go beside the monitor itself."""

import time
from pathlib import Path
from typing import Any


class TensorBoard:
    """Event files for TensorBoard, which need no TensorFlow.

    Args:
        folder: where the file is made, at the first record.

    Raises:
        ImportError: without TensorBoard.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.summary.writer import event_file_writer
        except ImportError as error:
            raise ImportError(
                "`log_dir` writes files for TensorBoard, which is not installed: "
                'pip install "keras-gradopt[tensorboard]"'
            ) from error
        self._new_file = event_file_writer.EventFileWriter
        self._folder = str(folder)
        self._file: Any = None

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number."""
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self._write(scalar_pb(name, value), step)

    def _write(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._file is None:
            self._file = self._new_file(self._folder)
        self._file.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Has everything on disk."""
        if self._file is not None:
            self._file.flush()
