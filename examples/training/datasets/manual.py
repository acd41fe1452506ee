"""For builders of files of the user's: what is wrong with those becomes a sentence."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.datasets.preparing import DatasetError

Example = tuple[Path, str]  # image and name of its class


def root_folder(path: Path) -> Path:
    """The folder itself.

    Raises:
        FileNotFoundError: there is none; `preparing` then says what goes where.
    """
    if not path.is_dir():
        raise FileNotFoundError(path)
    return path


def lines(path: Path) -> list[str]:
    """The lines of a list of images, without empty ones."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def require_classes(found: Iterable[str], expected: int, where: Path) -> list[str]:
    """The names of the classes, sorted, if there are as many as expected."""
    names = sorted(set(found))
    if len(names) != expected:
        raise DatasetError(f"{where} has {len(names)} classes, not {expected}")
    return names


def draw(
    examples: list[Example], counts: dict[str, tuple[int, int]]
) -> tuple[list[Example], list[Example]]:
    """Training and test images, drawn in each class with one fixed seed.

    Args:
        examples: of all classes.
        counts: for each class the published numbers of training and of test images;
            where there are others, their ratio counts.
    """
    random = np.random.default_rng(0)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for name, (training, test) in sorted(counts.items()):
        members = sorted(example for example in examples if example[1] == name)
        number = round(len(members) * test / (training + test))
        order = random.permutation(len(members))
        if not 0 < number < len(members):
            raise DatasetError(
                f"{len(members)} images of {name} are too few to test on some of them"
            )
        parts[0].extend(members[i] for i in sorted(order[number:]))
        parts[1].extend(members[i] for i in sorted(order[:number]))
    return parts


def readable(examples: Iterable[Example]) -> Iterator[tuple[str, dict]]:
    """What a builder yields for each example, once TensorFlow has read its image."""
    for path, label in examples:
        decoded(path)
        yield f"{label}/{path.name}", {"image": path, "label": label}


def decoded(path: Path) -> tf.Tensor:
    """The image in a file, with three channels.

    Raises:
        DatasetError: if there is none, or TensorFlow cannot read it.
    """
    try:
        content = tf.io.read_file(str(path))
        return tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.NotFoundError:
        raise DatasetError(f"{path} is listed, but missing") from None
    except tf.errors.OpError:
        raise DatasetError(
            f"{path} is no image, or damaged: TensorFlow cannot read it"
        ) from None
