"""The 1,797 handwritten digits that scikit-learn ships, as a TFDS builder.

They need no network, and take the path of every TFDS data set: `download_and_prepare`
writes tfrecord files, which `as_dataset` reads.
"""

import numpy as np
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 grey-level images of handwritten digits, in 10 classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Optical recognition of handwritten digits (test set of the "
            "UCI data set), grey levels 0-16 stretched to 0-240.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        indices = np.arange(len(digits.target))
        train, test = train_test_split(
            indices, test_size=360, stratify=digits.target, random_state=0
        )
        return {
            "train": self._generate_examples(digits, train),
            "test": self._generate_examples(digits, test),
        }

    def _generate_examples(self, digits, indices):
        for index in indices:
            image = (digits.images[index] * 15).astype("uint8")[..., None]
            yield int(index), {"image": image, "label": int(digits.target[index])}
