"""
Title: Images per second of the input pipeline
Description: What examples/datasets delivers without a network to train.

    python benchmarks/input_pipeline.py            # the table, and the CSV

The data sets hold noise of the real shape, written as TFDS writes it (PNG or JPEG in
TFRecords), so that decoding and reading take what they take. Each row is timed over
whole epochs: the first, which reads and decodes, and later ones, from the cache where
the data set fits. Rows are interleaved; the table shows medians and ranges.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import numpy as np
import tensorflow_datasets as tfds
from measurements import environment, write_csv
from training.datasets import load, training_batches

# name: images, shape, encoding, size for the network, preprocessing
ROWS = {
    "cifar": (20_000, (32, 32, 3), "png", 32, "cifar"),
    "grey": (20_000, (28, 28, 1), "png", 28, "shift"),
    "imagenet": (600, (375, 500, 3), "jpeg", 224, "imagenet"),
    "fine_grained": (300, (480, 640, 3), "jpeg", 448, "fine_grained"),
}
EPOCHS = 4


class Noise(tfds.core.GeneratorBasedBuilder):
    """Smooth noise: photographs compress no worse."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent  # TFDS looks there for a description
    BUILDER_CONFIGS = [  # noqa: RUF012 (as TFDS wants it)
        tfds.core.BuilderConfig(name=name) for name in ROWS
    ]

    def _info(self):
        _, shape, encoding, _, _ = ROWS[self.builder_config.name]
        fixed = encoding == "png"
        image = tfds.features.Image(
            shape=shape if fixed else (None, None, 3), encoding_format=encoding
        )
        label = tfds.features.ClassLabel(num_classes=10)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
        )

    def _split_generators(self, dl_manager):
        count, *_ = ROWS[self.builder_config.name]
        counts = {"train": count, "test": 100}
        return {split: self._generate_examples(n) for split, n in counts.items()}

    def _generate_examples(self, count):
        _, (height, width, channels), *_ = ROWS[self.builder_config.name]
        random = np.random.default_rng(0)
        coarse = (-(-height // 4), -(-width // 4), channels)
        for index in range(count):
            image = random.integers(0, 256, coarse, np.uint8).repeat(4, 0).repeat(4, 1)
            yield index, {"image": image[:height, :width], "label": index % 10}


def seconds_of_epochs(name, folder, batch_size):
    """Seconds of each epoch, and its images."""
    _, _, _, size, preprocessing = ROWS[name]
    data = load(
        f"noise/{name}", data_dir=folder, image_size=size, preprocessing=preprocessing
    )
    batches, steps = training_batches(data, batch_size, seed=0, epochs=EPOCHS)
    found, begin = [], time.perf_counter()
    for number, _ in enumerate(batches, 1):
        if number % steps == 0:
            found.append(time.perf_counter() - begin)
            begin = time.perf_counter()
    return found, steps * batch_size


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--repeats", type=int, default=3)
    make.add_argument("--batch-size", type=int, default=128)
    make.add_argument("--csv", type=Path, help="where to write each measurement")
    args = make.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ROWS:
            tfds.builder(f"noise/{name}", data_dir=folder).download_and_prepare()
        for repeat in range(args.repeats):
            for name in ROWS:
                batch_size = args.batch_size if ROWS[name][2] == "png" else 32
                seconds, images = seconds_of_epochs(name, folder, batch_size)
                print(f"{repeat + 1}/{args.repeats} {name}: {seconds}", flush=True)
                rows += [
                    {
                        "data": name,
                        "repeat": repeat,
                        "epoch": epoch,
                        "images_per_second": round(images / taken, 1),
                    }
                    for epoch, taken in enumerate(seconds)
                ]
    write_csv(args.csv, rows)
    print(f"{environment('tensorflow', 'tensorflow-datasets')}\n")
    print("| images | first epoch, images/s | later epochs, images/s (range) |")
    print("|---|---|---|")
    for name, (_, shape, encoding, size, _) in ROWS.items():
        mine = [row for row in rows if row["data"] == name]
        first, later = (
            [r["images_per_second"] for r in mine if (r["epoch"] > 0) == is_later]
            for is_later in (False, True)
        )
        shown = f"{shape[0]}x{shape[1]} {encoding} to {size}, {name}"
        print(
            f"| {shown} | {np.median(first):,.0f} | {np.median(later):,.0f} "
            f"({min(later):,.0f}-{max(later):,.0f}) |"
        )


if __name__ == "__main__":
    main()
