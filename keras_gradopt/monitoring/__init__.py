"""Seeing what an optimizer does while it trains."""

from keras_gradopt.monitoring.advice import ActivationAdvice, recommend_activation
from keras_gradopt.monitoring.inspection import inspect as inspect
from keras_gradopt.monitoring.monitor import GradientMonitor
from keras_gradopt.monitoring.summaries import Verdict

# without inspect, as in the package itself
__all__ = [
    "ActivationAdvice",
    "GradientMonitor",
    "Verdict",
    "recommend_activation",
]
