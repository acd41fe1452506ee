"""
Title: Train an image classifier with a keras_gradopt optimizer
Description: A residual network on a TFDS data set, with curves and a SavedModel.

    python examples/train.py                      # AngularGrad, ResNet-20, digits
    python examples/train.py --optimizer wgdsgd --learning-rate 0.05 --epochs 40

Leaves in the output folder: `history.csv`, `best.keras`, `curves.png`, `saved_model/`
and `run.json`.
"""

import argparse
import inspect
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from datasets import (
    DATASETS,
    DatasetError,
    load,
    training_batches,
    validation_batches,
)
from models import MODELS

import keras_gradopt

"""
## Optimizers by name

All of this package, and all of Keras for comparison; upper and lower case alike.
"""


def optimizer_classes() -> dict[str, type]:
    """Optimizer classes that can be made from a learning rate, by lower-case name."""
    names = set(keras_gradopt.optimizers.__all__) - {"Transformed"}
    classes = {name: getattr(keras_gradopt, name) for name in names}
    for name, value in vars(keras.optimizers).items():
        if inspect.isclass(value) and issubclass(value, keras.Optimizer):
            if "learning_rate" in inspect.signature(value).parameters:
                classes.setdefault(name, value)
    return {name.lower(): cls for name, cls in classes.items() if name != "Optimizer"}


"""
## After training

Curves, and a SavedModel whose predictions are compared with the model's.
"""


def plot_curves(history, title, path):
    """Draws loss and accuracy of training and validation over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, metric in zip(axes, ("loss", "accuracy")):
        epochs = range(1, len(history[metric]) + 1)
        axis.plot(epochs, history[metric], label="training")
        axis.plot(epochs, history[f"val_{metric}"], label="validation")
        axis.set(xlabel="epoch", ylabel=metric)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    best = max(history["val_accuracy"])
    axes[1].axhline(best, color="grey", linestyle=":", linewidth=1)
    axes[1].set_title(f"best validation accuracy {best:.2%}", fontsize=10)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def export(model, path, validation):
    """Exports a SavedModel, loads it back and compares the predictions.

    Returns:
        The largest difference of a probability.
    """
    model.export(path, verbose=False)
    served = tf.saved_model.load(path)
    difference = 0.0
    for images, _ in validation:
        ours, theirs = model.predict_on_batch(images), served.serve(images)
        difference = max(difference, float(np.abs(ours - theirs).max()))
    if not difference < 1e-4:
        sys.exit(f"The SavedModel predicts something else: off by {difference}")
    return difference


"""
## The run
"""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet20")
    parser.add_argument(
        "--optimizer", type=str.lower, default="angulargrad", metavar="NAME"
    )
    parser.add_argument("--epochs", type=int, default=40, metavar="N")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="at the start; falls to 0 along a cosine (default: the optimizer's own)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("runs/latest"))
    parser.add_argument("--data-dir", help="where TFDS keeps data sets")
    parsed = parser.parse_args(arguments)
    known = optimizer_classes()
    if parsed.optimizer not in known:
        parser.error(f"unknown optimizer {parsed.optimizer!r}; one of {sorted(known)}")
    for name in ("epochs", "batch_size"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    rate = parsed.learning_rate
    if rate is not None and not 0 <= rate < float("inf"):
        parser.error(f"--learning-rate must be a number of at least 0, not {rate}")
    return parsed


def main(arguments=None):
    args = parse_arguments(arguments)
    begin = time.perf_counter()
    try:
        data = load(args.dataset, data_dir=args.data_dir, seed=args.seed)
        train, steps = training_batches(
            data, args.batch_size, seed=args.seed, epochs=args.epochs
        )
        validation = validation_batches(data, args.batch_size)
    except DatasetError as error:
        sys.exit(str(error))
    keras.utils.set_random_seed(args.seed)  # preparing draws random numbers
    tf.config.experimental.enable_op_determinism()  # threads add up in a fixed order
    model = MODELS[args.model](
        data.image_shape,
        len(data.class_names),
        adapt_to=data.sample_images(10_000),
    )
    optimizer_class = optimizer_classes()[args.optimizer]
    rate = args.learning_rate
    if rate is None:
        rate = inspect.signature(optimizer_class).parameters["learning_rate"].default
    optimizer = optimizer_class(
        keras.optimizers.schedules.CosineDecay(rate, steps * args.epochs)
    )
    print(optimizer)
    model.compile(
        optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    args.output.mkdir(parents=True, exist_ok=True)
    best_path = args.output / "best.keras"
    fit_begin = time.perf_counter()
    history = model.fit(
        train,
        validation_data=validation,
        epochs=args.epochs,
        steps_per_epoch=steps,
        callbacks=[
            keras.callbacks.CSVLogger(args.output / "history.csv"),
            keras.callbacks.ModelCheckpoint(
                best_path, monitor="val_accuracy", save_best_only=True
            ),
        ],
    ).history
    fit_seconds = time.perf_counter() - fit_begin

    title = f"{type(optimizer).__name__}, {args.model} on {args.dataset}"
    plot_curves(history, title, args.output / "curves.png")
    best = keras.saving.load_model(best_path)
    loss, accuracy = best.evaluate(validation, verbose=0)
    difference = export(best, str(args.output / "saved_model"), validation)
    run = {
        "arguments": {**vars(args), "output": str(args.output)},
        "optimizer": repr(optimizer),
        "learning_rate": rate,
        "parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        "steps_per_epoch": steps,
        "metrics": {
            "best_val_accuracy": accuracy,
            "best_val_loss": loss,
            **{f"last_{name}": values[-1] for name, values in history.items()},
        },
        "saved_model_max_difference": difference,
        "images_per_second": steps * args.batch_size * args.epochs / fit_seconds,
        "seconds": time.perf_counter() - begin,
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "keras_gradopt": keras_gradopt.__version__,
        },
    }
    (args.output / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    print(
        f"Best validation accuracy {accuracy:.2%}; the SavedModel agrees with the "
        f"model to {difference:.1e}. Results are in {args.output}."
    )


if __name__ == "__main__":
    main()
