"""Gradient transforms and optimizers of five papers, for Keras 3.

>>> import keras, keras_gradopt
>>> model = keras.Sequential([keras.layers.Dense(1)])
>>> model.compile(optimizer=keras_gradopt.AngularGrad(), loss="mse")

Any Keras optimizer takes the same ideas as transforms:

>>> from keras_gradopt.transforms import AngularFriction, Whiten
>>> optimizer = keras_gradopt.Transformed(
...     keras.optimizers.Lion(1e-4), [Whiten(), AngularFriction("cos")]
... )
"""

from keras_gradopt import equations, optimizers, transforms
from keras_gradopt.optimizers import *  # noqa: F403  the names in its __all__
from keras_gradopt.version import __version__

__all__ = [
    *optimizers.__all__,
    "__version__",
    "equations",
    "optimizers",
    "transforms",
]
