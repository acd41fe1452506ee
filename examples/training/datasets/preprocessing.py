"""What happens to images on their way to the network.

Each preprocessing has two functions of a batch of float32 images of 0 to 255 (the
networks normalize them inside): `evaluate(images, size)`, and `train(images, size,
draws)`, in which all that is random comes from `draws`: for each image `DRAWS` numbers,
even in [0, 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

DRAWS = 5


@dataclass(frozen=True)
class Preprocessing:
    """The function for training images and the one for validation images.

    What the latter does to an image, for `predict.py`: `square` makes it one whatever
    the shape was, else it keeps its shape; then the middle is cut out, `crop` of each
    side (of the shorter one).
    """

    train: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]
    evaluate: Callable[[tf.Tensor, int], tf.Tensor]
    crop: float = 1.0
    square: bool = True


def resize(images: tf.Tensor, size: int) -> tf.Tensor:
    """Square images, whatever the shape was."""
    return tf.image.resize(images, (size, size), antialias=True)


def crop(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """A square out of each image, at a place drawn from two numbers."""
    room = tf.cast(tf.shape(images)[1:3] - size + 1, tf.float32)
    places = tf.cast(draws * room, tf.int32)[:, :, None] + tf.range(size)
    rows = tf.gather(images, places[:, 0], axis=1, batch_dims=1)
    return tf.gather(rows, places[:, 1], axis=2, batch_dims=1)


def flip(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Half of the images mirrored left to right."""
    return tf.where(draws[:, None, None, None] < 0.5, images[:, :, ::-1], images)


def central_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of images at least that large."""
    top, left = tf.unstack((tf.shape(images)[1:3] - size) // 2)
    return tf.image.crop_to_bounding_box(images, top, left, size, size)


def shift(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """A random crop after padding by an eighth (of 32 pixels, 4), without a flip.

    For digits, house numbers and clothes: the crop of `shift_and_flip`.
    """
    by = size // 8
    padded = tf.pad(resize(images, size), [[0, 0], [by, by], [by, by], [0, 0]])
    return crop(padded, size, draws[:, :2])


def shift_and_flip(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """CIFAR: AngularGrad, section 6.2.2, note 4; AdaNorm, section 4."""
    return flip(shift(images, size, draws), draws[:, 2])


def resize_and_flip(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """AngularGrad, section 6.2.3, note 5: mini-ImageNet from 84 to 224 pixels."""
    return flip(resize(images, size), draws[:, 2])


def resized_crop(image: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """A crop of 8 to 100 percent of the area of one image, sides 3:4 to 4:3, resized.

    Szegedy et al. 2015, section 6. A side longer than the image's is cut.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    area = tf.reduce_prod(sides) * (0.08 + 0.92 * draws[3])
    ratio = (3 / 4) ** (2 * draws[4] - 1)  # even in its logarithm
    extent = tf.minimum(tf.round(tf.sqrt([area * ratio, area / ratio])), sides)
    begin = tf.floor(draws[:2] * (sides - extent + 1))
    (top, left), (height, width) = (
        tf.unstack(tf.cast(pixels, tf.int32)) for pixels in (begin, extent)
    )
    return resize(image[top : top + height, left : left + width], size)


def resized_crop_and_flip(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """ImageNet as usual for residual networks; GAF, III-C, prints validation only."""
    cropped = tf.map_fn(
        lambda pair: resized_crop(pair[0], size, pair[1]),
        (images, draws),
        fn_output_signature=tf.TensorSpec((size, size, images.shape[-1])),
    )
    return flip(cropped, draws[:, 2])


def single_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """GAF, section III-C: one crop of 224x224; of a shorter side of 256 (He et al.)."""
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    shorter = round(size * 256 / 224)
    sides = tf.cast(tf.round(sides * shorter / tf.reduce_min(sides)), tf.int32)
    return central_crop(tf.image.resize(images, sides, antialias=True), size)


def fine_grained(images: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """AngularGrad, section 6.2.4, note 6: resize, flip, brightness, contrast, crop.

    Both change by up to a fifth, as in the code released with the paper.
    """
    images = resize_and_flip(images, before_crop(size), draws)
    brightness, contrast = tf.unstack(0.8 + 0.4 * draws[:, 3:5, None, None, None], 2, 1)
    images = images * brightness
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = tf.clip_by_value((images - mean) * contrast + mean, 0.0, 255.0)
    return crop(images, size, draws[:, :2])


def fine_grained_crop(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of the resized images, as in the code released with AngularGrad."""
    return central_crop(resize(images, before_crop(size)), size)


def before_crop(size: int) -> int:
    """The size from which `fine_grained` crops: 512 for 448."""
    return round(size * 512 / 448)


PREPROCESSINGS = {
    "cifar": Preprocessing(shift_and_flip, resize),
    "shift": Preprocessing(shift, resize),
    "resize": Preprocessing(resize_and_flip, resize),
    "imagenet": Preprocessing(resized_crop_and_flip, single_crop, 224 / 256, False),
    "fine_grained": Preprocessing(fine_grained, fine_grained_crop, 448 / 512),
}
