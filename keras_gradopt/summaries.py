"""From what is measured of each variable to what is said of an optimizer.

`Probe` measures a vector of numbers for each variable in each sampled step. Here they
are put together: for a group of variables, and over all samples.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

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


def _angle(chord):
    return 2 * np.arcsin(np.minimum(np.abs(chord) / 2, 1))


def _root_sum(x):
    return math.sqrt(np.sum(np.square(x)))


def _ratio(a, b):
    return a / b if b else math.nan


def _between(a, b, chords):
    """The chord between two vectors, from their parts' norms and chords."""
    a, b = a / max(_root_sum(a), 1e-300), b / max(_root_sum(b), 1e-300)
    return math.sqrt(np.sum((a - b) ** 2 + a * b * chords**2))


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
        "gradient_l2": _root_sum(gradient),
        "gradient_max": float(np.max(named["gradient_max"])),
        "update_l2": _root_sum(update),
        "parameter_l2": _root_sum(named["parameter_l2"]),
        "cosine": _ratio(steepness, _root_sum(gradient) * _root_sum(update)),
        "effective_learning_rate": _ratio(_root_sum(update), _root_sum(gradient)),
    }
    for label, has, columns in _of_transforms(labels, values):
        received, left, chord, coefficient, spread = columns
        gain = _ratio(_root_sum(left), _root_sum(received))
        mean = np.average(coefficient, weights=sizes[has])
        square = np.average(spread**2 + (coefficient - mean) ** 2, weights=sizes[has])
        differ = (np.abs(left - received) > 1e-6 * received) | (chord > 1e-6)
        row |= {
            f"{label}.gain": gain,
            f"{label}.removed_energy": max(1 - gain**2, 0.0),
            f"{label}.angle": float(_angle(_between(received, left, chord))),
            f"{label}.changed": float(np.mean(differ)),
            f"{label}.coefficient": float(mean),
            f"{label}.coefficient_spread": math.sqrt(square),
        }
    plain = named["plain_l2"]
    chord = _between(update, plain, named["plain_chord"])
    known = bool(np.any(plain))
    row["effect_angle"] = float(_angle(chord)) if known else math.nan
    row["effect_scale"] = _ratio(_root_sum(update), _root_sum(plain))
    return row


class Seen:
    """The extremes of what was measured, variable by variable."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.update_known = False
        self._samples = dict.fromkeys(labels, 0)
        self._ranges: dict[str, tuple[float, float]] = {}
        self._sums = {label: np.zeros(3) for label in labels}
        self._varies = dict.fromkeys([*labels, "update"], False)

    def add(self, values: np.ndarray, rounding: np.ndarray) -> None:
        """Takes one sampled step, and the rounding of each variable's dtype."""
        named = dict(zip(OF_UPDATE, values.T))
        for label, _, columns in _of_transforms(self.labels, values):
            received, left, chord, coefficient, spread = columns
            there = received > 0
            if not there.any():
                continue
            self._samples[label] += 1
            gain = left[there] / received[there]
            self._widen(f"{label}.gain", gain)
            self._widen(f"{label}.coefficient", coefficient[there])
            self._widen(f"{label}.angle", _angle(chord[there]))
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
            self._widen("update.scale", scale)
            self._widen("update.angle", _angle(named["plain_chord"][there]))
            self._widen("update.low", scale + tolerance * scale)
            self._widen("update.high", scale - tolerance * scale)
            # no constant factor is within the tolerance of every ratio
            apart = self._ranges["update.high"][1] > self._ranges["update.low"][0]
            self._varies["update"] |= bool(np.any(turned) or apart)

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

    def lines(self) -> Iterator[str]:
        """What each transform did, in words."""
        for label in self.labels:
            if f"{label}.gain" not in self._ranges:
                continue
            gain, coefficient, changed = self._sums[label] / self._samples[label]
            said = ["alive" if self._varies[label] else "DEAD"]
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
            yield f"{label}: {'; '.join(said)}"
        if self.labels and self.update_known:
            low, high = self._ranges["update.scale"]
            _, angle = self._ranges["update.angle"]
            verb = "differs from" if self._varies["update"] else "IS"
            factor = "" if self._varies["update"] else ", up to a constant"
            yield (
                f"The update {verb} the one without transforms{factor}: turned by up "
                f"to {angle:.3g} rad, {low:.4g} to {high:.4g} times as long."
            )
