"""What Keras itself cannot do, with Keras' own Adam. Fails with Keras' error.

python limits.py mirrored_jit
python limits.py multiworker_fit INDEX ADDRESS ADDRESS
"""

import json
import os
import sys

what, *worker = sys.argv[1:]
if worker:
    cluster, task = {"worker": worker[1:]}, {"type": "worker", "index": int(worker[0])}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})

import tensorflow as tf

if what == "mirrored_jit":
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

from problem import BATCH, IMAGES, LABELS, keras, loss, new_model

with strategy.scope():
    model = new_model()
    jit = {"jit_compile": True} if what == "mirrored_jit" else {}
    model.compile(keras.optimizers.Adam(), loss=loss(), **jit)
model.fit(IMAGES, LABELS, batch_size=BATCH, verbose=0)
