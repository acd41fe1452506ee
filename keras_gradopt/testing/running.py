"""Runs the checks: all at once, or one by one as tests."""

import time
import unittest
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras

from keras_gradopt.testing import devices
from keras_gradopt.testing.bench import Bench, Factory, Twin
from keras_gradopt.testing.registry import CHECKS, Check, Failed, Skipped
from keras_gradopt.testing.report import ConformanceError, Outcome, Report

RAISED = "raised "


class BoundCheck:
    """A check of one optimizer, to be called by a test.

    It raises `ConformanceError` if the check fails, and `unittest.SkipTest` (which
    pytest knows) if it cannot be made. `outcome()` returns what it came to instead.

    Attributes:
        name: of the check.
        sentence: what it says.
    """

    def __init__(self, check: Check, bench: Bench, reason: str, strict: bool) -> None:
        self.name = self.__name__ = check.name
        self.sentence = check.sentence
        self._check = check
        self._bench = bench
        self._reason = reason
        self._strict = strict

    def __call__(self) -> None:
        outcome = self.outcome()
        if outcome.status == "skipped" or outcome.excused:
            raise unittest.SkipTest(str(outcome))
        if outcome.status == "failed":
            raise ConformanceError(str(outcome))

    def outcome(self) -> Outcome:
        """Makes the check."""
        if self._reason:
            return Outcome(self._check, "skipped", self._reason)
        begin = time.perf_counter()
        status, saw = self._try()
        seconds = time.perf_counter() - begin
        raised = saw.startswith(RAISED)  # no fault of Keras
        fault = status == "failed" and self._check.keras_fault and not raised
        return Outcome(
            self._check, status, saw, seconds, bool(fault) and not self._strict
        )

    def _try(self) -> tuple[Any, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return "passed", self._check.function(self._bench)
            except Failed as failure:
                return "failed", str(failure)
            except Skipped as skipped:
                return "skipped", str(skipped)
            except Exception as error:
                text = " ".join(str(error).split())
                return "failed", f"{RAISED}{type(error).__name__}: {text[:300]}"


def checks(
    factory: Factory,
    *,
    base: Factory | None = None,
    twin: Twin | None = None,
    neutral: Callable[[], Any] | None = None,
    rtol: float = 1e-4,
    skip: Collection[str] = (),
    strict: bool = False,
) -> list[BoundCheck]:
    """The checks of `check_optimizer`, one by one, for pytest.

    Args:
        factory: as in `check_optimizer`, as all arguments are.
        base: makes the optimizer that it must not be. Defaults to none.
        twin: its NumPy implementation. Defaults to none.
        neutral: makes it as it is its base. Defaults to none.
        rtol: allowed difference from twin and base. Defaults to `1e-4`.
        skip: names of checks to skip. Defaults to none.
        strict: whether a check that Keras' own Adam fails must pass. Defaults to
            `False`.

    Returns:
        A list of functions without arguments; their ids are the names of the checks.

    Raises:
        ValueError: for an argument that is not possible.

    Example:

    ```python
    @pytest.mark.parametrize("check", checks(lambda: MyOptimizer(0.01)))
    def test_my_optimizer(check):
        check()
    ```

    >>> import keras
    >>> from keras_gradopt.testing import checks
    >>> made = {check.name: check for check in checks(keras.optimizers.Adam)}
    >>> made["zero_gradients"]()
    >>> made["zero_gradients"].outcome().saw
    'moved by 0 in two steps, finite after them'
    """
    given: dict[str, Any] = {"base": base, "twin": twin, "neutral": neutral}
    for name, value in {"factory": factory, **given}.items():
        if not callable(value) and (value is not None or name == "factory"):
            raise ValueError(
                f"{name}={value!r} is not possible; allowed: a function"
                + (" that makes a new optimizer at each call" * (name != "twin"))
            )
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol!r} is not possible; allowed: above 0, below 1")
    unknown = sorted({*skip} - {*CHECKS})
    if isinstance(skip, str) or unknown:
        raise ValueError(
            f"skip={skip!r} is not possible; allowed: some of {', '.join(CHECKS)}"
        )
    devices.split_cpu()
    bench = Bench(factory, rtol=rtol, **given)
    made = []
    for check in CHECKS.values():
        absent = [name for name in check.needs if given[name] is None]
        reason = f"needs {' and '.join(absent)}" if absent else ""
        reason = "named in skip" if check.name in skip else reason
        made.append(BoundCheck(check, bench, reason, strict))
    return made


def check_optimizer(
    factory: Factory,
    *,
    base: Factory | None = None,
    twin: Twin | None = None,
    neutral: Callable[[], Any] | None = None,
    rtol: float = 1e-4,
    skip: Collection[str] = (),
    strict: bool = False,
    raise_on_failure: bool = True,
) -> Report:
    """Tries whether an optimizer does what Keras promises, and what it says itself.

    It works with every Keras 3 optimizer, on TensorFlow, JAX and PyTorch. Each check
    makes new optimizers and steps on four small variables: the kernel `(2, 2, 2, 3)`
    and bias `(3,)` of a Conv2D, the kernel `(3, 3)` and bias `(3,)` of a Dense layer.
    All of them take less than a minute on two cores.

    Args:
        factory: makes a new optimizer at each call: a class, or a function.
        base: makes the optimizer that it must not be, also not at another learning
            rate, from the same gradients. Defaults to none.
        twin: what it should compute, in NumPy: `twin(gradients, start)` gets two lists
            with an array for each of the four variables, the gradients
            `(steps, *shape)` and the values before the first step, both float64, and
            returns a list of the values after each step, `(steps, *shape)`.
            Defaults to none.
        neutral: makes the optimizer with the settings at which it is its base; or a
            tuple of it and the base to compare with; or a tuple of both and a function
            of the gradients, if they agree on some gradients only. Defaults to none.
        rtol: by how much of the distance travelled it may differ from the twin, and
            from its base at the neutral setting. They run in float64 where the
            backend has it (on JAX with `JAX_ENABLE_X64=1`). Defaults to `1e-4`.
        skip: names of checks to skip. Defaults to none.
        strict: whether a check that Keras' own Adam fails must pass. Defaults to
            `False`.
        raise_on_failure: whether a failure raises. Defaults to `True`.

    Returns:
        A `Report`: `passed`, `outcomes`, `table()` and `markdown()`; printed, it is
        a table.

    Raises:
        ConformanceError: if a check failed; it names all that did, and what they saw.
        ValueError: for an argument that is not possible.

    Example:

    >>> import keras, numpy as np
    >>> from keras_gradopt.testing import CHECKS, check_optimizer
    >>> def twin(gradients, start):
    ...     return [s - 0.01 * np.cumsum(g, axis=0) for g, s in zip(gradients, start)]
    >>> others = set(CHECKS) - {"equals_twin"}  # only to be quick
    >>> print(check_optimizer(
    ...     lambda: keras.optimizers.SGD(0.01), twin=twin, skip=others
    ... ).passed)
    True
    """
    made = checks(
        factory,
        base=base,
        twin=twin,
        neutral=neutral,
        rtol=rtol,
        skip=skip,
        strict=strict,
    )
    name = factory_name(factory)
    report = Report(name, tuple(outcomes(made)))
    if raise_on_failure:
        report.raise_for_failures()
    return report


def outcomes(made: list[BoundCheck]) -> Iterator[Outcome]:
    """What the checks come to, as they come."""
    for check in made:
        yield check.outcome()


def factory_name(factory: Factory) -> str:
    """The name of the optimizer's class."""
    made = factory()
    if not isinstance(made, keras.optimizers.Optimizer):
        raise ValueError(f"factory made {made!r}, which is no Keras optimizer")
    return type(made).__name__
