"""What GradientMonitor records on so many devices. Prints rows as JSON."""

import contextlib
import json
import os
import sys

DEVICES = int(sys.argv[1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import keras

scope = contextlib.nullcontext()
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES
    )
    if DEVICES > 1:
        names = [f"CPU:{i}" for i in range(DEVICES)]
        scope = tf.distribute.MirroredStrategy(names).scope()
else:
    assert len(keras.distribution.list_devices()) == DEVICES
    keras.distribution.set_distribution(keras.distribution.DataParallel())

from problem import BATCH, IMAGES, LABELS, loss, new_model

import keras_gradopt

with scope:
    model = new_model()
    model.compile(
        keras_gradopt.Transformed(
            keras_gradopt.AdamNorm(), [keras_gradopt.transforms.Whiten()]
        ),
        loss=loss(),
    )
monitor = keras_gradopt.callbacks.GradientMonitor(2, "model")
model.fit(
    IMAGES[: 4 * BATCH], LABELS[: 4 * BATCH], BATCH,
    shuffle=False, verbose=0, callbacks=[monitor],
)  # fmt: skip
assert monitor.alive
rows = [{k: v for k, v in row.items() if k != "group"} for row in monitor.records]
print(json.dumps(rows))
