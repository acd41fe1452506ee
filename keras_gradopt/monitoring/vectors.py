"""Lengths and directions of vectors, as tensors and as what was measured of them.

The chord between two vectors is the distance of their directions: twice the sine of
half the angle, which keeps small angles exact.
"""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_gradopt.equations import Tensor, l2_norm


def length(x: Tensor) -> Tensor:
    """L2 norm, of scalars too."""
    return l2_norm(x) if x.shape else ops.abs(x)


def polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """L2 norm and direction, without overflow and underflow of squares."""
    peak = ops.max(ops.abs(x))
    scaled = x / ops.where(peak > 0, peak, 1.0)
    norm = length(scaled)
    return peak * norm, scaled / ops.where(norm > 0, norm, 1.0)


def angle_of(chord: Any) -> Any:
    """In radians."""
    return 2 * np.arcsin(np.minimum(np.abs(chord) / 2, 1))


def root_sum(x: Any) -> float:
    """The norm of a vector, from those of its parts."""
    return math.sqrt(np.sum(np.square(x)))


def chord_between(a: np.ndarray, b: np.ndarray, chords: np.ndarray) -> float:
    """The chord between two vectors, from their parts' norms and chords."""
    a, b = a / max(root_sum(a), 1e-300), b / max(root_sum(b), 1e-300)
    return math.sqrt(np.sum((a - b) ** 2 + a * b * chords**2))
