"""From what is measured of each variable to what is said of an optimizer.

`Probe` measures a vector of numbers for each variable in each sampled step. Here they
are put together: for a group of variables, and over all samples.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_gradopt.monitoring.vectors import angle_of, chord_between, root_sum

# norms and cosine are of the gradient, the change of the variable, and the change that
# there would have been without transforms ("plain"); a chord is the distance of two
# directions
OF_UPDATE = (
    "step", "gradient_l1", "gradient_l2", "gradient_max", "update_l2", "parameter_l2",
    "cosine", "plain_l2", "plain_chord",
)  # fmt: skip
# of each transform: norms of the gradient before and after it, the chord between the
# two, mean and standard deviation of its coefficient
OF_TRANSFORM = ("input_l2", "output_l2", "chord", "coefficient", "spread")
_TOLERANCE = 1e-4  # of ratios and angles, beside the rounding of the parameters
_KNOWN = 0.01  # relative rounding of a change, above which nothing is said of it
_SUMMARIZED = {
    "gradient_l2": "gradient L2",
    "update_l2": "update L2",
    "effective_learning_rate": "effective learning rate",
    "cosine": "cosine of update and -gradient",
}
BARELY = 0.05  # distance from a constant factor, up to which it is barely alive


def _ratio(a, b):
    return a / b if b else math.nan


def aligned(labels, values, all_labels) -> np.ndarray:
    """The same values with columns for all labels, -1 where there were none."""
    size = len(OF_TRANSFORM)
    wide = np.full((len(values), len(OF_UPDATE) + size * len(all_labels)), -1.0)
    wide[:, : len(OF_UPDATE)] = values[:, : len(OF_UPDATE)]
    for i, label in enumerate(labels):
        of_label = values[:, len(OF_UPDATE) + i * size :][:, :size]
        wide[:, len(OF_UPDATE) + all_labels.index(label) * size :][:, :size] = of_label
    return wide


def _of_transforms(labels, values):
    """For each transform its label, its variables, and their quantities.

    Transforms that none of the variables has are left out.
    """
    size = len(OF_TRANSFORM)
    columns = values.T[len(OF_UPDATE) :]
    for i, label in enumerate(labels):
        of_label = columns[i * size :][:size]
        has = ~(of_label[0] < 0)  # no norm is; not a number counts as one
        if has.any():
            yield label, has, of_label[:, has]


def recorded_names(labels: Sequence[str]) -> list[str]:
    """The keys of `combined`."""
    width = len(OF_UPDATE) + len(labels) * len(OF_TRANSFORM)
    return list(combined(labels, np.ones((1, width)), np.ones(1)))


def combined(labels, values, sizes) -> dict[str, float]:
    """What is recorded of some variables together."""
    named = dict(zip(OF_UPDATE, values.T))
    gradient, update = named["gradient_l2"], named["update_l2"]
    steepness = np.sum(named["cosine"] * gradient * update)
    row = {
        "gradient_l1": float(np.sum(named["gradient_l1"])),
        "gradient_l2": root_sum(gradient),
        "gradient_max": float(np.max(named["gradient_max"])),
        "update_l2": root_sum(update),
        "parameter_l2": root_sum(named["parameter_l2"]),
        "cosine": _ratio(steepness, root_sum(gradient) * root_sum(update)),
        "effective_learning_rate": _ratio(root_sum(update), root_sum(gradient)),
    }
    for label, has, columns in _of_transforms(labels, values):
        received, left, chord, coefficient, spread = columns
        gain = _ratio(root_sum(left), root_sum(received))
        mean = np.average(coefficient, weights=sizes[has])
        square = np.average(spread**2 + (coefficient - mean) ** 2, weights=sizes[has])
        differ = (np.abs(left - received) > 1e-6 * received) | (chord > 1e-6)
        row |= {
            f"{label}.gain": gain,
            f"{label}.removed_energy": max(1 - gain**2, 0.0),
            f"{label}.angle": float(angle_of(chord_between(received, left, chord))),
            f"{label}.changed": float(np.mean(differ)),
            f"{label}.coefficient": float(mean),
            f"{label}.coefficient_spread": math.sqrt(square),
        }
    plain = named["plain_l2"]
    chord = chord_between(update, plain, named["plain_chord"])
    known = bool(np.any(plain))
    row["effect_angle"] = float(angle_of(chord)) if known else math.nan
    row["effect_scale"] = _ratio(root_sum(update), root_sum(plain))
    return row


class Verdict(NamedTuple):
    """How alive an optimizer's transforms are. `print` shows the sentence.

    Attributes:
        degree: `"dead"`: up to a constant factor of the learning rate the optimizer is
            its base; `"barely alive"`: it is nearly; `"alive"`; or `None`, if there is
            nothing to judge.
        factor: c, the constant factor of the learning rate that is the best
            replacement of the transforms; NaN without a degree.
        distance: how far the updates are from it, relative, of the variable for which
            they are the farthest; NaN without a degree.
        sentence: all this in words, or why there is nothing to judge.
    """

    degree: str | None
    factor: float
    distance: float
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class _Fit(NamedTuple):
    """The best constant c in a = c b, and `|a - c b| / |a|`: in all, by variable."""

    factor: float
    whole: float
    of: dict[str, float]

    @property
    def farthest(self) -> float:
        return max(self.of.values(), default=0.0)


class _Products:
    """Inner products of vectors a and b, summed over samples for each variable.

    Each sample counts alike, whatever the length of its b.
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}

    def add(self, names, aa, ab, bb) -> None:
        rows = np.array([aa, ab, bb], "float64").T
        finite = np.isfinite(rows).all(axis=1)
        total = rows[finite, 2].sum()
        if total > 0:
            for i in np.flatnonzero(finite):
                self._sums[names[i]] = self._sums.get(names[i], 0) + rows[i] / total

    def fit(self) -> _Fit:
        if not self._sums:
            return _Fit(1.0, 0.0, {})
        aa, ab, bb = np.array(list(self._sums.values())).T
        factor = ab.sum() / bb.sum()
        left = np.maximum(aa - 2 * factor * ab + factor**2 * bb, 0)
        apart = np.sqrt(left / np.maximum(aa, 1e-300))
        whole = math.sqrt(left.sum() / max(aa.sum(), 1e-300))
        return _Fit(float(factor), whole, dict(zip(self._sums, apart.tolist())))


def _of_directions(a, b, chord):
    """The inner products of vectors, from their lengths and the chords."""
    return a**2, a * b * (1 - chord**2 / 2), b**2


def _together(fits: Sequence[_Fit]) -> _Fit:
    """Several deviations, one after the other."""
    names = dict.fromkeys(name for fit in fits for name in fit.of)
    return _Fit(
        math.prod(fit.factor for fit in fits),
        root_sum([fit.whole for fit in fits]),
        {name: root_sum([fit.of.get(name, 0) for fit in fits]) for name in names},
    )


def _percent(x: float) -> str:
    return f"{100 * x:.2g} %" if x < 1 else f"{100 * x:.0f} %"


class Summary:
    """The extremes of what was measured, variable by variable."""

    def __init__(self, labels: Sequence[str], base: str = "SGD") -> None:
        self.labels, self._base = labels, base
        self.update_known = False
        self._updates = _Products()
        self._gradients = {label: _Products() for label in labels}
        self._coefficients = {label: _Products() for label in labels}
        self._steps = 0
        self._norms: dict[str, list[float]] = {name: [] for name in _SUMMARIZED}
        self._samples = dict.fromkeys(labels, 0)
        self._ranges: dict[str, tuple[float, float]] = {}
        self._sums = {label: np.zeros(3) for label in labels}
        self._varies = dict.fromkeys([*labels, "update"], False)

    def add(
        self,
        names: Sequence[str],
        values: np.ndarray,
        sizes: np.ndarray,
        rounding: np.ndarray,
    ) -> dict[str, float]:
        """Takes what was measured of variables in one sampled step.

        Args:
            names: of the variables.
            values: an array (variable, quantity).
            sizes: how many entries each has.
            rounding: the relative rounding of each one's dtype.

        Returns:
            What is recorded of all that have a gradient together.
        """
        named, paths = dict(zip(OF_UPDATE, values.T)), np.asarray(names, object)
        transformed = np.zeros(len(values), bool)
        for label, has, columns in _of_transforms(self.labels, values):
            transformed |= has
            received, left, chord, coefficient, spread = columns
            there = received > 0
            if not there.any():
                continue
            self._samples[label] += 1
            self._gradients[label].add(
                paths[has][there],
                *_of_directions(left[there], received[there], chord[there]),
            )
            n, mean = sizes[has][there], coefficient[there]
            squares = mean**2 + spread[there] ** 2
            self._coefficients[label].add(paths[has][there], n * squares, n * mean, n)
            gain = left[there] / received[there]
            self._widen(f"{label}.gain", gain)
            self._widen(f"{label}.coefficient", coefficient[there])
            self._widen(f"{label}.angle", angle_of(chord[there]))
            self._widen(f"{label}.spread", spread[there])
            relative = spread[there] / np.maximum(np.abs(coefficient[there]), 1e-30)
            self._varies[label] |= bool(np.any(chord[there] > _TOLERANCE))
            self._varies[label] |= bool(np.any(relative > _TOLERANCE))
            for quantity in ("gain", "coefficient"):
                low, high = self._ranges[f"{label}.{quantity}"]
                self._varies[label] |= bool(high - low > _TOLERANCE * abs(high))
            self._sums[label] += [
                np.mean(gain),
                np.mean(coefficient[there]),
                np.mean((np.abs(gain - 1) > 1e-6) | (chord[there] > 1e-6)),
            ]
        update, plain = named["update_l2"], named["plain_l2"]
        # parameters are rounded, so the change of one is known only so well; of half
        # precision often nothing is known
        with np.errstate(all="ignore"):
            noise = 4 * rounding * (named["parameter_l2"] + update) / plain
        there = (plain > 0) & (update > 0) & (noise < _KNOWN)
        if there.any():
            self.update_known = True
            tolerance = _TOLERANCE + noise[there]
            turned = named["plain_chord"][there] > tolerance
            scale = update[there] / plain[there]
            chord = named["plain_chord"]
            judged = there & transformed
            self._updates.add(
                paths[judged],
                *_of_directions(update[judged], plain[judged], chord[judged]),
            )
            self._widen("update.scale", scale)
            self._widen("update.angle", angle_of(named["plain_chord"][there]))
            self._widen("update.low", scale + tolerance * scale)
            self._widen("update.high", scale - tolerance * scale)
            # no constant factor is within the tolerance of every ratio
            apart = self._ranges["update.high"][1] > self._ranges["update.low"][0]
            self._varies["update"] |= bool(np.any(turned) or apart)
        measured = values[:, 0] > 0  # they have a gradient
        row = combined(self.labels, values[measured], sizes[measured])
        self._steps += 1
        for name, seen in self._norms.items():
            seen.append(row[name])
        return row

    def _widen(self, name, values):
        values = values[np.isfinite(values)]
        low, high = self._ranges.get(name, (math.inf, -math.inf))
        if len(values):
            low, high = min(low, values.min()), max(high, values.max())
        self._ranges[name] = (low, high)

    @property
    def alive(self) -> bool | None:
        """Whether some transform, and with it the update, does something."""
        if not any(self._samples.values()):
            return None
        acts = any(self._varies[label] for label in self.labels)
        return acts and (self._varies["update"] or not self.update_known)

    def verdict(self) -> Verdict:
        """What `alive` says, in degrees."""
        if self.alive is None:
            none = "no transform was measured"
            if not self.labels:
                none = "the optimizer has no transforms: there is nothing to judge"
            return Verdict(None, math.nan, math.nan, none)
        gradients = [of_label.fit() for of_label in self._gradients.values()]
        coefficients = [of_label.fit() for of_label in self._coefficients.values()]
        updates, transforms = self._updates.fit(), _together(gradients + coefficients)
        changes_gradients = any(changed for _, _, changed in self._sums.values())
        if self.update_known and (
            not (self._varies["update"] and changes_gradients)
            or max(updates.farthest, transforms.farthest) <= BARELY
        ):
            found, gain, of = updates, 1.0, "updates"
        else:
            # An update shows only a part of what a transform does to gradients: the
            # optimizer's moments remember those of before, transformed as well.
            gain, of = _together(gradients).factor, "transforms"
            found = transforms._replace(factor=_together(coefficients).factor)
        base = f"its base ({self._base})"
        if abs(found.factor - 1) > _TOLERANCE:
            base += f" at {found.factor:.4g} times the learning rate"
        if abs(gain - 1) > _TOLERANCE:
            base += f", on gradients {gain:.4g} times as long"
        far = _percent(found.farthest)
        whole = f"{_percent(found.whole)} as a whole"
        if not self.alive:
            degree, sentence = "dead", f"DEAD: the optimizer is {base}"
        elif found.farthest <= BARELY:
            degree = "barely alive"
            sentence = f"barely alive: within {far} ({whole}) of {base}"
        else:
            degree = "alive"
            sentence = f"alive: {of} up to {far} ({whole}) from any constant factor"
        if self.alive and not self.update_known:
            sentence += " (whether the update uses it was not seen)"
        return Verdict(degree, found.factor, found.farthest, sentence)

    def lines(self) -> Iterator[str]:
        """What each transform did, and how long gradient and update were, in words."""
        for label in self.labels:
            if f"{label}.gain" in self._ranges:
                yield self._of_transform(label)
        if self._steps:
            yield self._of_norms()
        if self.labels and self.update_known:
            yield self._of_update()

    def _of_transform(self, label):
        gain, coefficient, changed = self._sums[label] / self._samples[label]
        fit = _together([self._gradients[label].fit(), self._coefficients[label].fit()])
        said = ["DEAD"]
        if self._varies[label]:
            degree = "barely alive" if fit.farthest <= BARELY else "alive"
            said = [
                f"{degree}, up to {_percent(fit.farthest)} ({_percent(fit.whole)} as a "
                f"whole) from a constant factor {fit.factor:.4g}"
            ]
        if changed:
            low, high = self._ranges[f"{label}.gain"]
            _, angle = self._ranges[f"{label}.angle"]
            said.append(
                f"changed {changed:.0%} of gradients, gain {gain:.4g} "
                f"({low:.4g} to {high:.4g}), turned by up to {angle:.3g} rad"
            )
        low, high = self._ranges[f"{label}.coefficient"]
        if (low, high) != (1, 1):
            _, spread = self._ranges[f"{label}.spread"]
            said.append(
                f"coefficient {coefficient:.4g} ({low:.4g} to {high:.4g}; within a "
                f"variable spread by up to {spread:.3g})"
            )
        return f"{label}: {'; '.join(said)}"

    def _of_norms(self):
        said = []
        for name, words in _SUMMARIZED.items():
            values = np.array(self._norms[name])
            values = values[np.isfinite(values)]
            if len(values):
                low, high = values.min(), values.max()
                said.append(f"{words} {values.mean():.3g} ({low:.3g} to {high:.3g})")
        return f"{self._steps} steps measured: {'; '.join(said)}"

    def _of_update(self):
        low, high = self._ranges["update.scale"]
        _, angle = self._ranges["update.angle"]
        differs, fit = self._varies["update"], self._updates.fit()
        said = (
            f"The update {'differs from' if differs else 'IS'} the one without "
            f"transforms{'' if differs else ', up to a constant'}: turned by up to "
            f"{angle:.3g} rad, {low:.4g} to {high:.4g} times as long"
        )
        if differs and fit.of:
            worst = max(fit.of, key=lambda name: fit.of[name])
            said += (
                f"; {_percent(fit.whole)} from {fit.factor:.4g} times it, "
                f"{_percent(fit.farthest)} in {worst}"
            )
        return f"{said}."
