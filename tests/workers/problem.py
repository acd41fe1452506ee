"""One small training problem, for processes that each see a part of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
from table import ALL, FAMILIES  # noqa: F401

BATCH, STEPS = 16, 6
IMAGES = np.random.default_rng(0).normal(size=(BATCH * STEPS, 6, 6, 2))
IMAGES = IMAGES.astype("float32")
LABELS = np.arange(BATCH * STEPS) % 4


def new_model():
    """Parts whose norms and means are of the whole tensor, also when it is split."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="dense"),
        ]
    )


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def save(path, name, model):
    weights = {str(i): w for i, w in enumerate(model.get_weights())}
    np.savez(f"{path}/{name}.npz", **weights)


def fitted(name, data=None, epochs=2):
    """A model after `fit` with the optimizer of that name."""
    model = new_model()
    model.compile(ALL[name](), loss=loss())
    x = (IMAGES, LABELS) if data is None else (data,)
    batch_size = BATCH if data is None else None
    model.fit(*x, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model
