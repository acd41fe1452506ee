"""Gradient transforms: each paper's idea, for any optimizer.

A transform is configuration plus a pure function. It states which slot variables
it needs per model variable; an optimizer creates them, and at each step calls
`apply` with the gradient and the values of the slots. One transform object may
therefore serve several optimizers, and stand twice in one list.
"""

from keras_gradopt.transforms.activation import Activate
from keras_gradopt.transforms.base import LEFT_ALONE, Context, Result, Slot, Transform
from keras_gradopt.transforms.clipping import ClipAdaptively
from keras_gradopt.transforms.friction import AngularFriction, DifferenceFriction
from keras_gradopt.transforms.norms import CorrectNorm, ScaleByL1Norm
from keras_gradopt.transforms.selection import (
    Only,
    ScaleLearningRate,
)
from keras_gradopt.transforms.whitening import Whiten

__all__ = [
    "LEFT_ALONE",
    "Activate",
    "AngularFriction",
    "ClipAdaptively",
    "Context",
    "CorrectNorm",
    "DifferenceFriction",
    "Only",
    "Result",
    "ScaleByL1Norm",
    "ScaleLearningRate",
    "Slot",
    "Transform",
    "Whiten",
]
