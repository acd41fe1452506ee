"""Kills train.py at each of its writes, one by one, and lets it go on.

    python killed_writes.py DATA_DIR FOLDER

A process is killed just before it creates, opens, renames or removes something in its
output folder; and when it has written half of what it first writes to a file. Then it
is started again with `--resume`. What is there in the end must be what a run leaves
that was never killed. Prints a line of JSON for each kill.

The processes are forked from this one, which has imported everything and started no
thread of TensorFlow.
"""

import builtins
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

os.environ["KERAS_GRADOPT_JIT_COMPILE"] = "0"  # to be quick
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES.parent)]

import keras
import numpy as np
import train
from training import models

FLAGS = ["--model", "tiny", "--limit", "60", "--batch-size", "16", "--epochs", "2"]
FLAGS += ["--learning-rate", "0.03", "--ema", "0.5"]
CHANGES = ["os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile"]


def tiny(input_shape, classes, l2, adapt_to):
    """A network that is built and traced within a second."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    layers += [keras.layers.Dropout(0.3), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential([keras.Input(input_shape), *layers])


models.MODELS["tiny"] = tiny


class Killer:
    """Counts the writes to a folder; kills this process at one of them.

    Args:
        folder: that is watched.
        kill_at: the number of the write, from 0; None only counts.
        half: kill after half of what is written, not before.
    """

    def __init__(self, folder, kill_at=None, half=False):
        self.folder, self.kill_at, self.half = str(folder), kill_at, half
        self.writes = []

    def start(self):
        sys.addaudithook(self.audit)
        if self.half:
            builtins.open = io.open = self.open

    def audit(self, event, arguments):
        if event == "open":
            path, _, how = arguments
            changes = bool((how or 0) & (os.O_WRONLY | os.O_RDWR))
            paths = [path]
        else:
            changes, paths = event in CHANGES, arguments[:2]
        if not changes or not any(str(p).startswith(self.folder) for p in paths):
            return
        if event == "os.mkdir" and Path(paths[0]).exists():
            return
        self.writes.append(f"{event} {Path(paths[0]).name}")
        if len(self.writes) - 1 == self.kill_at and not self.half:
            os._exit(137)

    def open(self, *arguments, real=open, **keywords):
        file = real(*arguments, **keywords)
        if self.writes and len(self.writes) - 1 == self.kill_at:
            self.kill_at = None
            return Half(file)
        return file


class Half:
    """A file that kills its process after half of the first text or bytes."""

    def __init__(self, file):
        self.file = file

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        os._exit(137)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def left_by(folder):
    """What a run has left, but for times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".keras":
            model = keras.saving.load_model(path)
            values = [*model.weights, *model.optimizer.variables]
            content = b"".join(np.asarray(value).tobytes() for value in values)
        if path.name == "run.json":
            run = json.loads(content)
            wanted = ("metrics", "epochs", "best_epoch", "saved_model_max_difference")
            content = json.dumps([run[name] for name in wanted]).encode()
        if path.suffix not in (".pb", ".index") and "data" not in path.suffix:
            found[str(path.relative_to(folder))] = hashlib.md5(content).hexdigest()
        else:  # the SavedModel has names that are drawn; its predictions are measured
            found[str(path.relative_to(folder))] = "there"
    return found


def in_a_fork(function, log):
    """Runs a function in a process of its own.

    Returns:
        What the process exits with, and what the function returned.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            try:
                os.write(write, json.dumps(function()).encode())
                status = 0
            except BaseException:
                traceback.print_exc()
        os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        returned = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(returned) if returned else None


def main(data_dir, root):
    root = Path(root)
    flags = [*FLAGS, "--data-dir", data_dir]

    def whole():
        killer = Killer(root / "whole")
        killer.start()
        train.main([*flags, "--output", str(root / "whole")])
        return killer.writes, left_by(root / "whole")

    status, (writes, expected) = in_a_fork(whole, root / "whole.log")
    assert status == 0

    def kill(number, half):
        name = f"{number}-half" if half else str(number)
        folder, log = root / name, root / f"{name}.log"

        def killed():
            Killer(folder, number, half).start()
            train.main([*flags, "--output", str(folder)])

        def resumed():
            begun, fit = [], keras.Model.fit
            keras.Model.fit = lambda model, *arguments, **keywords: (
                begun.append(keywords["initial_epoch"])
                or fit(model, *arguments, **keywords)
            )
            train.main([*flags, "--output", str(folder), "--resume"])
            return left_by(folder), begun

        status, _ = in_a_fork(killed, log)
        again, returned = in_a_fork(resumed, log)
        found, begun = returned or ({}, None)
        done = writes[:number].count("os.rename new.last.keras")
        differing = [
            n for n in {**expected, **found} if expected.get(n) != found.get(n)
        ]
        if not differing:
            shutil.rmtree(folder)
        return {
            "write": writes[number],
            "half": half,
            "killed": status == 137,
            "resumed": again == 0,
            "differing": differing,
            "trained_again": begun != ([done] if done < 2 else []),
        }

    kills = [(number, False) for number in range(len(writes))]
    kills += [(n, True) for n, write in enumerate(writes) if write.startswith("open")]
    # a thread only waits for its processes
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for line in pool.map(lambda arguments: kill(*arguments), kills):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
