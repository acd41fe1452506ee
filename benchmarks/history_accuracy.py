"""
Title: What half the memory for history costs in accuracy
Description: history_dtype="bfloat16" on recorded gradients, and in training.

    python benchmarks/history_accuracy.py --csv docs/performance/history_accuracy.csv

First how far the trajectories on the recorded gradients (tests/reference) end from
those with float32 history, relative to the way travelled. Then a small convolutional
network on scikit-learn's digits, trained with either from the same seeds: test accuracy
after the last epoch, and the paired difference.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from measurements import environment, write_csv
from sklearn.datasets import load_digits

import keras_gradopt as kg

REFERENCE = Path(__file__).parents[1] / "tests" / "reference" / "gradients.npz"
STREAMS = ["main", "plain"]
TENSORS = ["scale", "bias", "dense", "conv", "dwconv", "conv1d", "dwk"]
OPTIMIZERS = {"AngularGrad": kg.AngularGrad, "DiffGrad": kg.DiffGrad}


def end_of_trajectory(optimizer, arrays, stream, name):
    """The last value of one recorded tensor, and its first."""
    variable = keras.Variable(arrays[f"init/{name}"], dtype="float32")
    for gradient in arrays[f"{stream}/{name}"].astype("float32"):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return variable.numpy(), arrays[f"init/{name}"]


def recorded():
    """Rows of relative distances."""
    arrays, rows = np.load(REFERENCE), []
    for label, make in OPTIMIZERS.items():
        for stream in STREAMS:
            for name in TENSORS:
                if f"{stream}/{name}" not in arrays:
                    continue
                whole, begin = end_of_trajectory(make(), arrays, stream, name)
                half, _ = end_of_trajectory(
                    make(history_dtype="bfloat16"), arrays, stream, name
                )
                apart = np.linalg.norm(whole - half) / np.linalg.norm(whole - begin)
                rows.append(
                    {
                        "optimizer": label,
                        "what": f"distance, {stream}/{name}",
                        "seed": "",
                        "whole": 0,
                        "half": float(f"{apart:.3g}"),
                    }
                )
    return rows


def accuracy(optimizer, seed, epochs):
    """Test accuracy of one training."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(images[:1297], labels[:1297], 64, epochs, verbose=0)
    return model.evaluate(images[1297:], labels[1297:], verbose=0)[1]


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--seeds", type=int, default=10)
    make.add_argument("--epochs", type=int, default=30)
    make.add_argument("--csv", type=Path)
    args = make.parse_args()
    rows = recorded()
    for label, optimizer in OPTIMIZERS.items():
        for seed in range(args.seeds):
            whole, half = (
                accuracy(optimizer(0.01, history_dtype=dtype), seed, args.epochs)
                for dtype in (None, "bfloat16")
            )
            print(f"{label}, seed {seed}: {whole:.4f}, {half:.4f}", flush=True)
            rows.append(
                {
                    "optimizer": label,
                    "what": "accuracy",
                    "seed": seed,
                    "whole": round(whole, 4),
                    "half": round(half, 4),
                }
            )
    write_csv(args.csv, rows)
    print(environment("tensorflow"))
    print(
        "\n| optimizer | apart on recorded gradients | accuracy | with half | paired |"
    )
    print("|---|---|---|---|---|")
    for label in OPTIMIZERS:
        mine = [row for row in rows if row["optimizer"] == label]
        apart = [row["half"] for row in mine if row["what"] != "accuracy"]
        pairs = [(r["whole"], r["half"]) for r in mine if r["what"] == "accuracy"]
        differences = [100 * (half - whole) for whole, half in pairs]
        spread = statistics.stdev(differences) / len(differences) ** 0.5
        print(
            f"| {label} | median {statistics.median(apart):.1e}, at most "
            f"{max(apart):.1e} | {100 * statistics.mean(w for w, _ in pairs):.2f} % | "
            f"{100 * statistics.mean(h for _, h in pairs):.2f} % | "
            f"{statistics.mean(differences):+.2f} ± {spread:.2f} points |"
        )


if __name__ == "__main__":
    sys.exit(main())
