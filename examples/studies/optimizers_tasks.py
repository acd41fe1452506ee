"""
Title: Six workloads of seconds
Description: Small real tasks (and a quadratic) to compare optimizers on.

Each is data, a network and a loss, small enough to be trained dozens of times for each
optimizer on a laptop. `optimizers.py` runs them. What data they need comes with Python
packages: scikit-learn's digits, wordfreq's word lists, and Fashion-MNIST from TFDS.
Who is trained on, tuned by and reported on is drawn once, for all seeds.
"""

import functools
import os
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from keras_gradopt.comparison import Parts, Task


def split(x, y, sizes):
    """Disjoint parts of the given sizes, always the same."""
    order = np.random.default_rng(0).permutation(len(x))
    ends = np.cumsum(sizes)
    indices = [order[end - size : end] for end, size in zip(ends, sizes)]
    return Parts(*((x[i], y[i]) for i in indices))


"""
## Digits: a convolutional network, and an autoencoder
"""


@functools.cache
def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[..., None] / 16).astype("float32"), found.target


def digits_parts():
    return split(*digits(), (1000, 300, 497))


def convolutional(shape, stride):
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 3, stride, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, 2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def autoencoder_parts():
    x = digits()[0].reshape(-1, 64)
    return split(x, x, (1000, 300, 497))


def autoencoder():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, activation="tanh"),
            layers.Dense(8),
            layers.Dense(32, activation="tanh"),
            layers.Dense(64, activation="sigmoid"),
        ]
    )


"""
## Fashion-MNIST: a convolutional network and a multilayer perceptron

The images come through TFDS (see `datasets/fashion_mnist.py` for how, without a
network); as arrays they are kept in a file, so TFDS is asked only once.
"""


@functools.cache
def fashion():
    folder = Path(os.environ.get("COMPARE_CACHE", "runs/optimizers"))
    path = folder / "fashion_mnist.npz"
    if not path.exists():
        from training.datasets import load

        data = load("fashion_mnist")
        arrays = {}
        for name, examples in (("train", data.train), ("test", data.validation)):
            x, y = zip(*examples.as_numpy_iterator())
            arrays |= {f"{name}_x": np.array(x), f"{name}_y": np.array(y)}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"fashion_mnist.{os.getpid()}.npz"
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def fashion_parts():
    """4,000 images of the training split; 2,000 more; 5,000 of the test split."""
    found = fashion()
    random = np.random.default_rng(0)
    order = random.permutation(len(found["train_x"]))
    of_test = random.permutation(len(found["test_x"]))[:5000]

    def part(name, indices):
        x = found[f"{name}_x"][indices].astype("float32") / 255
        return x, found[f"{name}_y"][indices]

    return Parts(
        part("train", order[:4000]),
        part("train", order[4000:6000]),
        part("test", of_test),
    )


def perceptron():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


"""
## Words: which language is it?

The most frequent words of ten languages in Latin letters, as wordfreq lists them; words
that several of the languages share are left out. A character embedding, so gradients of
rows that do not occur are zero.
"""

LANGUAGES = ["de", "en", "es", "fi", "fr", "it", "nl", "pl", "pt", "sv"]
LETTERS = 12


@functools.cache
def words():
    from wordfreq import top_n_list

    lists = {language: top_n_list(language, 5000) for language in LANGUAGES}
    seen: dict[str, set[str]] = {}
    for language, found in lists.items():
        for word in found:
            seen.setdefault(word, set()).add(language)
    own = {
        language: [
            word
            for word in found
            if len(seen[word]) == 1 and word.isalpha() and 3 <= len(word) <= LETTERS
        ][:1500]
        for language, found in lists.items()
    }
    letters = sorted({letter for found in own.values() for w in found for letter in w})
    number = {letter: i + 1 for i, letter in enumerate(letters)}
    x = np.zeros((sum(map(len, own.values())), LETTERS), "int32")
    y = np.repeat(np.arange(len(own)), [len(found) for found in own.values()])
    for row, word in zip(x, (word for found in own.values() for word in found)):
        row[: len(word)] = [number[letter] for letter in word]
    return x, y, len(letters) + 1


def words_parts():
    x, y, _ = words()
    rest = (len(x) - 6000) // 2
    return split(x, y, (6000, rest, rest))


def words_network():
    return keras.Sequential(
        [
            keras.Input((LETTERS,), dtype="int32"),
            layers.Embedding(words()[2], 16),
            layers.Conv1D(64, 3, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(len(LANGUAGES), activation="softmax"),
        ]
    )


"""
## A noisy, ill-conditioned quadratic

`f(w) = 1/2 sum of h_i w_i^2`, curvatures h from 1e-4 to 1. The input of the "network"
is noise, and its gradient is `h w + 0.1 sqrt(h) noise`. Noise of zero measures f.
"""

DIMENSIONS = 100


class Quadratic(layers.Layer):
    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.w = self.add_weight(shape=(DIMENSIONS,), initializer=normal)

    def call(self, noise):
        curvature = ops.convert_to_tensor(
            np.logspace(-4, 0, DIMENSIONS).astype("float32")
        )
        quadratic = ops.sum(curvature * self.w * self.w) / 2
        return quadratic + 0.1 * ops.sum(ops.sqrt(curvature) * self.w * noise, axis=-1)


def quadratic_parts(seed):
    """The seed draws the noise that is trained with."""
    noise = np.random.default_rng(seed).normal(size=(6400, DIMENSIONS))
    still = np.zeros((1, DIMENSIONS), "float32")
    return Parts(
        (noise.astype("float32"), np.zeros(6400)),
        (still, np.zeros(1)),
        (still, np.zeros(1)),
    )


def quadratic():
    return keras.Sequential([keras.Input((DIMENSIONS,)), Quadratic()])


def output(_, y):
    """The loss is what the network says."""
    return ops.reshape(y, (-1,))


CROSSENTROPY = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
TITLES = {
    "digits-cnn": "CNN on digits",
    "words": "language of words",
    "quadratic": "noisy quadratic",
    "autoencoder": "autoencoder of digits",
    "fashion-mlp": "MLP on Fashion-MNIST",
    "fashion-cnn": "CNN on Fashion-MNIST",
}
# XLA is left to JAX: with TensorFlow compiling takes longer than these trainings
JIT = {"jit_compile": keras.backend.backend() == "jax"}
TASKS = {
    task.name: task
    for task in (
        Task(
            "digits-cnn", model=functools.partial(convolutional, (8, 8, 1), 1),
            data=digits_parts, epochs=12, batch_size=64, **CROSSENTROPY, **JIT,
        ),
        Task(
            "words", model=words_network, data=words_parts, epochs=6, batch_size=64,
            **CROSSENTROPY, **JIT,
        ),
        Task(
            "quadratic", model=quadratic, data=quadratic_parts, loss=output, epochs=4,
            batch_size=16, **JIT,
        ),
        Task(
            "autoencoder", model=autoencoder, data=autoencoder_parts, loss="mse",
            epochs=25, batch_size=64, **JIT,
        ),
        Task(
            "fashion-mlp", model=perceptron, data=fashion_parts, epochs=6,
            batch_size=64, **CROSSENTROPY, **JIT,
        ),
        Task(
            "fashion-cnn", model=functools.partial(convolutional, (28, 28, 1), 2),
            data=fashion_parts, epochs=5, batch_size=64, **CROSSENTROPY, **JIT,
        ),
    )
}  # fmt: skip


@functools.cache
def has_kernels(name):
    """Whether the network has convolution kernels."""
    return any("conv" in layer.name for layer in TASKS[name].model().layers)
