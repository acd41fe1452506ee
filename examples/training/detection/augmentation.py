"""The augmentation of SSD (Liu et al. 2016, sections 2.2 and 3.6), of one image.

All that is random comes from `draws`, `DRAWS` numbers even in [0, 1). What moves boxes,
expansion, crop and flip, is one window on the image, so that it is sampled once.
"""

import tensorflow as tf

from training.detection.boxes import overlap

TRIALS = 50  # windows tried for a crop
# the least overlap that an object must have with the crop; below 0, no crop
LEAST = (-1.0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
LARGEST = 4.0  # side of the expanded image
OTHERS = 14  # numbers that are not for windows
DRAWS = OTHERS + 4 * TRIALS


def augment(
    image: tf.Tensor, objects: tf.Tensor, draws: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """A part of the image, `(size, size, 3)`, and the objects in it.

    Args:
        image: float32 of 0 to 255, `(height, width, 3)`.
        objects: a box in the first four columns of each row, in shares of the image.
        draws: `DRAWS` numbers.
        size: height and width of the result.
    """
    window = expand(draws[:3])
    window = crop(window, objects, draws[3], tf.reshape(draws[OTHERS:], (TRIALS, 4)))
    objects = seen(window, objects)
    pixels, inside = sample(image, window, size)
    pixels = distort(pixels, draws[5:OTHERS])
    # what is beyond the image is its mean
    pixels = tf.where(inside, pixels, tf.reduce_mean(image, axis=(0, 1)))
    mirrored = tf.concat(
        [
            objects[:, :1],
            1 - objects[:, 3:4],
            objects[:, 2:3],
            1 - objects[:, 1:2],
            objects[:, 4:],
        ],
        axis=1,
    )
    flip = draws[4] < 0.5
    return tf.where(flip, pixels[:, ::-1], pixels), tf.where(flip, mirrored, objects)


def expand(draws: tf.Tensor) -> tf.Tensor:
    """The window of a canvas up to 4 times as high and wide, for half of the images."""
    side = tf.where(draws[0] < 0.5, 1 + 2 * draws[0] * (LARGEST - 1), 1.0)
    begin = -draws[1:3] * (side - 1)
    return tf.concat([begin, begin + side], axis=0)


def crop(
    window: tf.Tensor, objects: tf.Tensor, choice: tf.Tensor, draws: tf.Tensor
) -> tf.Tensor:
    """A part of the window that overlaps an object as much as was drawn.

    Sides are 0.3 to 1 of the window's, their ratio 1/2 to 2. The first of the trials
    that overlaps an object enough, and has the centre of an object, is taken; without
    one, or where no crop was drawn, the window itself.
    """
    least = tf.gather(LEAST, tf.cast(choice * len(LEAST), tf.int32))
    scale = 0.3 + 0.7 * draws[:, 0]
    low, high = tf.maximum(0.5, scale**2), tf.minimum(2.0, scale**-2)
    ratio = tf.sqrt(low + (high - low) * draws[:, 1])
    sides = tf.minimum(tf.stack([scale / ratio, scale * ratio], axis=1), 1.0)
    begin = draws[:, 2:] * (1 - sides)
    extent = window[2:] - window[:2]
    begin, end = (window[:2] + extent * share for share in (begin, begin + sides))
    windows = tf.concat([begin, end], axis=1)
    boxes = objects[:, :4]
    enough = tf.reduce_any(overlap(windows, boxes) >= least, axis=1)
    good = enough & tf.reduce_any(centered(windows, boxes), axis=1) & (least >= 0)
    first = tf.argmax(tf.cast(good, tf.int32))
    return tf.where(tf.reduce_any(good), windows[first], window)


def centered(windows: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Whether each window has the centre of each box."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    after = windows[:, None, :2] <= centers
    return tf.reduce_all(after & (centers <= windows[:, None, 2:]), axis=-1)


def seen(window: tf.Tensor, objects: tf.Tensor) -> tf.Tensor:
    """The objects whose centre is in the window, their boxes in shares of it."""
    objects = tf.boolean_mask(objects, centered(window[None], objects[:, :4])[0])
    extent = window[2:] - window[:2]
    corners = [
        tf.clip_by_value((objects[:, i : i + 2] - window[:2]) / extent, 0.0, 1.0)
        for i in (0, 2)
    ]
    return tf.concat([*corners, objects[:, 4:]], axis=1)


def sample(
    image: tf.Tensor, window: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels of the window, `(size, size, 3)`, and which of them the image has."""
    extent = window[2:] - window[:2]
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    # made smaller first, so that sampling never skips pixels
    smaller = tf.clip_by_value(tf.round(size / extent), 2.0, tf.maximum(sides, 2.0))
    image = tf.image.resize(image, tf.cast(smaller, tf.int32), antialias=True)
    # TensorFlow counts from the middle of the first pixel to that of the last
    steps = extent * smaller / size
    first = window[:2] * smaller - 0.5 + steps / 2
    corners = tf.concat([first, first + steps * (size - 1)], axis=0)
    corners /= tf.concat([smaller, smaller], axis=0) - 1
    image = tf.pad(image, [[0, 0], [0, 0], [0, 1]], constant_values=1.0)
    pixels = tf.image.crop_and_resize(image[None], corners[None], [0], (size, size))[0]
    return pixels[..., :3], pixels[..., 3:] > 0


def distort(pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, each changed in half of the images.

    Howard 2013, with the constants of the code released with SSD: contrast comes first
    or last.
    """
    amount = tf.where(draws[:4] < 0.5, draws[4:8], 0.5)  # 0.5 changes nothing
    pixels = pixels + 64 * (amount[0] - 0.5)
    contrast, first = 0.5 + amount[1], draws[8] < 0.5
    pixels = tf.clip_by_value(pixels * tf.where(first, contrast, 1.0), 0.0, 255.0) / 255
    pixels = tf.image.adjust_saturation(pixels, 0.5 + amount[2])
    pixels = tf.image.adjust_hue(pixels, 0.1 * (amount[3] - 0.5))  # 18 of 360 degrees
    pixels = pixels * 255 * tf.where(first, 1.0, contrast)
    return tf.clip_by_value(pixels, 0.0, 255.0)
