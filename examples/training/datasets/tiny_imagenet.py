"""Tiny ImageNet (Stanford CS 231N) as a TFDS builder, from files of the user's."""

from pathlib import Path

import tensorflow_datasets as tfds


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """64x64 images in 200 classes: 100,000 to train on and 10,000 to validate."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there: the folder
    tiny-imagenet-200 has wnids.txt, train/ and val/.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="A part of ImageNet, 500 training and 50 validation images a "
            "class. Its test images have no labels and are left out.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(64, 64, 3)),
                    "label": tfds.features.ClassLabel(num_classes=200),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu",
        )

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir) / "tiny-imagenet-200"
        wordnet_ids = sorted((root / "wnids.txt").read_text().split())
        self.info.features["label"].names = wordnet_ids
        training = [
            (path, path.parent.parent.name)
            for path in sorted(root.glob("train/*/images/*.JPEG"))
        ]
        lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
        validation = [
            (root / "val" / "images" / name, label)
            for name, label, *_ in (line.split("\t") for line in lines)
        ]
        return {
            "train": self._generate_examples(training),
            "validation": self._generate_examples(validation),
        }

    def _generate_examples(self, examples):
        for path, label in examples:
            yield path.name, {"image": path, "label": label}
