"""Writes the files that this version of the package must read forever.

    python tests/formats/write.py

makes `tests/formats/VERSION/`: for every optimizer a `.keras` file after three steps,
and in `expected.npz` the weights after two more. Run it once per release that changes
what is saved, with the oldest Keras that setup.cfg allows (older ones cannot read what
newer ones write); never overwrite the files of an older release.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import keras
import numpy as np
from table import ALL

import keras_gradopt


def new_model():
    """A convolution, a dense layer and scales, as small as they come."""
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3, name="conv"),
            keras.layers.BatchNormalization(name="scale"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="dense"),
        ]
    )


def steps(model, begin, end):
    """Applies made-up gradients, so that nothing but the optimizer is at work."""
    variables = model.trainable_variables
    for t in range(begin, end):
        random = np.random.default_rng(t)
        grads = [random.normal(size=v.shape).astype("float32") for v in variables]
        model.optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads])


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def main():
    folder = HERE / keras_gradopt.__version__
    folder.mkdir()
    expected = {}
    for name, make in ALL.items():
        model = new_model()
        model.compile(make(), loss="mse")
        model.optimizer.build(model.trainable_variables)
        steps(model, 0, 3)
        model.save(folder / f"{name}.keras")
        steps(model, 3, 5)
        expected |= {f"{name}/{i}": w for i, w in enumerate(weights(model))}
    np.savez(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main()
