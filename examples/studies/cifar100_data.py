"""CIFAR-100 in one file, the part held out for scouting, and the papers' augmentation.

NumPy only; `pack` also takes Pillow or TensorFlow Datasets, whichever it reads from.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "test")
PADDING = 4
HELD_OUT = 10  # one of so many images of every class


class Images(NamedTuple):
    """Images, uint8, and the class of each."""

    images: np.ndarray
    labels: np.ndarray


def pack(source: Path, path: Path) -> str:
    """Writes both splits to one .npz file, from whichever form `source` has.

    Every split is sorted by class and then by pixels, so that the same data set gives
    the same arrays whatever its files were called and in which order they came.

    Args:
        source: a folder with `train/CLASS/*.png` and `test/CLASS/*.png`, or the
            `data_dir` of TensorFlow Datasets in which cifar100 is prepared.
        path: of the file.

    Returns:
        The checksum, as `load` gives it.
    """
    read = _read_folders if (source / "train").is_dir() else _read_tfds
    arrays = {}
    for split in SPLITS:
        images, labels = read(source, split)
        order = sorted(
            range(len(labels)), key=lambda i: (labels[i], images[i].tobytes())
        )
        arrays[f"{split}_images"] = np.stack(images)[order]
        arrays[f"{split}_labels"] = np.array(labels, np.int32)[order]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, lambda file: np.savez(file, **arrays))
    return load(path)[2]


def _read_folders(source, split):
    from PIL import Image

    classes = sorted(folder.name for folder in (source / split).iterdir())
    files = [
        (label, file)
        for label, name in enumerate(classes)
        for file in (source / split / name).glob("*.png")
    ]
    images = [np.asarray(Image.open(file).convert("RGB")) for _, file in files]
    return images, [label for label, _ in files]


def _read_tfds(source, split):
    import tensorflow_datasets as tfds

    rows = tfds.as_numpy(tfds.load("cifar100", split=split, data_dir=str(source)))
    images, labels = zip(*((row["image"], int(row["label"])) for row in rows))
    return images, labels


def replace(path: Path, write) -> None:
    """Calls `write` with an open binary file that becomes `path` only when complete."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def load(path: Path) -> tuple[Images, Images, str]:
    """The training images, the test images, and the first digits of their SHA-256."""
    with np.load(path) as file:
        arrays = [file[f"{s}_{kind}"] for s in SPLITS for kind in ("images", "labels")]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    train, test = Images(*arrays[:2]), Images(*arrays[2:])
    return train, test, digest.hexdigest()[:12]


def hold_out(data: Images) -> tuple[Images, Images]:
    """The training images without a tenth of every class, and that tenth."""
    random = np.random.default_rng(0)
    held = np.zeros(len(data.labels), bool)
    for label in np.unique(data.labels):
        members = np.flatnonzero(data.labels == label)
        held[random.permutation(members)[: len(members) // HELD_OUT]] = True
    return Images(*(a[~held] for a in data)), Images(*(a[held] for a in data))


def pad(images: np.ndarray) -> np.ndarray:
    """The images with four black pixels on every side."""
    sides = (PADDING, PADDING)
    return np.pad(images, ((0, 0), sides, sides, (0, 0)))


def batches(
    padded: np.ndarray, labels: np.ndarray, size: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: shuffled, cropped at random, flipped at random.

    A function of `seed` and `epoch` alone, so that a resumed run and every arm of a
    seed see the same batches. The last, incomplete batch is left out.

    Args:
        padded: images from `pad`.
        labels: their classes.
        size: of a batch.
        seed: of the run.
        epoch: from 0.
    """
    random = np.random.default_rng([seed, epoch])
    count = len(labels)
    order = random.permutation(count)
    top, left = random.integers(0, 2 * PADDING + 1, (2, count))
    flipped = random.random(count) < 0.5
    height, width = (side - 2 * PADDING for side in padded.shape[1:3])
    crops = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
    for start in range(0, count - size + 1, size):
        here = slice(start, start + size)
        images = crops[order[here], top[here], left[here]]  # channels before pixels
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        mirrored = flipped[here]
        images[mirrored] = images[mirrored, :, ::-1]
        yield images, labels[order[here]]
