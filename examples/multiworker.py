"""
Title: Train on several machines with TensorFlow
Description: A custom loop under MultiWorkerMirroredStrategy.

Keras 3's `fit` fails under this strategy with more than one worker
(keras-team/keras issue 20585); a loop of `strategy.run` and `optimizer.apply` works. On
each machine, with its own index (0 is the chief, which writes the results):

    python examples/multiworker.py --workers host1:2222,host2:2222 --index 0
    python examples/multiworker.py --workers host1:2222,host2:2222 --index 1

A run that was killed goes on after its last complete epoch when all workers are started
again.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from training import flags  # without TensorFlow


def parse_arguments(arguments=None):
    make = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    make.add_argument("--workers", required=True, metavar="HOST:PORT,...")
    make.add_argument("--index", type=int, required=True, metavar="I")
    make.add_argument("--dataset", default="digits", metavar="NAME")
    make.add_argument("--data-dir", metavar="PATH")
    make.add_argument(
        "--limit", type=flags.COUNT, metavar="N", help="images of each split"
    )
    make.add_argument("--model", default="resnet20", metavar="NAME")
    make.add_argument("--optimizer", default="AngularGrad", metavar="NAME")
    make.add_argument("--learning-rate", type=flags.POSITIVE, default=1e-3)
    make.add_argument("--schedule", default="cosine", metavar="NAME")
    make.add_argument("--epochs", type=flags.COUNT, default=10)
    make.add_argument(
        "--batch-size", type=flags.COUNT, default=64, help="of all workers"
    )
    make.add_argument("--seed", type=flags.SEED, default=0, metavar="N")
    make.add_argument("--output", type=flags.folder, default=Path("runs/multiworker"))
    args = make.parse_args(arguments)
    args.workers = args.workers.split(",")
    if not 0 <= args.index < len(args.workers):
        make.error(f"--index must be from 0 to {len(args.workers) - 1}")
    if args.batch_size % len(args.workers):
        make.error("--batch-size must be a multiple of the number of workers")
    return args


# The strategy must exist before TensorFlow is used, so the flags are read first.
args = parse_arguments()
os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": args.workers},
        "task": {"type": "worker", "index": args.index},
    }
)

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras
from training import optimizer_flags
from training.datasets import DatasetError, load, training_batches, validation_batches
from training.models import create_model

"""
## Model and data

Batch normalization takes its statistics over the batch of all workers, so that several
workers train as one.
"""


def build(data, steps_per_epoch):
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        model = create_model(
            args.model,
            data.image_shape,
            len(data.class_names),
            adapt_to=data.sample_images(10_000),
        )
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
        rate = optimizer_flags.learning_rate_schedule(
            args.schedule, args.learning_rate, steps_per_epoch, args.epochs
        )
        optimizer = optimizer_flags.make_optimizer(args.optimizer, rate, {}, [])
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, loss="sparse_categorical_crossentropy")
    return model


"""
## The loop

`compute_loss` divides by the number of replicas, `apply` adds up their gradients.
"""


def training_step(model):
    def step(images, labels):
        with tf.GradientTape() as tape:
            predictions = model(images, training=True)
            loss = model.compute_loss(images, labels, predictions)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function
    def on_all_workers(images, labels):
        losses = strategy.run(step, args=(images, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    return on_all_workers


def accuracy(model, batches):
    """Of the model on this worker."""
    metric = keras.metrics.SparseCategoricalAccuracy()
    for images, labels in batches:
        metric.update_state(labels, model(images, training=False))
    return float(metric.result())


def main():
    try:
        data = load(
            args.dataset, data_dir=args.data_dir, seed=args.seed, limit=args.limit
        )
        probe = training_batches(data, args.batch_size, seed=args.seed)
        model = build(data, probe[1])
    except (ValueError, DatasetError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    epoch = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=model.optimizer, epoch=epoch
    )
    # every worker takes part in saving; each in a folder of its own
    folder = args.output / f"worker-{args.index}"
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
    manager.restore_or_initialize()
    done = int(epoch)
    batches, steps = training_batches(
        data,
        args.batch_size,
        seed=args.seed,
        first_epoch=done,
        epochs=args.epochs - done,
        shard=(args.index, len(args.workers)),
    )
    step, iterator = training_step(model), iter(batches)
    for current in range(done, args.epochs):
        losses = [float(step(*next(iterator))) for _ in range(steps)]
        epoch.assign(current + 1)
        manager.save()
        if args.index == 0:
            reached = accuracy(model, validation_batches(data, args.batch_size))
            print(
                f"epoch {current + 1}/{args.epochs}: loss {sum(losses) / steps:.4f}, "
                f"validation accuracy {reached:.2%}",
                flush=True,
            )
    if args.index == 0:
        model.save(args.output / "last.keras")
        print(f"The model is in {args.output / 'last.keras'}.")


if __name__ == "__main__":
    main()
