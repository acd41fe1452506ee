"""What happens in another process: a rehearsal, and runs."""

import hashlib
import json
import os
import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_gradopt.comparison import arms, data, training
from keras_gradopt.comparison.arms import Arm
from keras_gradopt.comparison.files import UNFINISHED
from keras_gradopt.comparison.randomness import own_generator
from keras_gradopt.comparison.tasks import Parts, Task, described

KEEP = {"trainers": 6, "parts": 2}  # in memory
_one_at_a_time = threading.Lock()  # random seeds are the process'


class Payload:
    """All that runs need: tasks, arms, settings of Keras; sent to processes once.

    Args:
        tasks: By name.
        arms: By name.
    """

    def __init__(self, tasks: dict[str, Task], arms: dict[str, Arm]) -> None:
        self.tasks, self.arms = tasks, arms
        self.keras = {
            "floatx": keras.config.floatx(),
            "epsilon": keras.config.epsilon(),
            "image_data_format": keras.config.image_data_format(),
            "policy": keras.config.dtype_policy().name,
        }
        self.trainers: OrderedDict[tuple[str, ...], training.Trainer] = OrderedDict()
        self.loaded: OrderedDict[tuple[str, int], Parts] = OrderedDict()
        self.ordered: set[str] = set()  # tasks whose data has an order of its own

    def configure(self) -> None:
        """Sets Keras as it is where the comparison was started."""
        keras.config.set_floatx(self.keras["floatx"])
        keras.config.set_epsilon(self.keras["epsilon"])
        keras.config.set_image_data_format(self.keras["image_data_format"])
        keras.config.set_dtype_policy(self.keras["policy"])

    def parts(self, task: Task, seed: int) -> Parts:
        """The data of a seed.

        Arrays are kept for the next run, and those of a function without arguments are
        drawn alike for all seeds. What has an order of its own is made anew, so that
        the order does not depend on what ran before.
        """
        ordered = task.name in self.ordered
        by = seed if task.of_seed or ordered else 0
        at = (task.name, by)
        parts = _kept(self.loaded, at, lambda: made(task, by), KEEP["parts"])
        if callable(task.data) and not are_arrays(parts):
            del self.loaded[at]
            self.ordered.add(task.name)
            parts = parts if by == seed else made(task, seed)
        return parts

    def trainer(self, run: dict[str, Any], parts: Parts) -> training.Trainer:
        """A trainer for a run: that of another, if they differ by the rate alone."""
        task, arm = self.tasks[run["task"]], self.arms[run["optimizer"]]
        at = (run["task"], run["optimizer"], run["arguments"])
        new = arm.optimizer(run["rate"], run["arguments"])
        if at in self.trainers and not self.trainers[at].fits(new):
            del self.trainers[at]
        return _kept(
            self.trainers,
            at,
            lambda: training.Trainer(task, new, parts),
            KEEP["trainers"],
        )


def made(task: Task, seed: int) -> Parts:
    """The data of a seed, made now."""
    keras.utils.set_random_seed(seed)  # of what draws and is not seeded
    return task.parts(seed)


def are_arrays(parts: Parts) -> bool:
    """Whether all parts are."""
    return {*map(data.kind, parts)} == {"arrays"}


def _kept(
    store: OrderedDict[Any, Any], at: Any, make: Callable[[], Any], most: int
) -> Any:
    if at not in store:
        store[at] = make()
        while len(store) > most:
            store.popitem(last=False)
    store.move_to_end(at)
    return store[at]


def dumped(payload: Payload) -> bytes:
    """The payload as bytes, functions of scripts and notebooks among them.

    Raises:
        ValueError: If something in it cannot be sent to another process.
    """
    try:
        import cloudpickle as pickler
    except ImportError:
        pickler = pickle
    try:
        return bytes(pickler.dumps(payload))
    except Exception as error:  # of any kind: TypeError, AttributeError, ...
        more = "" if pickler is not pickle else "; cloudpickle could send more"
        raise ValueError(
            "the task or an optimizer cannot be sent to another process (make `data` "
            f"a function that makes it there, or give workers=0{more}): {error}"
        ) from error


_payloads: dict[bytes, Payload] = {}
_given: list[bytes] = []


def begin(content: Any) -> None:
    """Prepares a local process; it ends when the one that started it does."""
    import multiprocessing

    _given.append(content)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # a run that nobody waits for


def payload_of(content: "bytes | Payload | None") -> Payload:
    """The payload in these bytes, or in those that the process was begun with."""
    if isinstance(content, Payload):
        return content
    content = content or _given[0]
    if content not in _payloads:
        _payloads.clear()
        _payloads[content] = pickle.loads(content)
    _payloads[content].configure()  # the policy is each thread's own
    return _payloads[content]


def rehearse(content: Any, names: list[str], seeds: list[int]) -> dict[str, Any]:
    """Makes everything once and trains for one batch; the facts of the comparison.

    Args:
        content: The payload.
        names: Of the arms.
        seeds: Of which the data of the first and the last is made.
    """
    with _one_at_a_time, own_generator():
        payload = payload_of(content)
        device = str(keras.ops.zeros(1).device).lower()
        found: dict[str, Any] = {
            "backend": keras.backend.backend(),
            "keras": payload.keras,
            "device": "cpu" if "cpu" in device else "gpu",
            "tasks": {},
            "optimizers": {name: arms.facts(payload.arms[name]) for name in names},
        }
        for task in payload.tasks.values():
            try:
                found["tasks"][task.name] = _rehearse(payload, task, seeds)
            except ValueError as error:
                raise ValueError(f"task {task.name!r}: {error}") from error
            for name in names:
                arm = payload.arms[name]
                for arguments in arm.combinations():
                    training.base_rate(task, arm.optimizer(1e-3, arguments))
        return found


def _rehearse(payload: Payload, task: Task, seeds: list[int]) -> dict[str, Any]:
    parts = payload.parts(task, seeds[0])
    found: dict[str, Any] = {
        name: data.facts(part) for name, part in zip(Parts._fields, parts)
    }
    if task.of_seed:
        del found["train"]["kind"], found["validation"]["kind"]
        for part in found.values():
            part.pop("digest", None)
        other = payload.parts(task, seeds[-1])
        same = data.facts(parts.test) == data.facts(other.test)
        if not task.resplit:
            found["test"] = data.facts(parts.test)
            check_parts(task, seeds[-1], other, found)
        elif same:
            raise ValueError(
                "resplit=True, but `data` returns the same test part for different "
                "seeds: give resplit=False"
            )
    elif callable(task.data):
        check_parts(task, seeds[-1], made(task, 0), found)
    if not callable(task.data) and data.changes(parts.train):
        raise ValueError(
            "the training part changes from epoch to epoch (it shuffles, perhaps), so "
            "that a run would depend on those before it: give `data` as a function "
            "that makes the parts, which is called for each run"
        )
    if task.resplit and data.kind(parts.test) != "arrays":
        raise ValueError("resplit=True needs arrays, whose examples can be counted")
    keras.utils.set_random_seed(seeds[0])
    feed = data.Feed(parts.train, task.batch_size, task.steps_per_epoch, seeds[0])
    optimizer = keras.optimizers.SGD(0.0)
    trainer = training.Trainer(task, optimizer, parts)
    batch = next(iter(feed.epoch()))
    trainer.model.train_on_batch(*batch)
    few = data.evaluate(trainer.model, _few(parts.test, task), task.batch_size)
    weights = [str(tuple(v.shape)) for v in trainer.model.weights]
    return {
        **found,
        "parameters": trainer.model.count_params(),
        "weights": data.digest(np.array(weights)),
        "metrics": [name for name in few if name != "loss"],
        "loss": task.loss_name,
        "epochs": task.epochs,
        "batch_size": feed.size if feed.kind == "arrays" else None,
        "steps_per_epoch": feed.steps,
        "schedule": described(task.schedule),
        "resplit": task.resplit,
    }


def _few(part: Any, task: Task) -> Any:
    if data.kind(part) != "arrays":
        return part.take(1) if data.kind(part) == "tf.data" else part
    size = data.evaluated_at_once(part, task.batch_size)
    return tuple(keras.tree.map_structure(lambda leaf: leaf[:size], p) for p in part)


def check_parts(task: Task, seed: int, parts: Parts, expected: dict[str, Any]) -> None:
    """Refuses other parts than those of the other seeds, where they must be the same.

    Raises:
        ValueError: If they are others.
    """
    if task.of_seed:
        if not task.resplit and data.facts(parts.test) != expected["test"]:
            raise ValueError(
                f"`data` returns another test part for seed {seed} than for others: "
                "make it the same for all, or give the task resplit=True"
            )
        return
    for name, part in zip(Parts._fields, parts):
        if data.facts(part) != expected[name]:
            raise ValueError(
                f"`data` takes no seed, but its {name} part is another at every call: "
                "seed what it draws, or make it a function of the seed"
            )


def train(
    content: Any,
    run: dict[str, Any],
    expected: dict[str, Any],
    folder: str,
    every: float,
) -> dict[str, Any]:
    """Makes a run; its row.

    Args:
        content: The payload.
        run: Task, optimizer, stage, rate, arguments, seed, and the name of its file.
        expected: The facts of the task.
        folder: Of the comparison; where there is none, a run cannot go on half-way.
        every: Seconds between two writings of a run that is not finished.
    """
    with _one_at_a_time, own_generator():
        payload = payload_of(content)
        task, arm = payload.tasks[run["task"]], payload.arms[run["optimizer"]]
        parts = payload.parts(task, run["seed"])
        if callable(task.data):
            check_parts(task, run["seed"], parts, expected)
        state = Path(folder, UNFINISHED)
        kept = None
        if state.is_dir():
            facts = json.dumps([expected, arms.facts(arm), payload.keras])
            made = hashlib.sha256(facts.encode()).hexdigest()
            kept = training.Kept(state / f"{run['file']}.npz", every, made)
        begin = time.perf_counter()
        trainer = payload.trainer(run, parts)
        parts = payload.parts(task, run["seed"])  # nothing has been read from these
        new = arm.optimizer(run["rate"], run["arguments"])
        rate = training.base_rate(task, new)
        row = trainer.run(rate, run["seed"], parts, arm.weights_shift, kept)
        row["seconds"] = time.perf_counter() - begin
        return row
