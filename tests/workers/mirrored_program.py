"""What one step under MirroredStrategy calls. Prints counts as JSON."""

import json

import tensorflow as tf
from problem import IMAGES, LABELS, loss, new_model
from trajectories import inner_functions

import keras_gradopt

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = new_model()
    variables = model.trainable_variables
    optimizer = keras_gradopt.AngularGrad()
    optimizer.build(variables)


def replica_step(images, labels):
    with tf.GradientTape() as tape:
        value = loss()(labels, model(images, training=True))
    optimizer.apply(tape.gradient(value, variables), variables)


@tf.function
def step(images, labels):
    strategy.run(replica_step, (images, labels))


before = [variable.numpy() for variable in variables]
step(IMAGES[:4], LABELS[:4])
assert all((old != v.numpy()).any() for old, v in zip(before, variables))
graph = step.get_concrete_function(IMAGES[:4], LABELS[:4]).graph
calls = inner_functions(graph)
shapes = {tuple(variable.shape) for variable in variables}
counts = [
    len(variables),
    strategy.num_replicas_in_sync,
    len(calls),
    len(set(calls)),
    len(shapes),
]
print(json.dumps(counts))
