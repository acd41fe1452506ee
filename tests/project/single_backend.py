"""With one backend alone: train, save, reload, go on, monitor, compare.

`bash .ci/run single BACKEND` runs it on the installed wheel, where no other backend is.
"""

import importlib.util
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_gradopt
from keras_gradopt.callbacks import GradientMonitor
from keras_gradopt.comparison import Arm, Task, compare
from keras_gradopt.transforms import AngularFriction, Whiten

BACKENDS = {"tensorflow", "jax", "torch"}
X = np.random.default_rng(0).normal(size=(128, 6, 6, 1)).astype("float32")
Y = (X.mean((1, 2, 3)) > 0).astype("int32")


def new_model():
    """A network with a kernel to whiten."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def compiled(optimizer):
    """A network and its optimizer, the same at each call."""
    keras.utils.set_random_seed(0)
    model = new_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def trained(model, epochs, callbacks=()):
    """Its losses."""
    fit = model.fit(X, Y, 32, epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return fit.history["loss"]


def check_installation():
    """The package comes from the wheel; there is one backend."""
    backend = keras.backend.backend()
    assert "site-packages" in keras_gradopt.__file__, keras_gradopt.__file__
    there = {name for name in BACKENDS if importlib.util.find_spec(name)}
    assert there == {backend}, there
    print(f"keras {keras.__version__}, {backend} and no other backend")


def check_training(folder):
    """A model that is saved and reloaded goes on as if it had not been."""
    transforms = [Whiten(), AngularFriction()]
    for optimizer in (
        keras_gradopt.AngularGrad(0.01),
        keras_gradopt.Transformed(keras.optimizers.Adam(0.01), transforms),
    ):
        model = compiled(optimizer)
        losses = trained(model, 3)
        assert losses[-1] < losses[0], losses
        model.save(folder / "model.keras")
        again = keras.saving.load_model(folder / "model.keras")
        np.testing.assert_allclose(trained(again, 2), trained(model, 2), rtol=1e-5)
        print(f"{type(optimizer).__name__}: trained, saved, reloaded, went on")


def check_monitor(folder):
    """Everything that the monitor writes."""
    model = compiled(keras_gradopt.AngularGrad(0.01))
    path, logs = folder / "records.csv", folder / "logs"
    monitor = GradientMonitor(2, "model", csv_path=path, log_dir=logs)
    trained(model, 2, [monitor])
    assert monitor.alive and len(monitor.records) == 4
    assert len(path.read_text().splitlines()) == 5
    (events,) = logs.glob("events*")
    assert events.stat().st_size > 500
    monitor.plot(folder / "monitor.png")
    assert (folder / "monitor.png").stat().st_size > 10_000
    print("monitor:", monitor.verdict)


def check_comparison(folder):
    """A small comparison, in a process of its own, to its verdict."""
    task = Task(
        "signs", model=new_model, data=((X, Y), (X, Y), (X, Y)), epochs=2,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    results = compare(
        task,
        {
            "Adam": Arm(keras.optimizers.Adam, rate=0.003),
            "AdamNorm": Arm(keras_gradopt.AdamNorm, rate=0.03),
        },
        folder=folder, seeds=range(11, 17), controls=False, workers=1, progress=False,
    )  # fmt: skip
    (verdict,) = results.verdicts
    assert verdict.verdict == "better", results.table()
    results.plot(folder / "comparison.png")
    print("comparison: AdamNorm at ten times the rate is", verdict.verdict)


def main():
    """All of it, in a folder that is removed."""
    check_installation()
    with tempfile.TemporaryDirectory() as folder:
        check_training(Path(folder))
        check_monitor(Path(folder))
        check_comparison(Path(folder) / "comparison")


if __name__ == "__main__":
    main()
