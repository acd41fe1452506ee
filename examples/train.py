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

import contextlib
import os
import re
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "data-parallel" in sys.argv:  # before Keras is imported
    os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from training import optimizer_flags, results
from training.command_line import parser, print_names, settle
from training.datasets import (
    PREPROCESSINGS,
    DatasetError,
    load,
    naming_unreadable_images,
    training_batches,
    validation_batches,
)
from training.models import create_model
from training.run_files import RunError, alone_in, write_json
from training.running import Clock, begin, described, set_up, sharing_devices

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
    callbacks = [keep, clock := Clock()]
    if args.ema is not None:
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    if args.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(args.output / "tensorboard"))
    if args.monitor:
        path = args.output / "monitor.csv"
        monitor = keras_gradopt.callbacks.GradientMonitor(args.monitor, csv_path=path)
        callbacks.append(monitor)
    model.fit(
        batches,
        initial_epoch=done,
        epochs=run.epochs,
        steps_per_epoch=steps,
        validation_data=validation_batches(
            data, run.batch_size, (args.process_id, args.processes), sharing_devices()
        ),
        class_weight=data.class_weights() if run.balance == "weights" else None,
        callbacks=callbacks,
        verbose=1 if args.process_id == 0 else 0,
    )
    if args.monitor and monitor.records:
        monitor.plot(args.output / "monitor.png")
        monitor.summary()
    return clock.rate(steps * run.batch_size)


def report(args, run, data, model, keep, speed, start):
    """Writes curves, pictures, `run.json` and, last, the SavedModel."""
    folder = args.output
    title = f"{run.optimizer}, {run.model} on {run.dataset}"
    results.plot_curves(keep.history, title, folder / "curves.png")
    if args.strategy == "data-parallel":  # what follows, one process does alone
        keras.distribution.set_distribution(None)
    written = described(args, run, model, keep, speed, start)
    difference = None
    if keep.best_epoch is not None:
        best = keras.saving.load_model(folder / "best.keras")
        if args.ema is not None:
            best.optimizer.finalize_variable_values(best.trainable_variables)
        batches = validation_batches(data, run.batch_size)
        evaluation = results.evaluate(
            lambda images: best.predict_on_batch(np.asarray(images)),
            batches,
            data.class_names,
        )
        results.plot_confusion(evaluation, folder / "confusion.png")
        results.plot_worst(evaluation, batches, folder / "worst.png")
        results.write_per_class(evaluation, folder / "classes.csv")
        written["best_epoch"] = keep.best_epoch + 1
        written["metrics"] |= evaluation.metrics
        write_json(folder / "run.json", written)  # the export may fail
        print(
            f"Best validation accuracy {evaluation.metrics['accuracy']:.2%} after "
            f"epoch {keep.best_epoch + 1}."
        )
        difference = export(best, data, batches, folder / "saved_model")
    written["saved_model_max_difference"] = difference
    write_json(folder / "run.json", written)
    print(f"Results are in {folder}.")
    if keep.diverged:
        raise RunError(
            f"training diverged in epoch {keep.epochs}: its loss is NaN or infinite. A "
            "lower --learning-rate may help, or --clipnorm"
        )


def export(model, data, batches, folder):
    """Exports a SavedModel; by how much it differs at most, None if there is none."""
    if keras.backend.backend() == "torch":
        print("Keras exports no SavedModel on PyTorch; best.keras has the model.")
        return None
    how = PREPROCESSINGS[data.preprocessing]
    difference = results.export(
        model, folder, batches, data.class_names, how.crop, how.square
    )
    print(f"The SavedModel agrees with the model to {difference:.1e}.")
    return difference


def prepare(args, run):
    """Data, what keeps the run, epochs done, and the model.

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
    return data, keep, done, model


def main(arguments=None):
    make = parser(__doc__)
    args = make.parse_args(arguments)
    if args.list:
        print_names()
        return
    start = time.perf_counter()
    try:
        with contextlib.ExitStack() as turn:
            try:
                run = settle(args)
                if args.process_id == 0:
                    turn.enter_context(alone_in(args.output))
                data, keep, done, model = prepare(args, run)
            except ValueError as error:  # later ones would be faults of this program
                raise RunError(error) from error
            if args.resume and keep.finished:
                print(f"The run in {args.output} is finished.")
                return
            print(model.optimizer)
            ended = done >= run.epochs or keep.at_end
            turn.enter_context(naming_unreadable_images(data))
            speed = None if ended else train(args, run, data, model, keep, done)
            if args.process_id == 0:
                report(args, run, data, model, keep, speed, start)
    except (RunError, DatasetError, OSError) as error:
        make.exit(2, f"{make.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
