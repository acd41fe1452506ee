"""
Title: Classify image files, or find objects in them, with an exported model
Description: The SavedModel of a training run, with TensorFlow alone.

    python examples/predict.py runs/latest/saved_model image.png
    python examples/predict.py runs/latest/saved_model photos/ "more/*.jpg" --json
    python examples/predict.py runs/detector/saved_model photos/ --draw boxes/

Images are PNG, JPEG, GIF (the first frame) or BMP. They are resized and the center is
cut out as in validation, which `classes.json` in the model's folder describes.
"""

import argparse
import glob
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp"}
BATCH = 32

"""
## Images
"""


def find_images(names: list[str]) -> list[Path]:
    """The files of these names: files, folders and glob patterns.

    Raises:
        FileNotFoundError: if there are none for a name.
    """
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
        elif path.exists():
            files = [path]
        else:
            files = [Path(file) for file in glob.glob(name, recursive=True)]
            files = [file for file in files if file.is_file()]
        if not files:
            raise FileNotFoundError(f"There are no images at {name}")
        found += sorted(files)
    return list(dict.fromkeys(found))


def has_palette(content: bytes) -> bool:
    """Whether this is a BMP whose pixels TensorFlow mistakes for grey levels."""
    if not content.startswith(b"BM") or content[28:30] != b"\x08\0":
        return False
    begin = 14 + int.from_bytes(content[14:18], "little")
    end = int.from_bytes(content[10:14], "little")
    grey = b"".join(bytes((level, level, level, 0)) for level in range(256))
    return content[begin:end] != grey[: end - begin]


def read_image(path: Path, channels: int) -> tf.Tensor:
    """The float32 image `(height, width, channels)`, pixels 0-255.

    Args:
        path: of a PNG, JPEG, GIF or BMP.
        channels: 1 or 3.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not an image that TensorFlow reads.
    """
    content = path.read_bytes()
    if has_palette(content):
        raise ValueError(f"{path} is a BMP with a colour palette; save it as PNG")
    try:
        # only of PNG and JPEG does TensorFlow convert the channels
        as_it_is = content.startswith((b"GIF", b"BM"))
        image = tf.io.decode_image(
            content, channels=0 if as_it_is else channels, expand_animations=False
        )
    except tf.errors.InvalidArgumentError:
        raise ValueError(
            f"TensorFlow cannot read {path} as PNG, JPEG, GIF or BMP"
        ) from None
    image = tf.cast(image, tf.float32)[..., :3]  # without transparency
    if image.shape[-1] > channels:
        image = tf.image.rgb_to_grayscale(image)
    if image.shape[-1] < channels:
        image = tf.image.grayscale_to_rgb(image)
    return image


def fit(
    image: tf.Tensor, input_shape: list[int], crop: float, square: bool
) -> tf.Tensor:
    """The image as the model wants it.

    Args:
        image: of any height and width.
        input_shape: height, width, channels.
        crop: share of the shorter side that the center crop keeps.
        square: whether the image is made square first, whatever its shape; else it
            keeps its shape until it is cropped.
    """
    height, width, _ = input_shape
    if square:
        size = [round(side / crop) for side in (height, width)]
    else:
        scale = max(height / image.shape[0], width / image.shape[1]) / crop
        size = [round(side * scale) for side in image.shape[:2]]
    image = tf.image.resize(image, size, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[top : top + height, left : left + width]


"""
## The model
"""


def load(path: str) -> tuple[tf.Module, dict]:
    """The SavedModel and the `classes.json` in its folder.

    Raises:
        ValueError: if one of them is missing or damaged, or not of the other.
    """
    try:
        about = json.loads(Path(path, "classes.json").read_text(encoding="utf-8"))
        names, shape = list(map(str, about["class_names"])), about["input_shape"]
        if not (0 < about["crop"] <= 1 and isinstance(about["square"], bool)):
            raise ValueError("its classes.json has a wrong crop or square")
        model = tf.saved_model.load(path)
        shares = model.serve(tf.zeros((1, *shape)))
        if about.get("task") == "detection":
            if set(shares) != {"boxes", "scores", "classes", "count"}:
                raise ValueError("it does not give boxes")
        elif shares.shape != (1, len(names)):
            raise ValueError(f"{shares.shape[-1]} classes, but {len(names)} names")
    except Exception as error:  # TensorFlow has many for a damaged one
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not an exported model: {reason}") from None
    return model, about


def classify(shares: np.ndarray, names: list[str], top: int) -> list[dict]:
    """The classes of one image of the highest probability."""
    best = np.argsort(-shares, kind="stable")[:top]
    return [{"class": names[i], "probability": float(shares[i])} for i in best]


def find_objects(
    found: dict[str, np.ndarray], names: list[str], size: tuple[int, int], score: float
) -> list[dict]:
    """The objects in one image, their corners in its pixels.

    Args:
        found: what the model gives for the image.
        names: of the classes.
        size: height and width of the image.
        score: the lowest that counts.
    """
    count = int(np.sum(found["scores"][: found["count"]] >= score))
    corners = found["boxes"][:count] * [*size, *size]
    return [
        {
            "class": names[label],
            "score": float(share),
            "box": dict(zip(("top", "left", "bottom", "right"), map(float, box))),
        }
        for box, label, share in zip(corners, found["classes"], found["scores"])
    ]


def draw(image: np.ndarray, objects: list[dict], path: Path) -> None:
    """Writes a picture of the image with the objects in it."""
    from PIL import Image, ImageDraw  # only this needs it

    picture = Image.fromarray(np.clip(image, 0, 255).astype("uint8").squeeze())
    picture = picture.convert("RGB")
    pen, wide = ImageDraw.Draw(picture), max(1, max(picture.size) // 300)
    for item in objects:
        top, left, bottom, right = item["box"].values()
        color = f"hsl({sum(map(ord, item['class'])) * 47 % 360}, 90%, 40%)"
        pen.rectangle((left, top, right, bottom), outline=color, width=wide)
        text = f"{item['class']} {item['score']:.2f}"
        pen.rectangle(pen.textbbox((left, top), text), fill=color)
        pen.text((left, top), text, fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


"""
## The run
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saved_model", metavar="SAVED_MODEL")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder or glob pattern"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes shown (default: 5)"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, metavar="X",
        help="lowest score of an object (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--draw", type=Path, metavar="FOLDER", help="pictures with the objects' boxes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    if parsed.top < 1:
        parser.error("--top must be at least 1")
    if not 0 <= parsed.score <= 1:
        parser.error("--score must be from 0 to 1")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    try:
        paths = find_images(args.images)
        model, about = load(args.saved_model)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    names, detects = about["class_names"], about.get("task") == "detection"
    if args.draw and not detects:
        print("--draw needs a model that finds objects", file=sys.stderr)
        sys.exit(2)
    results, failed = [], False
    for begin in range(0, len(paths), BATCH):
        originals = {}
        for path in paths[begin : begin + BATCH]:
            try:
                originals[path] = read_image(path, about["input_shape"][-1])
            except (OSError, ValueError) as error:
                print(error, file=sys.stderr)
                failed = True
        if not originals:
            continue
        how = about["input_shape"], about["crop"], about["square"]
        served = model.serve(tf.stack([fit(i, *how) for i in originals.values()]))
        for index, (path, original) in enumerate(originals.items()):
            if detects:
                one = {name: value[index].numpy() for name, value in served.items()}
                size = tuple(original.shape[:2])
                objects = find_objects(one, names, size, args.score)
                results.append({"file": str(path), "objects": objects})
                if args.draw:
                    picture = args.draw / f"{len(results)}-{path.stem}.png"
                    draw(original.numpy(), objects, picture)
                lines = [
                    "{score:9.2%}  {class}  ".format(**item)
                    + " ".join(f"{n} {v:.0f}" for n, v in item["box"].items())
                    for item in objects
                ]
            else:
                predictions = classify(served[index].numpy(), names, args.top)
                results.append({"file": str(path), "predictions": predictions})
                lines = ["{probability:9.2%}  {class}".format(**p) for p in predictions]
            if not args.json:
                print(path, *lines, sep="\n")
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    main()
