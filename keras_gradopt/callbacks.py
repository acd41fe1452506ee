"""Callbacks that show what an optimizer does while it trains."""

from keras_gradopt.monitoring.monitor import GradientMonitor
from keras_gradopt.monitoring.summaries import Verdict

__all__ = ["GradientMonitor", "Verdict"]
