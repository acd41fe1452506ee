"""Makes the runs: through any executor, resumable, one comparison in a folder."""

import concurrent.futures as futures
import contextlib
import functools
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

from keras_gradopt.arguments import number, refuse
from keras_gradopt.comparison import arms as arms_module
from keras_gradopt.comparison import plans, searching, worker
from keras_gradopt.comparison.files import (
    DECLARATION,
    RUNS,
    UNFINISHED,
    ComparisonError,
    Rows,
    alone_in,
)
from keras_gradopt.comparison.progress import Progress
from keras_gradopt.comparison.results import Results
from keras_gradopt.comparison.scheduling import Run, Schedule
from keras_gradopt.comparison.tasks import Task, whole_number

THREADS = (
    "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
    "MKL_NUM_THREADS",
)  # fmt: skip
RECYCLE = 400  # runs after which local processes are replaced: graphs stay in memory
BREAKS = 3  # of local processes in a row, without a run between them
BROKEN = (
    "processes that make runs end without a word: out of memory, perhaps (fewer "
    "`workers` need less). Every finished run is kept; start again to go on"
)
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "keras-gradopt")


def compare(
    task: Task | Sequence[Task],
    optimizers: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str],
    baseline: str | None = None,
    seeds: Sequence[int] = tuple(range(11, 21)),
    tuning_seeds: Sequence[int] = (1, 2, 3),
    measure: str = "test_loss",
    mode: str = "auto",
    margin: float | str = "2%",
    level: float = 0.05,
    test: str | None = None,
    comparisons: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    controls: bool = True,
    grid: tuple[float, float] = (3e-4, 1e-1),
    refine: bool = True,
    leave_out: Sequence[tuple[str, str]] = (),
    executor: futures.Executor | None = None,
    workers: int | None = None,
    keep_every: float = 60.0,
    progress: bool = True,
) -> Results:
    """Compares optimizers on a model: the same search for all, then paired seeds.

    Every optimizer gets its learning rate by the same search, on the validation part.
    Then it trains with fresh seeds, paired across optimizers, and is reported on with
    the test part. What will be tested is written to `declaration.json` before the first
    run; every run is a row of `runs.csv` when it ends. Called again, after a kill too,
    it goes on where it was.

    Local processes are started, so a script must call it behind
    `if __name__ == "__main__":`.

    Args:
        task: A `Task`, or several; each has families of comparisons of its own.
        optimizers: By name: a class, any callable from a learning rate to a new Keras
            optimizer, or an `Arm`.
        folder: Where everything is written.
        baseline: The name of the optimizer that the others are compared with. Defaults
            to `None`: the first.
        seeds: That are reported on: each draws initial weights and order, alike for all
            optimizers. Defaults to `range(11, 21)`.
        tuning_seeds: Of the search. Defaults to `(1, 2, 3)`.
        measure: What is compared: `"test_loss"`, or `"test_"` and the name of a metric;
            the search goes by the same on the validation part. Defaults to
            `"test_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`, by the measure's name. Defaults to
            `"auto"`.
        margin: Up to which a difference does not matter: a number, or per cent of the
            other's mean. Defaults to `"2%"`.
        level: Of the tests, in each family. Defaults to `0.05`.
        test: `"sign-flip"`, `"t"`, or `"corrected-t"` (Nadeau and Bengio's). Defaults
            to `None`: `"sign-flip"`, or the last for tasks with `resplit=True`.
        comparisons: Pairs (optimizer, other) by the name of their family, instead of
            one family of all with the baseline and their controls. Defaults to `None`.
        controls: Whether to add the baseline again, from other weights, and, for
            methods of this package that are made of it, the baseline at the factor of
            the learning rate that the method amounts to where it does nothing else.
            Defaults to `True`.
        grid: First and last learning rate of the coarse grid, in half-decades; it is
            extended while the best is at an edge. Defaults to `(3e-4, 1e-1)`.
        refine: Whether quarter-decades around the best are tried, too. Defaults to
            `True`.
        leave_out: Pairs (task, optimizer) that are not run. Defaults to `()`.
        executor: Where runs are made: any `concurrent.futures.Executor`, for example
            Dask's `Client.get_executor()`. It is not shut down. Defaults to `None`:
            local processes.
        workers: Local processes; one for each GPU. `0`: in this process, one run after
            the other. Defaults to `None`: one for each processor, with a thread each.
        keep_every: Seconds of training after which an unfinished run is kept in a file,
            at the end of an epoch. Defaults to `60.0`.
        progress: Whether to show how far it is. Defaults to `True`.

    Returns:
        The `Results`: `table()`, `plot(path)`, `verdicts`.

    Raises:
        ValueError: If an argument is wrong, or the task does not train.
        ComparisonError: If the folder is in use, or its runs were made otherwise.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_gradopt import comparison
    >>> def make_model():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    >>> y = x.sum(axis=1, keepdims=True)
    >>> data = (x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:])
    >>> results = comparison.compare(
    ...     comparison.Task("sums", model=make_model, data=data, loss="mse", epochs=2),
    ...     {
    ...         "slow": comparison.Arm(keras.optimizers.SGD, rate=0.01),
    ...         "fast": comparison.Arm(keras.optimizers.SGD, rate=0.1),
    ...     },
    ...     folder=tempfile.mkdtemp(), seeds=range(11, 17), controls=False, workers=0,
    ...     progress=False,
    ... )
    >>> results.verdicts[0].verdict
    'better'
    """
    tasks = _tasks(task)
    given = arms_module.arms(optimizers)
    base = next(iter(given)) if baseline is None else baseline
    if base not in given:
        raise refuse("baseline", baseline, f"one of {', '.join(given)}")
    names = list(given)
    pairs: list[tuple[str, str]] = []
    again = ""
    if controls:
        given, pairs = arms_module.add_controls(given, base)
        again = f"{base} again"
    families = plans.families_of(comparisons, names, base, pairs, again)
    if not families:
        raise refuse("optimizers", ", ".join(names), "at least two, or controls=True")
    amount, share = plans.margin_of(margin)
    plan = plans.Plan(
        measure=measure,
        higher_is_better=plans.higher_is_better(measure, mode),
        margin=amount,
        margin_is_share=share,
        level=number("level", level, 0, 1, exclude_low=True, exclude_high=True),
        test=plans.test_of(test, [t.resplit for t in tasks.values()]),
        families=families,
        seeds=plans.seeds_of("seeds", seeds, 2),
        tuning_seeds=plans.seeds_of("tuning_seeds", tuning_seeds, 1),
        grid=_grid(grid),
        refine=refine,
    )
    plans.check_reach(plan)
    both = sorted({*plan.seeds} & {*plan.tuning_seeds})
    if both:
        raise refuse("seeds", both, "fresh: none of `tuning_seeds`")
    number("keep_every", keep_every, 0)
    if workers is not None:
        whole_number("workers", workers, 0)
    if executor is not None and not isinstance(executor, futures.Executor):
        raise refuse("executor", executor, "a concurrent.futures.Executor, or None")
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise refuse("folder", folder, "the path of a folder")
    left_out = _pairs(leave_out, tasks, given)
    left_out |= {  # and the controls that go by them
        (task_name, control)
        for task_name, name in left_out
        for control in given.keys() - {*names}
        if name in (given[control].rate_of, given[control].arguments_of)
    }
    schedule = Schedule(plan, given, list(tasks), left_out)
    path = Path(folder).absolute()
    with alone_in(path), _executor(executor, workers, tasks, given) as runner:
        (path / UNFINISHED).mkdir(exist_ok=True)
        _run(path, plan, schedule, runner, keep_every, progress)
    return Results.load(path)


def _tasks(task: Any) -> dict[str, Task]:
    tasks = [task] if isinstance(task, Task) else task
    if not isinstance(tasks, Sequence) or not all(isinstance(t, Task) for t in tasks):
        raise refuse("task", task, "a `Task`, or a list of them")
    found = {t.name: t for t in tasks}
    if len(found) < len(tasks) or not tasks:
        raise refuse("task", [t.name for t in tasks], "tasks of different names")
    return found


def _grid(grid: Any) -> tuple[float, float]:
    if isinstance(grid, str) or not isinstance(grid, Sequence) or len(grid) != 2:
        raise refuse("grid", grid, "a pair: the first and the last rate")
    low, high = (searching.quarter_of("grid", rate) for rate in grid)
    if low > high:
        raise refuse("grid", grid, "the lower rate first")
    return searching.rate_at(low), searching.rate_at(high)


def _pairs(pairs: Any, tasks: Any, arms: Any) -> frozenset[tuple[str, str]]:
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise refuse("leave_out", pair, "pairs (task, optimizer)")
        if pair[0] not in tasks or pair[1] not in arms:
            raise refuse("leave_out", pair, "names of a task and of an optimizer")
    return frozenset((str(task), str(arm)) for task, arm in pairs)


class Runner:
    """Submits work to an executor; a broken one of its own is replaced.

    Args:
        executor: The user's; `None`: local processes.
        workers: Local processes; 0: this process.
        payload: What runs need.
    """

    def __init__(
        self,
        executor: futures.Executor | None,
        workers: int | None,
        payload: worker.Payload,
    ) -> None:
        self.own = executor is None
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self.here = self.own and self.workers == 0
        self.content = payload if self.here else worker.dumped(payload)
        self.executor, self.submitted = executor, 0
        self.limit = 1 if self.here else 2 * self.workers if self.own else 10**6

    def submit(self, function: Any, *arguments: Any) -> futures.Future[Any]:
        """Of this process, the result at once."""
        if self.here:
            done: futures.Future[Any] = futures.Future()
            done.set_result(function(self.content, *arguments))
            return done
        self.submitted += 1
        if self.executor is None:
            self.executor = futures.ProcessPoolExecutor(
                self.workers,
                multiprocessing.get_context("spawn"),
                functools.partial(worker.begin, self.content),
            )
        content = None if self.own else self.content
        return self.executor.submit(function, content, *arguments)

    def stop(self) -> None:
        """Ends local processes when they have finished what they do."""
        if self.own and self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor, self.submitted = None, 0


@contextlib.contextmanager
def _executor(executor: Any, workers: Any, tasks: Any, arms: Any) -> Iterator[Runner]:
    """A runner, with the environment that new processes need."""
    if multiprocessing.parent_process() is not None and not workers == 0:
        if executor is None:
            raise ComparisonError(
                "compare() was called in one of its own processes: in a script, call "
                'it behind `if __name__ == "__main__":`'
            )
    runner = Runner(executor, workers, worker.Payload(tasks, arms))
    backend = {"KERAS_BACKEND": keras.backend.backend()}
    added = dict.fromkeys(THREADS, "1") if workers is None or workers > 1 else {}
    environment = {**added, **backend}
    environment = {k: v for k, v in environment.items() if k not in os.environ}
    os.environ.update({} if runner.here else environment)
    try:
        yield runner
    finally:
        runner.stop()
        for name in environment:
            os.environ.pop(name, None)


def _run(
    folder: Path,
    plan: plans.Plan,
    schedule: Schedule,
    runner: Runner,
    keep_every: float,
    progress: bool,
) -> None:
    """Rehearses, declares, and makes every run that is missing."""
    declaration = plans.Declaration(folder / DECLARATION)
    rows = Rows(folder / RUNS)
    seeds = [*plan.tuning_seeds, *plan.seeds]
    try:
        rehearsal = runner.submit(worker.rehearse, list(schedule.arms), seeds)
        made = _result(rehearsal, "the rehearsal")
    except futures.BrokenExecutor as error:
        raise ComparisonError(BROKEN) from error
    before = declaration.made.get("tasks", {}) if rows.known else {}
    metrics = _metrics(plan.measure, {**made["tasks"], **before})
    schedule.missing(rows.known)  # refuses what would never end
    declaration.declare(plan, made, _session(), len(rows.known))
    rows.widen(metrics)
    bar = Progress(max(1, runner.workers if runner.own else 1), progress)
    waiting: dict[futures.Future[Any], Run] = {}
    breaks = 0

    def finish(future: futures.Future[Any]) -> None:
        run = waiting.pop(future)
        row = _result(future, " ".join(map(str, run)))
        bar.done(row.pop("seconds"))
        rows.add({**run.columns(), **row})
        (folder / UNFINISHED / f"{run.described()['file']}.npz").unlink(missing_ok=True)

    while True:
        todo = schedule.missing(rows.known)
        declaration.choose(schedule.chosen)
        if not todo and not waiting:
            break
        bar.expect(len(todo) + schedule.expected(rows.known))
        try:
            for run in [run for run in todo if run not in waiting.values()]:
                full = runner.own and runner.submitted >= RECYCLE
                if len(waiting) >= runner.limit or full:
                    break
                facts = made["tasks"][run.task]
                sent = (run.described(), facts, str(folder), keep_every)
                waiting[runner.submit(worker.train, *sent)] = run
            done, _ = futures.wait(
                waiting, return_when=futures.FIRST_COMPLETED, timeout=5
            )
            for future in sorted(done, key=_failed):  # what ended well is kept
                finish(future)
                breaks = 0
        except futures.BrokenExecutor as error:
            for future in [f for f in waiting if f.done() and not _failed(f)]:
                finish(future)
                breaks = 0
            breaks += 1
            if not runner.own or breaks > BREAKS:
                raise ComparisonError(BROKEN) from error
            runner.stop()
            waiting.clear()
        if runner.own and runner.submitted >= RECYCLE and not waiting:
            runner.stop()
    bar.close()


def _failed(future: futures.Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None


def _metrics(measure: str, tasks: dict[str, Any]) -> list[str]:
    """The columns of all metrics, checked for what is compared."""
    found: list[str] = []
    for name, facts in tasks.items():
        test = [f"test_{metric}" for metric in facts["metrics"]]
        found += [f"validation_{metric}" for metric in facts["metrics"]] + test
        if measure not in ("test_loss", *test):
            allowed = (
                f"one of those of task {name!r}: {', '.join(['test_loss', *test])}"
            )
            raise refuse("measure", measure, allowed)
    return list(dict.fromkeys(found))


def _result(future: futures.Future[Any], what: str) -> dict[str, Any]:
    try:
        return dict(future.result())
    except (futures.BrokenExecutor, ValueError, ComparisonError):
        raise
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(f"in {what}")
        raise


def _session() -> dict[str, Any]:
    """What is the same for all runs of this start."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": found,
        "started_by": Path(sys.argv[0]).name,
        "day": time.strftime("%Y-%m-%d"),
    }
