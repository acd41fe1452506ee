"""What a monitor measures only when it is asked to: histograms, moments, clipping."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt import arguments
from keras_gradopt.equations import Tensor
from keras_gradopt.monitoring.inspection import name_in_slots, owner_and_kind
from keras_gradopt.monitoring.vectors import (
    angle_of,
    chord_between,
    length,
    polar,
    root_sum,
)

HISTOGRAMS = ("gradient", "update", "coefficient")
BINS = 30
_OF_KERAS = ("average", "gradient_accumulator")  # slots that are no optimizer's own


@dataclass(frozen=True)
class Details:
    """Which of them are asked for.

    Attributes:
        histograms: of what, some of `HISTOGRAMS`.
        moments: of each slot that has its variable's shape, norm and angle.
        clipping: the norm before clipping, and whether clipping acted.
    """

    histograms: tuple[str, ...] = ()
    moments: bool = False
    clipping: bool = False

    @classmethod
    def checked(cls, histograms: Any, moments: Any, clipping: Any) -> "Details":
        """Those of a monitor's arguments.

        Raises:
            ValueError: for something else.
        """
        if isinstance(histograms, bool):
            histograms = HISTOGRAMS if histograms else ()
        is_list = isinstance(histograms, (list, tuple, set, frozenset))
        if not is_list or not set(histograms) <= set(HISTOGRAMS):
            allowed = f"True, False or a list of {', '.join(map(repr, HISTOGRAMS))}"
            raise arguments.refuse("histograms", histograms, allowed)
        return cls(
            tuple(name for name in HISTOGRAMS if name in histograms),
            arguments.flag("moments", moments),
            arguments.flag("clipping", clipping),
        )


class Measured:
    """The details of one optimizer: how they are measured, and found again.

    They follow the other numbers in the vector that is measured of each variable:
    first the scalars (`names`), then the blocks of the histograms (`titles`): lowest
    and highest value, and how many are in each of `BINS` bins of equal width between.

    Args:
        details: what is asked for.
        optimizer: whose slots are meant.
        variables: that it trains.
        labels: of the transforms.
    """

    def __init__(
        self,
        details: Details,
        optimizer: Any,
        variables: Sequence[keras.Variable],
        labels: Sequence[str],
    ) -> None:
        self.details = details
        self.slots: list[dict[str, Any]] = [{} for _ in variables]
        if details.moments:
            self.slots = _slots(optimizer, variables)
        self._kinds = list(dict.fromkeys(kind for of in self.slots for kind in of))
        self.names = ["unclipped_l2", "clipped"] if details.clipping else []
        self.names += [f"{k}.{what}" for k in self._kinds for what in ("l2", "chord")]
        self.titles = [name for name in details.histograms if name != "coefficient"]
        if "coefficient" in details.histograms:
            self.titles += [f"{label}.coefficient" for label in labels]
        self.width = len(self.names) + len(self.titles) * (BINS + 2)

    def measure(
        self,
        gradient: Tensor,
        change: Tensor,
        coefficients: Mapping[str, Tensor],
        unclipped: Tensor | None,
        slots: Mapping[str, Tensor],
        tolerance: float,
    ) -> list[Tensor]:
        """The vectors for one variable. A pure function of tensors."""
        dtype, scalars = gradient.dtype, []
        none = -ops.ones((), dtype)
        _, direction = polar(gradient)
        if self.details.clipping:
            if unclipped is None:  # the optimizer does not clip as Keras does
                scalars += [none, none]
            else:
                unclipped = ops.cast(unclipped, dtype)
                apart, _ = polar(unclipped - gradient)
                before, _ = polar(unclipped)
                acted = ops.logical_not(apart <= tolerance * before)
                scalars += [before, ops.cast(acted, dtype)]
        for kind in self._kinds:
            if kind in slots:
                size, where = polar(ops.cast(slots[kind], dtype))
                scalars += [size, length(direction - where)]
            else:
                scalars += [none, none]
        vectors = [ops.stack(scalars)] if scalars else []
        of = {"gradient": gradient, "update": change} | {
            f"{label}.coefficient": value for label, value in coefficients.items()
        }
        for title in self.titles:
            vectors.append(_histogram(of[title] if title in of else None, dtype))
        return [ops.cast(vector, "float32") for vector in vectors]

    def scalars(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """By name, from an array (variable, quantity) of details."""
        return dict(zip(self.names, values.T))

    def histograms(
        self, values: np.ndarray
    ) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
        """Position of the variable, title, edges and counts; none of nothing."""
        for i, row in enumerate(values):
            blocks = row[len(self.names) :].reshape(len(self.titles), BINS + 2)
            for title, (low, high, *counts) in zip(self.titles, blocks):
                if sum(counts) > 0:
                    edges = np.linspace(low, high, BINS + 1)
                    yield i, title, edges, np.array(counts, "int64")


def _slots(optimizer, variables):
    """For each variable its slots of its own shape, by kind, in Keras' names."""
    positions: dict[str, list[int]] = {}
    for i, variable in enumerate(variables):
        positions.setdefault(name_in_slots(variable), []).append(i)
    found: list[dict[str, Any]] = [{} for _ in variables]
    for slot in optimizer.variables:
        owner, kind = owner_and_kind(slot.name, positions)
        for i in positions.get(owner, ()):  # of several with one name, in their order
            if kind not in found[i]:
                if kind not in _OF_KERAS and slot.shape == variables[i].shape:
                    found[i][kind] = slot
                    break
    return found


def _histogram(x, dtype):
    if x is None:
        return -ops.ones((BINS + 2,), dtype)
    x = ops.reshape(x, (-1,))
    finite = ops.isfinite(x)
    some = ops.where(finite, x, ops.zeros_like(x))
    big = ops.max(ops.abs(some))
    low = ops.min(ops.where(finite, x, big))
    high = ops.max(ops.where(finite, x, -big))
    width = ops.where(high > low, high - low, 1.0)
    index = ops.cast(ops.floor((some - low) / width * BINS), "int32")
    index = ops.clip(index, 0, BINS - 1)
    counts = ops.segment_sum(ops.cast(finite, "int32"), index, BINS)
    return ops.concatenate([ops.stack([low, high]), ops.cast(counts, dtype)])


def recorded_details(names: Iterable[str]) -> list[str]:
    """The keys of `combined_details`."""
    return [name.replace(".chord", ".angle") for name in names]


def combined_details(
    named: Mapping[str, np.ndarray], gradient: np.ndarray
) -> dict[str, float]:
    """What is recorded of some variables together, with the norms of their gradients.

    -1 stands for what a variable does not have; what none of them has is left out.
    """
    row: dict[str, float] = {}
    for name, values in named.items():
        has = ~(values < 0)
        if not has.any():
            continue
        if name == "clipped":
            row[name] = float(np.mean(values[has]))
        elif name.endswith("l2"):
            row[name] = root_sum(values[has])
        else:
            kind = name.removesuffix(".chord")
            size, of_gradient = named[f"{kind}.l2"][has], gradient[has]
            chord = chord_between(of_gradient, size, values[has])
            there = bool(np.any(size)) and bool(np.any(of_gradient))
            row[f"{kind}.angle"] = float(angle_of(chord)) if there else math.nan
    return row


class Clipped:
    """How often clipping acted, over all samples."""

    def __init__(self) -> None:
        self._acted = self._seen = 0
        self._norms: list[float] = []

    def add(self, named: Mapping[str, np.ndarray]) -> None:
        """Takes one step's details of variables that have a gradient."""
        if "clipped" in named:
            has = named["clipped"] >= 0
            self._seen += int(has.sum())
            self._acted += int(named["clipped"][has].sum())
            if has.any():
                self._norms.append(root_sum(named["unclipped_l2"][has]))

    def lines(self) -> Iterator[str]:
        """In words, if there is something to say."""
        norms = [norm for norm in self._norms if math.isfinite(norm)]
        if self._seen and norms:
            share = self._acted / self._seen
            yield (
                f"clipping acted on {self._acted} of {self._seen} gradients "
                f"({share:.0%}); gradient L2 before it {np.mean(norms):.3g} "
                f"({min(norms):.3g} to {max(norms):.3g})"
            )
