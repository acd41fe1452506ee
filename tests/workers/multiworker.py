"""A custom loop under MultiWorkerMirroredStrategy.

Arguments: output folder, this worker's number, addresses of all workers.
"""

import json
import os
import sys

folder, index, *addresses = sys.argv[1:]
index = int(index)
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
)

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

from problem import ALL, BATCH, FAMILIES, IMAGES, LABELS, STEPS, loss, new_model, save

assert strategy.num_replicas_in_sync == len(addresses)
local = BATCH // len(addresses)
for name in FAMILIES:
    with strategy.scope():
        model = new_model()
        optimizer = ALL[name]()
        optimizer.build(model.trainable_variables)
        loss_function = loss()

    def step(x, y, model=model, optimizer=optimizer, loss_function=loss_function):
        with tf.GradientTape() as tape:
            # Under a strategy Keras' losses are divided by the number of replicas, and
            # `apply` adds up their gradients.
            value = loss_function(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(value, variables), variables)

    @tf.function
    def train(x, y, step=step):
        strategy.run(step, args=(x, y))

    for t in range(2 * STEPS):
        begin = (t % STEPS) * BATCH + index * local
        part = slice(begin, begin + local)
        train(tf.constant(IMAGES[part]), tf.constant(LABELS[part]))
    if index == 0:
        save(folder, name, model)
