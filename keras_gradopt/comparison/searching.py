"""The search for a learning rate: a coarse grid, then a finer one around the best."""

import math
from collections.abc import Mapping

from keras_gradopt.arguments import positive, refuse

DIGITS = (1.0, 1.8, 3.0, 5.6)  # of the quarters of a decade
EDGES = (-28, 12)  # of the search: from 1e-7 to 1e3


def rate_at(quarter: int) -> float:
    """The learning rate of a quarter-decade; even ones are those of the coarse grid.

    Example:

    >>> [rate_at(quarter) for quarter in (-14, -13, -12, -11, -10)]
    [0.0003, 0.00056, 0.001, 0.0018, 0.003]
    """
    return float(f"{DIGITS[quarter % 4]:g}e{quarter // 4}")


def quarter_of(name: str, rate: float) -> int:
    """The place of a learning rate in the coarse grid.

    Raises:
        ValueError: If it is not in it.
    """
    positive(name, rate)
    for quarter in range(EDGES[0], EDGES[1] + 1, 2):
        if math.isclose(rate_at(quarter), rate):
            return quarter
    raise refuse(name, rate, "half-decades from 1e-7 to 1e3: 0.001, 0.003, 0.01, ...")


def missing(
    losses: Mapping[int, float], low: int, high: int, refine: bool = True
) -> list[int]:
    """The quarters that must still be tried; none when the search has ended.

    The coarse grid is extended as long as the best is at an edge; then come both
    neighbours of the best.

    Args:
        losses: By quarter; infinite where training diverged.
        low: The first quarter of the coarse grid.
        high: The last.
        refine: Whether to try quarter-decades around the best.

    Example:

    >>> missing({-14: 0.4, -12: 0.3, -10: 0.5}, -14, -10)
    [-13, -11]
    """
    grid = [q for q in range(low, high + 1, 2) if q not in losses]
    if grid:
        return grid
    coarse = {q: loss for q, loss in losses.items() if q % 2 == 0}
    centre = best(coarse)
    steps = (2, 1) if refine else (2,)
    for step in steps:
        beside = [q for q in (centre - step, centre + step) if q not in losses]
        beside = [q for q in beside if EDGES[0] <= q <= EDGES[1]]
        if beside:
            return beside
    return []


def best(losses: Mapping[int, float]) -> int:
    """The quarter of the lowest loss; the lowest rate of equals."""
    return min(losses, key=lambda quarter: (losses[quarter], quarter))
