"""A conformance kit for Keras 3 optimizers of anyone.

>>> import keras
>>> from keras_gradopt.testing import CHECKS, check_optimizer
>>> slow = set(CHECKS) - {"slots_move", "clipping"}
>>> report = check_optimizer(lambda: keras.optimizers.SGD(0.01), skip=slow)
>>> report.passed
True

From the command line:

    python -m keras_gradopt.testing package.module:Class
"""

# the checks, in the order in which they run
from keras_gradopt.testing import methods as methods
from keras_gradopt.testing import numerics as numerics
from keras_gradopt.testing import settings as settings
from keras_gradopt.testing import state as state
from keras_gradopt.testing import training as training
from keras_gradopt.testing.devices import split_cpu
from keras_gradopt.testing.registry import CHECKS
from keras_gradopt.testing.report import ConformanceError, Outcome, Report
from keras_gradopt.testing.running import BoundCheck, check_optimizer, checks

__all__ = [
    "CHECKS",
    "BoundCheck",
    "ConformanceError",
    "Outcome",
    "Report",
    "check_optimizer",
    "checks",
    "split_cpu",
]
