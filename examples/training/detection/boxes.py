"""Default boxes of SSD (Liu et al. 2016), matching, coding, suppression.

A box is `(top, left, bottom, right)` in shares of the image's height and width, as TFDS
and `tf.image` have it. Box functions take arrays whose last axis is the box's.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Section 2.2: scales 0.2 to 0.9, and 0.1 for conv4_3; the numbers are those of the
# code released with the paper, whose steps are rounded: 30, 60, 111, ... of 300 pixels.
SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
# what the offsets are divided by, so that they have a variance near 1: centre, size
CENTER, SIZE = 0.1, 0.2
MATCHED = 0.5  # overlap from which a default box is matched


def boxes_per_place() -> list[int]:
    """The number of default boxes at each place of each of the six feature maps."""
    return [2 + 2 * len(ratios) for ratios in RATIOS]


def map_sizes(image_size: int) -> list[int]:
    """Height and width of the six feature maps: 38, 19, 10, 5, 3 and 1 of SSD300."""
    sizes = [image_size]
    for _ in range(6):  # poolings and strides of 2, each rounded up
        sizes.append(-(-sizes[-1] // 2))
    return [*sizes[3:], sizes[-1] - 2, sizes[-1] - 4]  # 3x3 without padding


def default_boxes(sizes: Sequence[int]) -> np.ndarray:
    """The default boxes `(boxes, 4)`, in the order of the network's outputs.

    Args:
        sizes: height and width of the six feature maps; those of SSD300 make 8732.
    """
    found = []
    for index, size in enumerate(sizes):
        scale = SCALES[index]
        sides = [(scale, scale), (math.sqrt(scale * SCALES[index + 1]),) * 2]
        for ratio in RATIOS[index]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(short, long), (long, short)]  # height, width
        middle = (np.arange(size) + 0.5) / size
        centers = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1)
        centers = np.repeat(centers.reshape(-1, 1, 2), len(sides), axis=1)
        halves = np.broadcast_to(np.array(sides) / 2, centers.shape)
        corners = np.concatenate([centers - halves, centers + halves], axis=-1)
        found.append(corners.reshape(-1, 4))
    return np.concatenate(found).astype("float32")


def area(boxes: tf.Tensor) -> tf.Tensor:
    """The area of each box; 0 of one that ends before it begins."""
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def intersection(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The common area of each of the first boxes with each of the second ones."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    begin = tf.maximum(first[..., :2], second[..., :2])
    end = tf.minimum(first[..., 2:], second[..., 2:])
    return area(tf.concat([begin, end], axis=-1))


def overlap(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Intersection over union of each of the first boxes with each of the second."""
    common = intersection(first, second)
    union = area(first)[..., :, None] + area(second)[..., None, :] - common
    return tf.math.divide_no_nan(common, union)


def encode(boxes: tf.Tensor, defaults: tf.Tensor) -> tf.Tensor:
    """Boxes as offsets `(y, x, height, width)` from default boxes (equation 2)."""
    center, size = _center_and_size(boxes)
    place, extent = _center_and_size(defaults)
    offsets = (center - place) / extent / CENTER
    return tf.concat([offsets, tf.math.log(size / extent) / SIZE], axis=-1)


def decode(offsets: tf.Tensor, defaults: tf.Tensor) -> tf.Tensor:
    """The boxes with these offsets from default boxes: the inverse of `encode`."""
    place, extent = _center_and_size(defaults)
    center = place + offsets[..., :2] * CENTER * extent
    # a network at its beginning must not overflow: e**4 times the size is no box
    half = extent * tf.exp(tf.minimum(offsets[..., 2:] * SIZE, 4.0)) / 2
    return tf.concat([center - half, center + half], axis=-1)


def _center_and_size(boxes):
    begin, end = boxes[..., :2], boxes[..., 2:]
    return (begin + end) / 2, end - begin


def match(
    boxes: tf.Tensor, classes: tf.Tensor, defaults: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What each default box is to predict (section 2.2, matching strategy).

    Each object has the default box that overlaps it most, and every default box that
    overlaps it by more than a half. A default box that overlaps several has the one
    that it overlaps most. Where it is the best of several, the greatest overlap comes
    first and the others have their next best, as in the code released with the paper.

    Args:
        boxes: of the objects, `(objects, 4)`; there may be none.
        classes: of the objects, from 1: 0 is the background.
        defaults: the default boxes, `(defaults, 4)`.

    Returns:
        Offsets `(defaults, 4)`, 0 for the background, and classes `(defaults,)`.
    """
    count = tf.shape(boxes)[0]
    # a last object overlaps nothing: the background has it
    classes = tf.concat([classes, tf.zeros((1,), classes.dtype)], axis=0)
    overlaps = tf.pad(overlap(boxes, defaults), [[0, 1], [0, 0]])
    had = tf.argmax(overlaps, axis=0, output_type=tf.int32)
    had = tf.where(tf.reduce_max(overlaps, axis=0) > MATCHED, had, count)
    had = _best(overlaps, had)
    everything = tf.concat([boxes, tf.constant([[0.0, 0.0, 1.0, 1.0]])], axis=0)
    offsets = encode(tf.gather(everything, had), defaults)
    offsets = tf.where((had < count)[:, None], offsets, 0.0)
    return offsets, tf.gather(classes, had)


def _best(overlaps, had):
    """What default boxes have once each object but the last one has its best."""

    def give(left, had):
        """The greatest overlap that is left; then neither of the two is free."""
        place = tf.argmax(tf.reshape(left, [-1]), output_type=tf.int32)
        number, index = place // tf.shape(left)[1], place % tf.shape(left)[1]
        rows, columns = (tf.range(n) for n in tf.unstack(tf.shape(left)))
        taken = (rows == number)[:, None] | (columns == index)[None]
        return tf.where(taken, -1.0, left), tf.where(columns == index, number, had)

    left = overlaps[:-1]
    return tf.while_loop(
        lambda *_: True, give, (left, had), maximum_iterations=tf.shape(left)[0]
    )[1]


def detections(
    predicted: tf.Tensor,
    defaults: tf.Tensor,
    *,
    score: float = 0.01,
    suppressed: float = 0.45,
    most: int = 200,
) -> dict[str, tf.Tensor]:
    """The boxes that a network's output stands for (sections 2.1 and 3.1).

    Args:
        predicted: offsets, logit of the background, logits of the classes, `(batch,
            defaults, 4 + 1 + classes)`.
        defaults: the default boxes `(defaults, 4)`.
        score: the lowest probability of a class.
        suppressed: overlap from which, of two boxes of a class, the one of the higher
            score remains.
        most: how many boxes of an image there are at most.

    Returns:
        `boxes` `(batch, most, 4)` within the image, `scores` and, from 0, `classes`
        `(batch, most)`, the highest score first, and `count` `(batch,)`, how many of
        them there are. What follows is 0.
    """
    boxes = decode(predicted[..., :4], defaults)
    shares = tf.nn.softmax(predicted[..., 4:])[..., 1:]
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        boxes[:, :, None],
        shares,
        max_output_size_per_class=most,
        max_total_size=most,
        iou_threshold=suppressed,
        score_threshold=score,
    )
    classes = tf.cast(classes, tf.int32)
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": count}
