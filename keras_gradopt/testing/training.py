"""Checks with Keras' `fit`: a second one goes on, and two devices are one."""

import keras
import numpy as np

from keras_gradopt.testing import bench, devices
from keras_gradopt.testing.bench import Arrays, Bench
from keras_gradopt.testing.registry import Skipped, check, expect

BATCH, STEPS = 8, 3


def _fit(model: keras.Model) -> Arrays:
    """One epoch of three steps; the weights after it."""
    random = np.random.default_rng(5)
    x = random.normal(size=(BATCH * STEPS, *bench.IMAGE)).astype("float32")
    y = random.normal(size=(BATCH * STEPS, bench.CLASSES)).astype("float32")
    model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    return bench.numpy_values(model.trainable_variables)


def _compiled(b: Bench) -> keras.Model:
    model = bench.new_model()
    model.compile(b.make(), loss="mse")
    return model


@check("fit, saved to a .keras file and loaded, goes on as fit that never stopped.")
def resume(b: Bench) -> str:
    model = _compiled(b)
    b.fitted = _fit(model)  # for two_devices
    again = b.through_file(model)
    straight, resumed = _fit(model), _fit(again)
    apart = bench.largest(np.abs(a - c).max() for a, c in zip(straight, resumed))
    expect(not bench.same_bits(straight, b.fitted), "fit did not change the weights")
    return expect(
        bench.same_bits(straight, resumed),
        f"one epoch after the reload: {apart:.1e} from a run that never stopped",
    )


@check("fit under MirroredStrategy on two devices is fit on one, to rounding.")
def two_devices(b: Bench) -> str:
    b.need_tensorflow("there is no tf.distribute")
    names = devices.logical_cpus()
    if len(names) < 2:
        raise Skipped(
            "TensorFlow started with one logical CPU: call keras_gradopt.testing."
            "split_cpu() before its first operation, or use the command line"
        )
    import tensorflow as tf

    one = b.fitted if b.fitted is not None else _fit(_compiled(b))
    with tf.distribute.MirroredStrategy(names[:2]).scope():
        model = _compiled(b)
    two = _fit(model)
    ours, theirs = (
        [np.stack(pair) for pair in zip(bench.start(), values)] for values in (two, one)
    )
    return b.expect_same(ours, theirs, "two devices from one", rtol=1e-2)
