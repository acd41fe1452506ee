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

from keras_gradopt import requirements

requirements.check()

from keras_gradopt import callbacks, equations, optimizers, transforms
from keras_gradopt.monitoring import ActivationAdvice, recommend_activation
from keras_gradopt.monitoring import inspect as inspect  # see below
from keras_gradopt.optimizers import *
from keras_gradopt.transforms.selection import layerwise_decay
from keras_gradopt.version import __version__

# without inspect: a star import would put it in the place of Python's own
__all__ = [
    *optimizers.__all__,
    "ActivationAdvice",
    "__version__",
    "callbacks",
    "equations",
    "layerwise_decay",
    "optimizers",
    "recommend_activation",
    "transforms",
]
