"""Image-classification data sets, all through TensorFlow Datasets (TFDS)."""

import tensorflow_datasets as tfds

from datasets.digits import Digits

__all__ = ["Digits", "prepared_builder"]


def prepared_builder(
    name: str, data_dir: str | None = None
) -> tfds.core.DatasetBuilder:
    """The TFDS builder of that name, ours or TFDS' own, prepared if it was not yet."""
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder
