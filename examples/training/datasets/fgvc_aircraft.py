"""FGVC-Aircraft (Maji et al. 2013) as a TFDS builder, from files of the user's."""

from pathlib import Path

import tensorflow_datasets as tfds

from training.datasets import manual
from training.datasets.preparing import DatasetError


class FgvcAircraft(tfds.core.GeneratorBasedBuilder):
    """Images of 100 variants of aircraft: 6,667 to train on, 3,333 to test.

    AngularGrad, section 6.2.4. The images are stored as they are, with the banner of
    the copyright, the lowest 20 pixels.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Unpack fgvc-aircraft-2013b.tar.gz of
    https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft there: the folder
    fgvc-aircraft-2013b/data has images/, variants.txt, images_variant_trainval.txt and
    images_variant_test.txt.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Fine-grained visual classification of aircraft: variants.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=100),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        )

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir) / "fgvc-aircraft-2013b" / "data"
        root = manual.root_folder(folder)
        variants = root / "variants.txt"
        names = manual.require_classes(manual.lines(variants), 100, variants)
        self.info.features["label"].names = names

        def examples(part):
            path = root / f"images_variant_{part}.txt"
            for line in manual.lines(path):
                number, _, variant = line.partition(" ")
                if variant not in names:
                    raise DatasetError(f"{path}: {line!r} names no variant of aircraft")
                yield root / "images" / f"{number}.jpg", variant

        return {
            "train": manual.readable(list(examples("trainval"))),
            "test": manual.readable(list(examples("test"))),
        }

    def _generate_examples(self):
        """Not called: the splits above are generators."""
