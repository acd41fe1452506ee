"""`fit` with DataParallel over several JAX processes on CPUs.

Arguments: output folder, this process' number, number of processes, coordinator.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_ENABLE_X64"] = "0"

import jax

folder, index, processes, coordinator = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")

import keras

keras.distribution.initialize(coordinator, int(processes), int(index))

import tensorflow as tf
from problem import BATCH, FAMILIES, IMAGES, LABELS, fitted, save

assert jax.process_count() == int(processes)
keras.distribution.set_distribution(keras.distribution.DataParallel())
for name in FAMILIES:
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(BATCH)
    model = fitted(name, data)
    if index == "0":
        save(folder, name, model)
