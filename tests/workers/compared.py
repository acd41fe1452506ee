"""A small comparison, to be killed: FOLDER, and how: here, local or dask."""

import contextlib
import sys

import keras
import numpy as np

from keras_gradopt import comparison

X = np.random.default_rng(0).normal(size=(160, 3)).astype("float32")
Y = (X[:, :1] * X[:, 1:2]).astype("float32")
PARTS = [(X[a:b], Y[a:b]) for a, b in ((0, 96), (96, 120), (120, 160))]


def network():
    layers = keras.layers
    hidden = layers.Dense(5, activation="tanh")
    return keras.Sequential(
        [keras.Input((3,)), hidden, layers.Dropout(0.1), layers.Dense(1)]
    )


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def main():
    folder, how = sys.argv[1:]
    task = comparison.Task(
        "killed", model=network, data=PARTS, loss="mse", epochs=6, batch_size=16
    )
    with contextlib.ExitStack() as stack:
        executor = None
        if how == "dask":
            from distributed import Client, LocalCluster

            cluster = LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None,
                host="127.0.0.1",
            )  # fmt: skip
            client = stack.enter_context(Client(stack.enter_context(cluster)))
            executor = client.get_executor()
        results = comparison.compare(
            task, {"SGD": sgd, "Adam": keras.optimizers.Adam}, folder=folder,
            tuning_seeds=(1, 2), grid=(0.003, 0.1), keep_every=0, progress=False,
            workers=0 if how == "here" else 1, executor=executor,
        )  # fmt: skip
    print(results.table())


if __name__ == "__main__":
    main()
