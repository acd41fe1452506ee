"""What a detector's run leaves beside curves: pictures with boxes, a SavedModel."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from training.detection.boxes import detections
from training.detection.evaluation import Evaluation, Found
from training.run_files import RunError

COLORS = [f"C{number}" for number in range(10)]


def draw_boxes(
    axis: Any,
    image: np.ndarray,
    found: Found,
    class_names: Sequence[str],
    *,
    truth: np.ndarray | None = None,
    score: float = 0.5,
) -> None:
    """Draws an image with the boxes of at least that score; the true ones are dashed.

    Args:
        axis: of matplotlib.
        image: `(height, width, 3)`, pixels 0-255.
        found: see `evaluation.find`.
        class_names: a name for each class.
        truth: a row for each object: box and class from 1.
        score: the lowest that is drawn.
    """
    height, width = image.shape[:2]
    axis.imshow(np.clip(image, 0, 255).astype("uint8"), extent=(0, width, height, 0))
    axis.axis("off")

    def outline(box, **how):
        top, left, bottom, right = box * [height, width, height, width]
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, **how)
        )
        return left, top

    for row in () if truth is None else truth:
        outline(row[:4], color="black", linestyle=":", linewidth=1)
    for box, label, share in zip(found["boxes"], found["classes"], found["scores"]):
        if share >= score:
            color = COLORS[label % len(COLORS)]
            place = outline(box, color=color, linewidth=1.2)
            axis.text(
                *place,
                f"{class_names[label]} {share:.2f}",
                size=5,
                va="bottom",
                color="white",
                bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6},
            )


def plot_found(
    evaluation: Evaluation,
    batches: Iterable[tuple[Any, Any]],
    truth: list[np.ndarray],
    path: Path,
    count: int = 12,
) -> None:
    """Draws the first images with what was found and what is there."""
    images = [image for batch, _ in batches for image in np.asarray(batch)][:count]
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.4 * rows + 0.5), layout="constrained")
    figure.suptitle(
        f"AP50 {evaluation.metrics['AP50']:.1%}; boxes of a score from 0.5, true ones "
        "dotted"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, found, objects in zip(axes, images, evaluation.found, truth):
        draw_boxes(axis, image, found, evaluation.class_names, truth=objects)
    figure.savefig(path, dpi=130)


def plot_precision(evaluation: Evaluation, path: Path) -> None:
    """Draws precision over recall of each class (of up to 20), at the overlap 0.5."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    recall = np.linspace(0, 1, evaluation.precision.shape[1])
    for name, row, ap in zip(
        evaluation.class_names[:20], evaluation.precision, evaluation.ap50
    ):
        if np.isfinite(ap):
            axis.plot(recall, row, label=f"{name}: {ap:.1%}")
    axis.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    axis.set_title(f"overlap 0.5: mean AP {evaluation.metrics['AP50']:.1%}")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def export(
    model: keras.Model,
    path: Path,
    batches: Iterable[tuple[Any, Any]],
    class_names: Sequence[str],
    defaults: np.ndarray,
) -> float:
    """Exports a SavedModel from images to boxes, loads it back and compares.

    Its `serve` takes pixels 0-255 and gives what `detections` does. `classes.json` in
    its folder is what `predict.py` needs.

    Returns:
        The largest difference of the network's output, before decoding.

    Raises:
        RunError: if TensorFlow cannot write, or if it is above 1e-3 (in half precision,
            which a graph rounds elsewhere, 0.1): an offset of 1 is a tenth of a side.
    """
    shutil.rmtree(path, ignore_errors=True)  # of an earlier run, or half written
    shape = model.input_shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.export(folder, verbose=False)
            whole = tf.Module()
            whole.network = tf.saved_model.load(folder)

            @tf.function(input_signature=[tf.TensorSpec((None, *shape), name="images")])
            def serve(images):
                return detections(whole.network.serve(images), defaults)

            whole.serve = serve
            tf.saved_model.save(whole, str(path), signatures=serve)
        except tf.errors.OpError as error:  # a full disk, for instance
            raise RunError(f"there is no SavedModel: {error.message}") from error
    served = tf.saved_model.load(str(path))
    difference = 0.0
    for images, _ in batches:
        expected = keras.ops.convert_to_numpy(model(np.asarray(images), training=False))
        off = np.abs(expected - served.network.serve(images))
        difference = float(np.maximum(difference, off.max()))  # keeps NaN
    allowed = 1e-3 if model.compute_dtype == "float32" else 0.1
    if not difference <= allowed:
        raise RunError(
            f"The SavedModel in {path} predicts something else than the model: offsets "
            f"or logits are off by up to {difference:.2g}"
        )
    about = {
        "task": "detection",
        "class_names": list(class_names),
        "input_shape": shape,
        "pixels": "float32, 0 to 255, RGB",
        "crop": 1.0,
        "square": True,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False)
    Path(path, "classes.json").write_text(text + "\n", encoding="utf-8")
    return difference
