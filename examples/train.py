"""
Title: Train an image classifier with a keras_gradopt optimizer
Description: The papers' networks, data sets and recipes, on one or many devices.

    python examples/train.py                        # AngularGrad, ResNet-20, digits
    python examples/train.py --dataset fashion_mnist --optimizer wgdsgd --epochs 10
    python examples/train.py --recipe adanorm-cifar --model resnet18
    python examples/train.py --list                 # all names

Leaves in the output folder: `history.csv`, `curves.png`, `confusion.png`, `worst.png`,
`classes.csv`, `best.keras`, `last.keras`, `saved_model/` and `run.json`.
"""

import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "data-parallel" in sys.argv:  # before Keras is imported
    os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from training import optimizer_flags, results
from training.command_line import parser, print_names, settle
from training.datasets import (
    PREPROCESSINGS,
    load,
    naming_unreadable_images,
    training_batches,
    validation_batches,
)
from training.models import create_model
from training.running import (
    Clock,
    begin,
    looking_on,
    run_program,
    set_up,
    sharing_devices,
    write_results,
)

import keras_gradopt

"""
## The run
"""


def build(args, run, data, steps_per_epoch):
    """The model, compiled."""
    optimizer_flags.check_accumulation(run.settings, steps_per_epoch * run.epochs)
    model = create_model(
        run.model,
        data.image_shape,
        len(data.class_names),
        l2=run.l2,
        adapt_to=data.sample_images(10_000),
        weights=run.weights,
    )

    rates = []
    if run.backbone_rate != 1:  # the first pattern that fits counts
        head = re.escape(model.layers[-1].name)
        factors = {rf"(^|/){head}/": 1.0, ".": run.backbone_rate}
        rates = [keras_gradopt.transforms.ScaleLearningRate(factors)]
    model.compile(
        optimizer_flags.optimizer_of_run(
            run, args.transforms, steps_per_epoch, run.epochs, rates
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=True if args.jit else "auto",
    )
    return model


def batches_of(args, run, data, done):
    """Training batches from the first epoch that is not done, and steps per epoch."""
    return training_batches(
        data,
        run.batch_size,
        seed=args.seed,
        augment=not args.no_augment,
        first_epoch=done,
        epochs=run.epochs - done,
        steps_per_epoch=args.steps_per_epoch,
        shard=(args.process_id, args.processes),
        balanced=run.balance == "sampler",
    )


def train(args, run, data, model, keep, done):
    """Trains to the last epoch; returns the images per second."""
    batches, steps = batches_of(args, run, data, done)
    clock = Clock()
    with looking_on(args) as callbacks:
        callbacks[:0] = [keep, clock]
        if args.ema is not None:
            callbacks.insert(0, keras.callbacks.SwapEMAWeights())
        model.fit(
            batches,
            initial_epoch=done,
            epochs=run.epochs,
            steps_per_epoch=steps,
            validation_data=validation_batches(
                data,
                run.batch_size,
                (args.process_id, args.processes),
                sharing_devices(),
            ),
            class_weight=data.class_weights() if run.balance == "weights" else None,
            callbacks=callbacks,
            verbose=1 if args.process_id == 0 else 0,
        )
    return clock.rate(steps * run.batch_size)


def report(args, run, data, model, keep, speed, start):
    """Writes curves, pictures, `run.json` and, last, the SavedModel."""
    folder = args.output
    title = f"{run.optimizer}, {run.model} on {run.dataset}"
    results.plot_curves(keep.history, title, folder / "curves.png")
    batches = validation_batches(data, run.batch_size)

    def evaluate(best):
        evaluation = results.evaluate(
            lambda images: best.predict_on_batch(np.asarray(images)),
            batches,
            data.class_names,
        )
        results.plot_confusion(evaluation, folder / "confusion.png")
        results.plot_worst(evaluation, batches, folder / "worst.png")
        results.write_per_class(evaluation, folder / "classes.csv")
        return evaluation.metrics, f"accuracy {evaluation.metrics['accuracy']:.2%}"

    def export(best):
        how = PREPROCESSINGS[data.preprocessing]
        return results.export(
            best,
            folder / "saved_model",
            batches,
            data.class_names,
            how.crop,
            how.square,
        )

    write_results(args, run, model, keep, speed, start, evaluate, export)


def prepare(args, run):
    """The settings, data, what keeps the run, epochs done, and the model.

    Raises:
        ValueError, DatasetError, RunError: in a sentence.
    """
    scope = set_up(args, run)
    # whether its arguments are right, before the data
    optimizer_flags.optimizer_of_run(run, args.transforms, 1, run.epochs)
    optimizer_flags.try_one_step(run.optimizer, run.learning_rate, run.settings)
    data = load(
        run.dataset,
        data_dir=args.data_dir,
        image_size=run.image_size,
        seed=args.seed,
        limit=args.limit,
        preprocessing=run.preprocessing,
        splits=args.splits,
    )
    with scope, naming_unreadable_images(data):
        keep, done, model = begin(args, run)
        if model is None:
            keras.utils.set_random_seed(args.seed)  # preparing data draws numbers
            steps = batches_of(args, run, data, done)[1]
            model = build(args, run, data, steps)
    return run, data, keep, done, model


def main(arguments=None):
    make = parser(__doc__)
    run_program(make, print_names, settle, prepare, train, report, arguments)


if __name__ == "__main__":
    main()
