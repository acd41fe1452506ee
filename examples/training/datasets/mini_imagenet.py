"""mini-ImageNet (Vinyals et al. 2016) as a TFDS builder, from files of the user's."""

from pathlib import Path

import tensorflow_datasets as tfds

from training.datasets import manual
from training.datasets.preparing import DatasetError


class MiniImagenet(tfds.core.GeneratorBasedBuilder):
    """Images of 100 classes: of each, 500 to train on and 100 to test, at random.

    AngularGrad, section 6.2.3. The published lists (Ravi & Larochelle 2017) hold out
    classes, not images, so they are joined and split anew, always alike.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The folder mini-imagenet has images/ and the lists of Ravi & Larochelle 2017
    (train.csv, val.csv and test.csv with the columns filename and label).
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="A part of ImageNet, 600 images a class.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=100),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/twitter-research/meta-learning-lstm",
        )

    def _split_generators(self, dl_manager):
        root = manual.root_folder(Path(dl_manager.manual_dir) / "mini-imagenet")
        examples = []
        for part in ("train", "val", "test"):
            path = root / f"{part}.csv"
            for line in manual.lines(path)[1:]:
                filename, comma, label = line.partition(",")
                if not comma or not label or "," in label:
                    raise DatasetError(f"{path}: {line!r} is no filename,label")
                examples.append((root / "images" / filename, label))
        names = manual.require_classes((label for _, label in examples), 100, root)
        self.info.features["label"].names = names
        training, test = manual.draw(examples, dict.fromkeys(names, (500, 100)))
        return {"train": manual.readable(training), "test": manual.readable(test)}

    def _generate_examples(self):
        """Not called: the splits above are generators."""
