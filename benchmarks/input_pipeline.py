"""
Title: Images per second of the input pipeline
Description: What examples/training/datasets delivers without a network to train.

    python benchmarks/input_pipeline.py            # the table, and the CSV
    python benchmarks/input_pipeline.py --data-dir DIR --real cifar10:cifar:32

The data sets hold noise of the real shape, written as TFDS writes it (PNG or JPEG in
TFRecords), so that decoding and reading take what they take. Each row is timed over
whole epochs: the first, which reads and decodes, and later ones, from the cache where
the data set fits. Rows are interleaved; the table shows medians and ranges.

`--real` takes data sets that are there, as `NAME:PREPROCESSING:SIZE`, and times each
three times over: read and decoded alone, resized, and augmented. So the difference of
two rows is what the stage between them takes.
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


def seconds_of_epochs(data, batch_size, augment=True, epochs=EPOCHS):
    """Seconds of each epoch, and its images."""
    batches, steps = training_batches(
        data, batch_size, seed=0, epochs=epochs, augment=augment
    )
    found, begin = [], time.perf_counter()
    for number, _ in enumerate(batches, 1):
        if number % steps == 0:
            found.append(time.perf_counter() - begin)
            begin = time.perf_counter()
    return found, steps * batch_size


def rows_of(seconds, images, **about):
    """Rows of the CSV, one for each epoch."""
    return [
        {**about, "epoch": epoch, "images_per_second": round(images / taken, 1)}
        for epoch, taken in enumerate(seconds)
    ]


def seconds_to_decode(data, batch_size):
    """Seconds to read and decode all training images once, and their number."""
    begin = time.perf_counter()
    for _ in data.train.ragged_batch(batch_size):
        pass
    return [time.perf_counter() - begin], data.train_size


STAGES = {
    "read and decoded": seconds_to_decode,
    "resized": lambda data, size: seconds_of_epochs(data, size, False, 2),
    "augmented": lambda data, size: seconds_of_epochs(data, size, True, 2),
}


def real_rows(args):
    """Every measurement of the data sets that `--real` names; prints their table."""
    rows = []
    for repeat in range(args.repeats):
        for spec in args.real:
            name, preprocessing, size = spec.rsplit(":", 2)
            shown = Path(name).name
            for stage, measured in STAGES.items():
                data = load(
                    name, data_dir=args.data_dir, image_size=int(size),
                    preprocessing=preprocessing, limit=args.limit,
                )  # fmt: skip
                seconds, images = measured(data, 32 if int(size) > 100 else 128)
                print(f"{repeat + 1}/{args.repeats} {shown}, {stage}: {seconds}")
                rows += rows_of(
                    seconds, images, data=shown, preprocessing=preprocessing, size=size,
                    stage=stage, repeat=repeat,
                )  # fmt: skip
    write_csv(args.csv, rows)
    print(f"{environment('tensorflow', 'tensorflow-datasets')}\n")
    print("| images | " + " | ".join(STAGES) + ", first epoch | a later one |")
    print("|---|---|---|---|---|")
    for spec in args.real:
        name, preprocessing, size = spec.rsplit(":", 2)
        cells = []
        for stage, epoch in [*((stage, 0) for stage in STAGES), ("augmented", 1)]:
            rates = [
                row["images_per_second"]
                for row in rows
                if (row["data"], row["stage"]) == (Path(name).name, stage)
                and (row["size"], row["epoch"]) == (size, epoch)
            ]
            cells.append(
                f"{np.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
            )
        print(f"| {Path(name).name} to {size}, {preprocessing} | {' | '.join(cells)} |")


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--repeats", type=int, default=3)
    make.add_argument("--batch-size", type=int, default=128)
    make.add_argument("--csv", type=Path, help="where to write each measurement")
    make.add_argument(
        "--real", nargs="+", metavar="NAME:PREPROCESSING:SIZE",
        help="data sets of TFDS, or folder:PATH, instead of noise",
    )  # fmt: skip
    make.add_argument("--data-dir", help="where TFDS keeps those")
    make.add_argument("--limit", type=int, help="images of each split of those")
    args = make.parse_args()
    if args.real:
        real_rows(args)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ROWS:
            tfds.builder(f"noise/{name}", data_dir=folder).download_and_prepare()
        for repeat in range(args.repeats):
            for name in ROWS:
                _, _, encoding, size, preprocessing = ROWS[name]
                data = load(
                    f"noise/{name}", data_dir=folder, image_size=size,
                    preprocessing=preprocessing,
                )  # fmt: skip
                batch_size = args.batch_size if encoding == "png" else 32
                seconds, images = seconds_of_epochs(data, batch_size)
                print(f"{repeat + 1}/{args.repeats} {name}: {seconds}", flush=True)
                rows += rows_of(seconds, images, data=name, repeat=repeat)
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
