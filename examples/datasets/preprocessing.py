"""What happens to an image on its way to the network.

Each preprocessing has two functions: `train(image, size, key)`, whose randomness is a
function of `key` alone, and `evaluate(image, size)`, which has none. Images are float32
of 0 to 255 throughout; the networks normalize them inside.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Preprocessing:
    """The function for training images and the one for validation images."""

    train: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]
    evaluate: Callable[[tf.Tensor, int], tf.Tensor]


def keys(key: tf.Tensor, number: int) -> list[tf.Tensor]:
    """Independent random keys made from one."""
    return tf.unstack(tf.random.experimental.stateless_split(key, number))


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """A square image, whatever the shape was."""
    return tf.image.resize(image, (size, size), antialias=True)


def resize_and_flip(image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """AngularGrad, section 6.2.3, note 5: mini-ImageNet from 84 to 224 pixels."""
    return tf.image.stateless_random_flip_left_right(resize(image, size), key)


def shift(image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """A random crop after padding by an eighth (of 32 pixels, 4), without a flip.

    For digits, house numbers and clothes: the crop of `crop_and_flip`.
    """
    by = size // 8
    padded = tf.pad(resize(image, size), [[by, by], [by, by], [0, 0]])
    return tf.image.stateless_random_crop(padded, (size, size, image.shape[-1]), key)


def crop_and_flip(image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """CIFAR: AngularGrad, section 6.2.2, note 4; AdaNorm, section 4."""
    crop_key, flip_key = keys(key, 2)
    cropped = shift(image, size, crop_key)
    return tf.image.stateless_random_flip_left_right(cropped, flip_key)


def central_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of an image at least that large."""
    height, width = tf.unstack(tf.shape(image)[:2])
    top, left = (height - size) // 2, (width - size) // 2
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def resized_crop_and_flip(image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """ImageNet: a crop of 8 to 100 percent of the area, sides 3:4 to 4:3, and a flip.

    From Szegedy et al. 2015, section 6, as usual for the residual networks of GAF,
    section III-C, which prints the crop of validation only.
    """
    crop_key, flip_key = keys(key, 2)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        crop_key,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
    )
    cropped = tf.slice(image, begin, extent)
    return resize_and_flip(cropped, size, flip_key)


def single_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """GAF, section III-C: one crop of 224x224; of a shorter side of 256 (He et al.)."""
    shape = tf.shape(image)
    sides = tf.cast(shape[:2], tf.float32)
    shorter = round(size * 256 / 224)
    sides = tf.round(sides * shorter / tf.reduce_min(sides))
    resized = tf.image.resize(image, tf.cast(sides, tf.int32), antialias=True)
    return central_crop(resized, size)


def fine_grained_size(size: int) -> int:
    """What images are resized to before a crop: 512 for 448."""
    return round(size * 512 / 448)


def fine_grained(image: tf.Tensor, size: int, key: tf.Tensor) -> tf.Tensor:
    """AngularGrad, section 6.2.4, note 6: resize, flip, brightness, contrast, crop.

    Both change by up to a fifth, as in the code released with the paper.
    """
    flip_key, brightness_key, contrast_key, crop_key = keys(key, 4)
    image = resize_and_flip(image, fine_grained_size(size), flip_key)
    image *= tf.random.stateless_uniform([], brightness_key, 0.8, 1.2)
    image = tf.image.stateless_random_contrast(image, 0.8, 1.2, contrast_key)
    image = tf.clip_by_value(image, 0.0, 255.0)
    return tf.image.stateless_random_crop(image, (size, size, image.shape[-1]), crop_key)


def fine_grained_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of the resized image, as in the code released with AngularGrad."""
    return central_crop(resize(image, fine_grained_size(size)), size)


PREPROCESSINGS = {
    "cifar": Preprocessing(crop_and_flip, resize),
    "shift": Preprocessing(shift, resize),
    "resize": Preprocessing(resize_and_flip, resize),
    "imagenet": Preprocessing(resized_crop_and_flip, single_crop),
    "fine_grained": Preprocessing(fine_grained, fine_grained_crop),
}
