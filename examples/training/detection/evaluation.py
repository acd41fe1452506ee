"""Average precision by pycocotools, after each epoch and at the end."""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.detection.boxes import detections

Found = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the boxes found in a data set are worth.

    Attributes:
        class_names: a name for each class.
        metrics: "AP", the mean over classes and over the overlaps 0.5, 0.55, ... 0.95
            from which a box is right (COCO's); "AP50" and "AP75", at one overlap.
        objects: how many of each class there are, without the difficult ones.
        ap: of each class, NaN without objects.
        ap50: the same at the overlap 0.5.
        precision: at the overlap 0.5, `(class, recall 0, 0.01, ... 1)`.
        found: the boxes of each image.
    """

    class_names: Sequence[str]
    metrics: dict[str, float]
    objects: np.ndarray
    ap: np.ndarray
    ap50: np.ndarray
    precision: np.ndarray
    found: list[Found]


def find(
    predict: Callable[[Any], Any], batches: Iterable[tuple[Any, Any]], defaults: Any
) -> list[Found]:
    """The boxes in each image.

    Args:
        predict: from a batch of images to the network's output.
        batches: pairs of images and targets.
        defaults: the default boxes.

    Returns:
        For each image `boxes`, `scores` and `classes` (see `detections`).
    """
    found = []
    for images, _ in batches:
        results = detections(np.asarray(predict(images)), defaults)
        results = {name: value.numpy() for name, value in results.items()}
        for index, count in enumerate(results.pop("count")):
            found.append({n: value[index, :count] for n, value in results.items()})
    return found


def evaluate(
    found: list[Found], truth: list[np.ndarray], class_names: Sequence[str]
) -> Evaluation:
    """The average precision of boxes by COCO's rules.

    A box that fits a difficult object counts neither way. PASCAL VOC's own program
    differs little: it averages precision over other recalls.

    Args:
        found: the boxes of each image.
        truth: the objects of each image (see `DetectionData`).
        class_names: a name for each class.
    """
    if len(found) != len(truth):
        raise ValueError(f"{len(found)} images were looked at, not {len(truth)}")
    real = [
        (image, box[:4], int(box[4]) - 1, 1.0, int(box[5]))
        for image, objects in enumerate(truth)
        for box in objects
    ]
    guessed = [
        (image, box, int(label), float(score), 0)
        for image, result in enumerate(found)
        for box, label, score in zip(
            *(result[n] for n in ("boxes", "classes", "scores"))
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        sizes = len(truth), len(class_names)
        scorer = COCOeval(_coco(real, *sizes), _coco(guessed, *sizes), "bbox")
        scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
        scorer.params.maxDets = [100]
        scorer.evaluate()
        scorer.accumulate()
    precision = scorer.eval["precision"][:, :, :, 0, 0]  # overlap, recall, class
    counted = np.bincount(
        [label for _, _, label, _, apart in real if not apart],
        minlength=len(class_names),
    )
    precision = np.where(counted > 0, precision, np.nan)
    by_overlap = precision.mean(axis=1)
    return Evaluation(
        class_names=list(class_names),
        metrics={
            "AP": float(np.nanmean(by_overlap)),
            "AP50": float(np.nanmean(by_overlap[0])),
            "AP75": float(np.nanmean(by_overlap[5])),
        },
        objects=counted,
        ap=by_overlap.mean(axis=0),
        ap50=by_overlap[0],
        precision=precision[0].T,
        found=found,
    )


def _coco(rows, images, classes):
    """Boxes as pycocotools has them, in a square image of 1000 pixels."""
    annotations = []
    for number, (image, box, label, score, apart) in enumerate(rows, start=1):
        top, left, bottom, right = (1000 * float(corner) for corner in box)
        annotations.append(
            {
                "id": number,  # 0 would mean none
                "image_id": image,
                "category_id": label,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": apart,
                "score": score,
            }
        )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


class EvaluateBoxes(keras.callbacks.Callback):
    """Adds "val_loss", "val_AP" and "val_AP50" to what an epoch reports.

    Args:
        batches: of validation, pairs of images and targets.
        truth: the objects of each image.
        class_names: a name for each class.
        defaults: the default boxes.
        averaged: whether the optimizer's moving average of the weights is evaluated.
    """

    def __init__(self, batches, truth, class_names, defaults, averaged=False):
        super().__init__()
        self.batches, self.truth, self.class_names = batches, truth, class_names
        self.defaults, self.averaged = defaults, averaged

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Called by `fit`, which hands the same `logs` to the callbacks that follow."""
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(self.model)
        if self.averaged:
            swap.on_test_begin()
        loss, images = 0.0, 0

        def predict(batch):
            nonlocal loss, images
            inputs, targets = batch
            predicted = self.model(np.asarray(inputs), training=False)
            value = keras.ops.convert_to_numpy(
                self.model.loss(np.asarray(targets), predicted)
            )
            loss, images = loss + float(value) * len(inputs), images + len(inputs)
            return keras.ops.convert_to_numpy(predicted)

        found = find(predict, ((batch, None) for batch in self.batches), self.defaults)
        penalty = sum(float(keras.ops.convert_to_numpy(p)) for p in self.model.losses)
        if self.averaged:
            swap.on_test_end()
        logs["val_loss"] = loss / images + penalty
        values = {"AP": 0.0, "AP50": 0.0}
        if math.isfinite(logs["val_loss"]):
            values |= evaluate(found, self.truth, self.class_names).metrics
        for name in ("AP", "AP50"):
            logs[f"val_{name}"] = values[name]
        print(f" - val_loss: {logs['val_loss']:.4f} - val_AP50: {values['AP50']:.4f}")


def write_per_class(evaluation: Evaluation, path: Path) -> None:
    """Writes a CSV with the name, objects, AP and AP50 of each class."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "objects", "AP", "AP50"])
        for name, number, ap, ap50 in zip(
            evaluation.class_names, evaluation.objects, evaluation.ap, evaluation.ap50
        ):
            shown = [f"{ap:.6f}", f"{ap50:.6f}"] if number else ["", ""]
            writer.writerow([name, number, *shown])
