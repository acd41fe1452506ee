"""A folder in the form of PASCAL VOC as a TFDS builder, with the features of `voc`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tensorflow_datasets as tfds
from predict import SUFFIXES

from training.datasets import manual
from training.datasets.preparing import DatasetError, prepare

FORM = (
    "The folder must have Annotations/ (XML), JPEGImages/, and lists of images in "
    "ImageSets/Main: trainval.txt or train.txt, and test.txt or val.txt."
)
CORNERS = ("ymin", "xmin", "ymax", "xmax")


@dataclass(frozen=True)
class Box:
    """An object: name of its class, `CORNERS` in pixels, whether it is difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False


@dataclass(frozen=True)
class Annotated:
    """An image with its height and width by the annotation, and the objects in it."""

    path: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...]


@dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """What a folder holds; the name changes with it."""

    class_names: tuple[str, ...] = ()
    training: tuple[Annotated, ...] = ()
    held_out: tuple[Annotated, ...] = ()


class VocFolder(tfds.core.GeneratorBasedBuilder):
    """Images with boxes from a folder: made by `voc_folder`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        names = list(self.builder_config.class_names)
        return self.dataset_info_from_configs(
            description="Images with boxes, from a folder in the form of PASCAL VOC.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "image/filename": tfds.features.Text(),
                    "objects": tfds.features.Sequence(
                        {
                            "label": tfds.features.ClassLabel(names=names),
                            "bbox": tfds.features.BBoxFeature(),
                            "is_difficult": tfds.features.Scalar(np.bool_),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        config = self.builder_config
        return {"train": examples(config.training), "test": examples(config.held_out)}

    def _generate_examples(self):
        """Not called: the splits above are generators."""


def examples(images: tuple[Annotated, ...]):
    """What the builder yields, once TensorFlow has read the image."""
    for image in images:
        height, width = image.size
        if (found := tuple(manual.decoded(image.path).shape[:2])) != image.size:
            raise DatasetError(
                f"{image.path} is {found[1]} x {found[0]} pixels large, but its "
                f"annotation says {width} x {height}"
            )
        objects = [
            {
                "label": box.name,
                "bbox": tfds.features.BBox(
                    *(c / s for c, s in zip(box.corners, (height, width) * 2))
                ),
                "is_difficult": box.difficult,
            }
            for box in image.boxes
        ]
        yield (
            image.path.stem,
            {
                "image": image.path,
                "image/filename": image.path.name,
                "objects": objects,
            },
        )


def voc_folder(
    root: Path, data_dir: str | None = None, repair: bool = False
) -> tfds.core.DatasetBuilder:
    """The builder of a folder, prepared; again, if a file of the folder has changed.

    Args:
        root: Has `Annotations`, `JPEGImages` and `ImageSets/Main`, whose `trainval.txt`
            (or `train.txt`) is trained on; `test.txt` (or `val.txt`) is held out.
        data_dir: Where TFDS keeps data sets. Default: `~/tensorflow_datasets`.
        repair: Whether boxes beyond their image are cut, and boxes without area and
            images without boxes left out, and each said. Default: they are errors.

    Raises:
        DatasetError: In one sentence, before anything is written.
    """
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}. {FORM}")
    training, held_out = (annotated(root, names) for names in listed(root))
    class_names = sorted({box.name for image in training for box in image.boxes})
    for image in held_out:
        for box in image.boxes:
            if box.name not in class_names:
                raise DatasetError(
                    f"{image.path.stem}.xml has the unknown class {box.name!r}; the "
                    f"images to train on have {', '.join(class_names)}"
                )
    faults: list[str] = []
    training, held_out = (mended(images, faults) for images in (training, held_out))
    if faults and not repair:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DatasetError(
            f"{'; '.join(faults[:5])}{more}. --faults repair cuts boxes at the edge of "
            "the image, and leaves out boxes without area and images without boxes"
        )
    for fault in faults:
        print(f"Repaired: {fault}.")
    if not (training and held_out):
        raise DatasetError(f"{root} has no images with boxes to train and test on")
    content = hashlib.sha256(repr((training, held_out)).encode())
    for image in (*training, *held_out):
        stat = image.path.stat()
        content.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    config = FolderConfig(
        name=f"{root.resolve().name}-{content.hexdigest()[:12]}",
        class_names=tuple(class_names),
        training=training,
        held_out=held_out,
    )
    builder = VocFolder(config=config, data_dir=data_dir)
    if not builder.is_prepared():
        prepare(builder, builder.name)
    return builder


def listed(root: Path) -> list[list[str]]:
    """The names of the images to train on, and of those held out."""
    folder, found = root / "ImageSets" / "Main", []
    tested = (folder / "test.txt").is_file()  # else val is held out, and not in train
    for choices in (("trainval", "train") if tested else ("train",), ("test", "val")):
        paths = [folder / f"{name}.txt" for name in choices]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise DatasetError(f"{folder} has no {choices[0]}.txt. {FORM}")
        found.append([line.split()[0] for line in manual.lines(path)])
    if both := sorted(set(found[0]) & set(found[1])):
        raise DatasetError(
            f"{both[0]} is in the list to train on and in the one held out ({len(both)}"
            " such)"
        )
    return found


def annotated(root: Path, names: list[str]) -> tuple[Annotated, ...]:
    """The images of these names, with what their annotations say."""
    folder = root / "JPEGImages"
    paths = {p.stem: p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES}
    found = []
    for name in names:
        if name not in paths:
            raise DatasetError(f"{folder / name}.jpg is listed, but missing")
        found.append(read_annotation(root / "Annotations" / f"{name}.xml", paths[name]))
    return tuple(found)


def read_annotation(path: Path, image: Path) -> Annotated:
    """One annotation.

    Raises:
        DatasetError: if it is missing, no XML, or lacks what it must have.
    """
    try:
        tree = ElementTree.parse(path)
        size = tuple(int(tree.findtext(f"size/{side}")) for side in ("height", "width"))
        boxes = tuple(
            Box(
                item.findtext("name").strip(),
                tuple(float(item.findtext(f"bndbox/{side}")) for side in CORNERS),
                (item.findtext("difficult") or "0").strip() == "1",
            )
            for item in tree.iter("object")
        )
    except OSError:
        raise DatasetError(f"{path} is missing: the annotation of {image}") from None
    except ElementTree.ParseError as error:
        raise DatasetError(f"{path} is no XML: {error}") from None
    except (AttributeError, TypeError, ValueError):
        raise DatasetError(
            f"{path} must have the size of the image, and of each object the name and "
            f"the numbers {', '.join(CORNERS)}"
        ) from None
    return Annotated(image, size, boxes)


def mended(images: tuple[Annotated, ...], faults: list[str]) -> tuple[Annotated, ...]:
    """The images without what is wrong with their boxes, which is added to `faults`."""
    found = []
    for image in images:
        height, width = image.size
        boxes, where = [], f"{image.path.stem}.xml"
        for box in image.boxes:
            what = f"{where}: the box of {box.name} at {_shown(box)}"
            top, left, bottom, right = box.corners
            inside = (
                min(max(top, 0.0), height), min(max(left, 0.0), width),
                min(max(bottom, 0.0), height), min(max(right, 0.0), width),
            )  # fmt: skip
            if not (top < bottom and left < right):  # NaN, too
                faults.append(f"{what} has no area")
            elif inside == box.corners:
                boxes.append(box)
            else:
                faults.append(f"{what} reaches beyond the {width} x {height} pixels")
                if inside[0] < inside[2] and inside[1] < inside[3]:
                    boxes.append(Box(box.name, inside, box.difficult))
        if boxes:
            found.append(Annotated(image.path, image.size, tuple(boxes)))
        else:
            faults.append(f"{where} has no boxes")
    return tuple(found)


def _shown(box):
    top, left, bottom, right = (f"{corner:g}" for corner in box.corners)
    return f"({left}, {top})-({right}, {bottom})"
