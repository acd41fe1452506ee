"""How many megabytes the process grows with each `fit`. Prints the number.

python memory.py monitor|none OPTIMIZER same|new
"""

import gc
import sys

import keras
import numpy as np

import keras_gradopt

MONITOR, OPTIMIZER, MODEL = sys.argv[1:]
WARM, FITS = 2, 4


def resident():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def new_model():
    layers = [keras.layers.Dense(n) for n in (16, 16, 1)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    kind = getattr(keras_gradopt, OPTIMIZER, None)
    model.compile((kind or getattr(keras.optimizers, OPTIMIZER))(), "mse")
    return model


x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
model = new_model()
for i in range(WARM + FITS):
    if MODEL == "new":
        model = new_model()
    monitor = keras_gradopt.callbacks.GradientMonitor(2)  # a new one each time
    callbacks = [monitor] if MONITOR == "monitor" else []
    model.fit(x, x[:, :1], 16, verbose=0, callbacks=callbacks)
    gc.collect()
    if i == WARM - 1:
        before = resident()
print((resident() - before) / FITS)
