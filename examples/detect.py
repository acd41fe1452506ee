"""
Title: Train an object detector with a keras_gradopt optimizer
Description: SSD300 on PASCAL VOC (GAF, Table IV), or on your images with boxes.

    python examples/detect.py --dataset folder:BCCD      # in the form of PASCAL VOC
    python examples/detect.py --recipe gaf-voc           # as the paper has it
    python examples/detect.py --list                     # all names
    python examples/predict.py runs/detector/saved_model photo.jpg --draw boxes/

Leaves in the output folder: `history.csv`, `curves.png`, `found.png`, `precision.png`,
`classes.csv`, `best.keras`, `last.keras`, `saved_model/` and `run.json`.
"""

import dataclasses
import math
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "data-parallel" in sys.argv:  # before Keras is imported
    os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from training import optimizer_flags
from training.datasets import (
    naming_unreadable_images,
    training_batches,
    validation_batches,
)
from training.detection import data as boxed
from training.detection import evaluation, results
from training.detection.boxes import default_boxes, map_sizes
from training.detection.command_line import parser, print_names, settle
from training.detection.loss import MultiboxLoss
from training.detection.network import load_backbone, ssd_network
from training.results import plot_curves
from training.running import (
    Clock,
    begin,
    looking_on,
    run_program,
    set_up,
    write_results,
)

"""
## The run

One epoch is what lies between two evaluations; the schedule counts iterations.
"""


def build(args, run, data, iterations):
    """The model, compiled."""
    optimizer_flags.check_accumulation(run.settings, iterations)
    model = ssd_network(
        len(data.class_names),
        run.image_size,
        width=run.width,
        normalize=run.normalize,
        l2=run.l2,
        adapt_to=data.sample_images(100),
    )
    if run.weights:
        source = keras.applications.VGG16(include_top=False, weights=run.weights)
        load_backbone(model, source)
    model.compile(
        optimizer_flags.optimizer_of_run(run, args.transforms, 1, iterations),
        loss=MultiboxLoss(),
        jit_compile=True if args.jit else "auto",
    )
    return model


def batches_of(args, run, data, done):
    """Training batches from the first epoch that is not done."""
    return training_batches(
        data,
        run.batch_size,
        seed=args.seed,
        augment=not args.no_augment,
        first_epoch=done,
        epochs=run.epochs - done,
        steps_per_epoch=run.steps_per_epoch,
    )[0]


def prepare(args, run):
    """The settings with the number of epochs, data, what keeps the run, the model.

    Raises:
        ValueError, DatasetError, RunError: in a sentence.
    """
    scope = set_up(args, run)
    optimizer_flags.optimizer_of_run(
        run, args.transforms, 1, 1
    )  # whether its arguments are right, before the data
    optimizer_flags.try_one_step(run.optimizer, run.learning_rate, run.settings)
    data = boxed.load(
        run.dataset,
        default_boxes(map_sizes(run.image_size)),
        data_dir=args.data_dir,
        image_size=run.image_size,
        limit=args.limit,
        splits=args.splits,
        repair=args.faults == "repair",
    )
    steps = run.steps_per_epoch or math.ceil(data.train_size / run.batch_size)
    epochs = math.ceil(run.iterations / steps)
    run = dataclasses.replace(run, steps_per_epoch=steps, epochs=epochs)
    with scope, naming_unreadable_images(data):
        keep, done, model = begin(args, run, monitor="val_AP50")
        if model is None:
            keras.utils.set_random_seed(args.seed)  # preparing data draws numbers
            model = build(args, run, data, steps * epochs)
    return run, data, keep, done, model


def train(args, run, data, model, keep, done):
    """Trains to the last epoch; returns the images per second."""
    evaluated = evaluation.EvaluateBoxes(
        validation_batches(data, run.batch_size),
        data.truth(),
        data.class_names,
        data.defaults,
        averaged=args.ema is not None,
    )
    clock = Clock()
    with looking_on(args) as callbacks:
        model.fit(
            batches_of(args, run, data, done),
            initial_epoch=done,
            epochs=run.epochs,
            steps_per_epoch=run.steps_per_epoch,
            callbacks=[clock, evaluated, keep, *callbacks],
        )
    return clock.rate(run.steps_per_epoch * run.batch_size)


def report(args, run, data, model, keep, speed, start):
    """Writes curves, pictures, `run.json` and, last, the SavedModel."""
    folder = args.output
    title = f"{run.optimizer}, SSD{run.image_size} on {run.dataset}"
    plot_curves(keep.history, title, folder / "curves.png", "AP50")
    batches, truth = validation_batches(data, run.batch_size), data.truth()

    def evaluate(best):
        found = evaluation.find(
            lambda images: best.predict_on_batch(np.asarray(images)),
            batches,
            data.defaults,
        )
        worth = evaluation.evaluate(found, truth, data.class_names)
        results.plot_found(worth, batches, truth, folder / "found.png")
        results.plot_precision(worth, folder / "precision.png")
        evaluation.write_per_class(worth, folder / "classes.csv")
        values = worth.metrics
        return values, f"AP50 {values['AP50']:.2%}, AP {values['AP']:.2%}"

    def export(best):
        return results.export(
            best, folder / "saved_model", batches, data.class_names, data.defaults
        )

    write_results(args, run, model, keep, speed, start, evaluate, export)


def main(arguments=None):
    make = parser(__doc__)
    run_program(make, print_names, settle, prepare, train, report, arguments)


if __name__ == "__main__":
    main()
