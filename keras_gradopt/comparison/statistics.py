"""Paired differences: tests, intervals, equivalence, and what could have been seen.

SciPy and statsmodels are imported when a function needs them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TESTS = ("sign-flip", "t", "corrected-t")
EXACT = 14  # seeds, up to which all signs are counted
POWER = 0.8
BIG = np.finfo(float).max / 4  # instead of infinity


def needed(module: str) -> Any:
    """A module of the extra `comparison`.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"keras_gradopt.comparison needs {package} for this: "
            'pip install "keras-gradopt[comparison]"'
        ) from error


@dataclass(frozen=True)
class Difference:
    """What paired differences say of their mean, before any correction.

    Attributes:
        mean: Of ours minus theirs; NaN if a run diverged.
        low: Of the 95 % interval (that of Student's t).
        high: Of the same.
        p: Of no difference.
        p_equivalent: Of a difference that is not within the margin.
        std: Of the differences.
        detectable: The smallest effect that this many seeds find four times of five.
        count: Seeds.
        diverged: Seeds in which one of the two diverged.
    """

    mean: float
    low: float
    high: float
    p: float
    p_equivalent: float
    std: float
    detectable: float
    count: int
    diverged: int = 0


def paired(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    test: str = "sign-flip",
    margin: float = 0.0,
    level: float = 0.05,
    ratio: float = 0.0,
) -> Difference:
    """Compares values that are paired by seed.

    Args:
        ours: One for each seed.
        theirs: The same, in the same order.
        test: `"sign-flip"`, the exact permutation test within pairs; `"t"`, Student's
            for pairs; `"corrected-t"`, Nadeau and Bengio's for overlapping data.
        margin: Up to which a difference does not matter.
        level: At which the detectable effect is computed.
        ratio: Of test examples to training examples, for `"corrected-t"`.

    Raises:
        ValueError: If a value is NaN.

    Example:

    >>> found = paired([1.0, 1.2, 0.9, 1.1, 1.0], [1.5, 1.6, 1.5, 1.4, 1.6])
    >>> round(found.mean, 2), found.p
    (-0.48, 0.0625)
    """
    both = np.array([ours, theirs], float)
    if np.isnan(both).any():
        raise ValueError("values must be numbers, infinite where a run diverged")
    count, diverged = both.shape[1], int((~np.isfinite(both).all(0)).sum())
    if diverged:  # how far is not known, but who is: a test of signs
        p = flipped(np.sign(np.clip(both[0], -BIG, BIG) - np.clip(both[1], -BIG, BIG)))
        nan = math.nan
        return Difference(nan, nan, nan, p, 1.0, nan, nan, count, diverged)
    differences = both[0] - both[1]
    mean, std = float(differences.mean()), float(differences.std(ddof=1))
    error = std * math.sqrt(1 / count + (ratio if test == "corrected-t" else 0.0))
    half = error * needed("scipy.stats").t.ppf(0.975, count - 1)
    one_sided: Callable[[np.ndarray], float]
    if test == "sign-flip":
        p, one_sided = flipped(differences), functools.partial(flipped, greater=True)
    else:
        p = _t(mean, error, count, two_sided=True)

        def one_sided(moved: np.ndarray) -> float:
            return _t(float(moved.mean()), error, count)

    p_equivalent = max(one_sided(differences + margin), one_sided(margin - differences))
    seen = detectable(count, test, level, ratio) * std
    return Difference(
        mean, mean - half, mean + half, p, p_equivalent, std, seen, count
    )  # fmt: skip


def flipped(differences: np.ndarray, greater: bool = False) -> float:
    """The p of the sign-flip test of a mean of 0; exact up to 14 differences.

    Args:
        differences: One for each seed.
        greater: Whether to ask only if the mean is above 0.
    """
    if not np.ptp(differences):
        return _of_equals(float(differences[0]), len(differences), greater)
    many = len(differences) > EXACT
    test = needed("scipy.stats").permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=99_999 if many else np.inf,
        alternative="greater" if greater else "two-sided",
        rng=0,
    )
    return min(1.0, float(test.pvalue))


def _of_equals(value: float, count: int, greater: bool) -> float:
    if value == 0 or (greater and value < 0):
        return 1.0
    return 2.0**-count if greater else 2.0 ** (1 - count)


def _t(mean: float, error: float, count: int, two_sided: bool = False) -> float:
    if error == 0:
        if two_sided:
            return 1.0 if mean == 0 else 0.0
        return 0.0 if mean > 0 else 1.0
    value = abs(mean) / error if two_sided else mean / error
    p = float(needed("scipy.stats").t.sf(value, count - 1))
    return 2 * p if two_sided else p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction."""
    if not len(p_values):
        return []
    multitest = needed("statsmodels.stats.multitest")
    return [float(p) for p in multitest.multipletests(p_values, method="holm")[1]]


def smallest_p(count: int, test: str) -> float:
    """The lowest p that a test can come to with so many seeds."""
    return 2.0 ** (1 - count) if test == "sign-flip" else 0.0


@functools.cache
def detectable(count: int, test: str, level: float, ratio: float = 0.0) -> float:
    """The effect, in standard deviations of the differences, found 4 times of 5.

    Of normal differences; by simulation for up to 12 seeds of the sign-flip test, which
    comes close to the t test for more. Infinite if the test cannot reject at all.

    Example:

    >>> round(detectable(10, "t", 0.05), 2)
    1.0
    """
    if smallest_p(count, test) > level:
        return math.inf
    find: Callable[[float], float]
    if test == "sign-flip" and count <= 12:
        find = _simulated(count, level)
    else:
        find = _computed(count, level, ratio if test == "corrected-t" else 0.0)
    low, high = 0.0, 1.0
    while find(high) < POWER and high < 1e6:
        high *= 2
    while high - low > 0.002 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if find(middle) < POWER else (low, middle)
    return high


def _simulated(count: int, level: float) -> Callable[[float], float]:
    noise = np.random.default_rng(0).normal(size=(2000, count))
    # the first sign is fixed: all opposite ones together say the same
    signs = 1.0 - 2.0 * ((np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1)

    def power(effect: float) -> float:
        values = noise + effect
        far = np.abs(values.sum(1, keepdims=True)) * (1 - 1e-12)
        return float(((np.abs(values @ signs.T) >= far).mean(1) <= level).mean())

    return power


def _computed(count: int, level: float, ratio: float) -> Callable[[float], float]:
    stats = needed("scipy.stats")
    limit = stats.t.isf(level / 2, count - 1)
    scale = math.sqrt(1 / count + ratio)

    def power(effect: float) -> float:
        noncentrality = effect / scale
        above = stats.nct.sf(limit, count - 1, noncentrality)
        below = stats.nct.cdf(-limit, count - 1, noncentrality)
        return float(np.nan_to_num(above, nan=1.0) + np.nan_to_num(below))

    return power


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean.

    Of ten normal values it covers about 90 %: Student's is the better one there.
    """
    if not np.ptp(differences):
        return float(differences[0]), float(differences[0])
    low, high = (
        needed("scipy.stats")
        .bootstrap(
            (differences,), np.mean, method="percentile", n_resamples=9999, rng=0
        )
        .confidence_interval
    )
    return float(low), float(high)
