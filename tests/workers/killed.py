"""Trains one optimizer after the other; may be killed at any time, and goes on.

    python killed.py FOLDER WAY NAME [NAME ...]

WAY is how training is kept: `none`, `backup` (fit with BackupAndRestore), `keras`
(a `.keras` file after every step), `checkpoint` (tf.train.CheckpointManager) or `own`
(`save_own_variables` and weights). Prints `NAME STEP` after every step, and leaves
the final state in `FOLDER/NAME.npz`.
"""

import os
import sys
import time
from pathlib import Path

# state is the matter here, and each of many processes would compile
os.environ.setdefault("KERAS_GRADOPT_JIT_COMPILE", "0")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import keras
import numpy as np
from table import ALL
from trajectories import BACKEND, numpy_values

EPOCHS, BATCHES, BATCH = 6, 4, 8


def new_model(name):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(ALL[name](0.01), loss="sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


def data():
    random = np.random.default_rng(0)
    size = BATCHES * BATCH
    return random.normal(size=(size, 6, 6, 2)).astype("float32"), np.arange(size) % 3


class Report(keras.callbacks.Callback):
    """Prints each step, and waits: Keras' backup itself is not safe from a kill."""

    def __init__(self, name):
        super().__init__()
        self.label = name

    def on_train_batch_end(self, batch, logs=None):
        print(self.label, int(self.model.optimizer.iterations), flush=True)
        time.sleep(0.02)


def fit(name, callbacks):
    model = new_model(name)
    x, y = data()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, Report(name)],
    )
    return model


def own_steps(name, folder, way):
    """Steps by hand, from the last one that was kept on."""
    model = new_model(name)
    restore, keep = {"keras": keras_file, "checkpoint": checkpoint, "own": own}[way](
        folder / name
    )
    model = restore(model)
    x, y = data()
    for step in range(int(model.optimizer.iterations), EPOCHS * BATCHES):
        rows = slice(step % BATCHES * BATCH, (step % BATCHES + 1) * BATCH)
        model.train_on_batch(x[rows], y[rows])
        keep(model)
        print(name, step + 1, flush=True)
    return model


def keras_file(path):
    kept = path.with_suffix(".keras")

    def restore(model):
        return keras.saving.load_model(kept) if kept.exists() else model

    def keep(model):
        model.save(path.with_suffix(".new.keras"))
        os.replace(path.with_suffix(".new.keras"), kept)

    return restore, keep


def checkpoint(path):
    import tensorflow as tf

    def manager(model):
        tracked = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        return tf.train.CheckpointManager(tracked, str(path), max_to_keep=2)

    managers = []

    def restore(model):
        managers.append(manager(model))
        managers[0].restore_or_initialize()
        return model

    return restore, lambda model: managers[0].save()


def own(path):
    kept = path.with_suffix(".own.npz")

    def restore(model):
        if kept.exists():
            with np.load(kept) as arrays:
                weights = {k[1:]: arrays[k] for k in arrays.files if k[0] == "w"}
                state = {k[1:]: arrays[k] for k in arrays.files if k[0] == "o"}
            for i, variable in enumerate(model.weights):
                variable.assign(weights[str(i)])
            model.optimizer.load_own_variables(state)
        return model

    def keep(model):
        state = {}
        model.optimizer.save_own_variables(state)
        arrays = {f"o{k}": np.asarray(v) for k, v in state.items()}
        for i, value in enumerate(numpy_values(model.weights)):
            arrays[f"w{i}"] = value
        np.savez(path.with_suffix(".new.npz"), **arrays)
        os.replace(path.with_suffix(".new.npz"), kept)

    return restore, keep


def main(folder, way, *names):
    folder = Path(folder)
    for name in names:
        result = folder / f"{name}.npz"
        if result.exists():
            continue
        if way == "none":
            model = fit(name, [])
        elif way == "backup":
            backup = keras.callbacks.BackupAndRestore(folder / name)
            model = fit(name, [backup])
        else:
            model = own_steps(name, folder, way)
        state = numpy_values([*model.weights, *model.optimizer.variables])
        np.savez(folder / "new.npz", *state)
        os.replace(folder / "new.npz", result)


if __name__ == "__main__":
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    main(*sys.argv[1:])
