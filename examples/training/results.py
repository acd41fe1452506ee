"""What a training run leaves: curves, metrics, pictures of mistakes, a SavedModel.

Batches are pairs of images `(batch, height, width, channels)`, pixels 0-255, and class
indices `(batch,)`, as a validation set has them.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics

from training.run_files import RunError

Batches = Iterable[tuple[Any, Any]]


def plot_curves(
    history: Mapping[str, Sequence[float]],
    title: str,
    path: str | Path,
    metric: str = "accuracy",
) -> None:
    """Draws loss, a metric and, where recorded, the learning rate over the epochs.

    Args:
        history: `model.fit(...).history`: "loss" and the metric, or "val_" before its
            name, or both; "val_loss" and "learning_rate" if there.
        title: of the picture.
        path: of the picture to write.
        metric: the name of one that is a share, and the better the higher it is.
    """
    panels = [
        name
        for name in ("loss", metric, "learning_rate")
        if name in history or f"val_{name}" in history
    ]
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    figure.suptitle(title, wrap=True)
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                epochs = range(1, len(history[key]) + 1)
                marker = "." if len(epochs) <= 30 else ""
                axis.plot(epochs, history[key], marker=marker, label=label)
        axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        if name == "loss":
            drawn = np.concatenate([line.get_ydata() for line in axis.lines])
            drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
            if drawn.size and drawn.max() > 10 * drawn.min():  # else it has few ticks
                axis.set_yscale("log")
        if name == metric:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        if name != "learning_rate":
            axis.legend()
        if name == metric and (held_out := history.get(f"val_{metric}")):
            epoch = int(np.nanargmax(held_out))
            best = held_out[epoch]
            axis.axhline(best, color="grey", linestyle=":", linewidth=1)
            axis.set_title(
                f"best on validation: {best:.2%}, epoch {epoch + 1}", size=10
            )
    figure.savefig(path, dpi=120)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions for a data set and what they are worth.

    Attributes:
        class_names: a name for each class.
        labels: true classes, `(images,)`.
        probabilities: predicted, `(images, classes)`.
        predicted: classes of highest probability, `(images,)`.
        metrics: "accuracy"; "top_5_accuracy" with more than 5 classes; "mean_recall",
            over the classes that have images; "mean_precision", over those that have
            images or are predicted, 0 for one that is never predicted; "kappa",
            Cohen's.
        class_accuracy: the recall of each class, NaN for one without images.
        class_precision: the precision of each class, 0 for one never predicted.
        confusion: number of images, `(true class, predicted class)`.
    """

    class_names: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray
    metrics: dict[str, float]
    class_accuracy: np.ndarray
    class_precision: np.ndarray
    confusion: np.ndarray


def evaluate(
    predict: Callable[[Any], Any], batches: Batches, class_names: Sequence[str]
) -> Evaluation:
    """Predicts every batch and computes the metrics of the papers.

    The probabilities of all images are kept: 200 MB for 50,000 images of 1000 classes,
    and twice that for a moment.

    Args:
        predict: from a batch of images to probabilities, for example
            `model.predict_on_batch`.
        batches: pairs of images and labels.
        class_names: a name for each class.

    Raises:
        ValueError: if there are no images, if probabilities are not finite, or if
            their number is not that of the names.
    """
    every = np.arange(len(class_names))
    labels, probabilities, predicted, in_top_5 = [], [], [], 0
    for images, truth in batches:
        truth, shares = np.asarray(truth), np.asarray(predict(images), np.float32)
        if shares.shape != (len(truth), len(every)):
            raise ValueError(
                f"{len(truth)} images of {len(every)} classes have probabilities of "
                f"shape {shares.shape}"
            )
        if not np.isfinite(shares).all():
            raise ValueError("The model predicts NaN or infinity: training diverged")
        if len(every) > 5:  # by batch: sorting all of them takes a lot of memory
            in_top_5 += metrics.top_k_accuracy_score(
                truth, shares, k=5, labels=every, normalize=False
            )
        labels.append(truth)
        probabilities.append(shares)
        predicted.append(shares.argmax(axis=1))
    if not labels:
        raise ValueError("There are no images to evaluate")
    labels, predicted = np.concatenate(labels), np.concatenate(predicted)
    values = {"accuracy": metrics.accuracy_score(labels, predicted)}
    if len(every) > 5:
        values["top_5_accuracy"] = in_top_5 / len(labels)
    values |= {
        "mean_recall": metrics.recall_score(
            labels, predicted, average="macro", zero_division=np.nan
        ),
        "mean_precision": metrics.precision_score(
            labels, predicted, average="macro", zero_division=0
        ),
        "kappa": metrics.cohen_kappa_score(labels, predicted),
    }
    by_class = {"labels": every, "average": None}
    return Evaluation(
        class_names=list(class_names),
        labels=labels,
        probabilities=np.concatenate(probabilities),
        predicted=predicted,
        metrics={name: float(value) for name, value in values.items()},
        class_accuracy=metrics.recall_score(
            labels, predicted, zero_division=np.nan, **by_class
        ),
        class_precision=metrics.precision_score(
            labels, predicted, zero_division=0, **by_class
        ),
        confusion=metrics.confusion_matrix(labels, predicted, labels=every),
    )


def plot_confusion(evaluation: Evaluation, path: str | Path) -> None:
    """Draws the confusion matrix, coloured by the share of each true class.

    Up to 20 classes have their numbers of images in it, up to 50 their names. With more
    than 20 the most confused pairs are listed beside it. A row is grey where a class
    has no images.
    """
    confusion = evaluation.confusion
    classes = len(confusion)
    names = [shorten_name(name) for name in evaluation.class_names]
    images = confusion.sum(axis=1, keepdims=True)
    shares = np.where(images, confusion / np.maximum(images, 1), np.nan)
    side = min(max(4, 0.6 * classes), 12)  # inches
    figure = Figure(figsize=(side * 1.2, side))
    axis = figure.subplots()
    axis.set_facecolor("lightgrey")
    # below 1, so that rare mistakes show beside the diagonal
    norm = PowerNorm(0.5 if classes <= 20 else 0.3, 0, 1)
    drawn = axis.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(drawn, ax=axis, shrink=0.6, pad=0.02)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    bar.set_label("share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(f"accuracy {evaluation.metrics['accuracy']:.2%}")
    if classes <= 50:
        upright = max(map(len, names)) <= 3
        axis.set_xticks(range(classes), names, size=9, rotation=0 if upright else 90)
        axis.set_yticks(range(classes), names, size=9)
    if classes <= 20:
        for (row, column), count in np.ndenumerate(confusion):
            color = "white" if shares[row, column] > 0.4 else "black"
            if count:
                axis.text(
                    column, row, count, color=color, ha="center", va="center", size=9
                )
    else:
        axis.annotate(
            confused_pairs(evaluation, 25),
            (1, 1),
            xycoords="axes fraction",
            xytext=(120, 0),  # beyond the bar
            textcoords="offset points",
            va="top",
            linespacing=1.5,
        )
    figure.savefig(path, dpi=120, bbox_inches="tight")


def confused_pairs(evaluation: Evaluation, count: int) -> str:
    """The pairs of classes with the most mistakes, one a line."""
    mistakes = evaluation.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    names = [shorten_name(name) for name in evaluation.class_names]
    lines = ["most confused: true → predicted"]
    for cell in np.argsort(-mistakes, axis=None, kind="stable")[:count]:
        true, predicted = np.unravel_index(cell, mistakes.shape)
        number, images = mistakes[true, predicted], evaluation.confusion[true].sum()
        if number:
            lines.append(f"{number} of {images}  {names[true]} → {names[predicted]}")
    return "\n".join(lines) if len(lines) > 1 else "no mistakes"


def shorten_name(name: str, width: int = 22) -> str:
    """The name in at most `width` characters."""
    name = name.replace("_", " ")
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"


def plot_worst(
    evaluation: Evaluation, batches: Batches, path: str | Path, count: int = 25
) -> None:
    """Draws the mistakes of which the model was surest, the worst first.

    Only the images drawn are kept in memory.

    Args:
        evaluation: what to draw of.
        batches: the pairs of images and labels it was made from, in the same order.
        path: of the picture to write.
        count: how many mistakes to draw at most.

    Raises:
        ValueError: if the labels are not those of the evaluation, in its order.
    """
    confidence = evaluation.probabilities.max(axis=1)
    wrong = np.flatnonzero(evaluation.predicted != evaluation.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    images = pick(batches, worst, evaluation.labels)
    total = len(evaluation.labels)
    if not len(worst):
        figure = Figure(figsize=(5, 3))
        figure.text(0.5, 0.5, f"No mistakes in {total} images", ha="center", size=14)
        figure.savefig(path, dpi=120)
        return
    columns = min(5, len(worst))
    rows = -(-len(worst) // columns)
    height, width = images[worst[0]].shape[:2]
    figure = Figure(
        figsize=(max(5, 2 * columns), (2 * height / width + 0.4) * rows + 0.7),
        layout="constrained",
    )
    figure.suptitle(
        f"{len(worst)} of {len(wrong)} mistakes in {total} images, surest first\n"
        "predicted (probability), true class",
        size=11,
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, worst):
        image = np.clip(images[index], 0, 255).astype("uint8")
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        true, predicted = (
            shorten_name(evaluation.class_names[label], 18)
            for label in (evaluation.labels[index], evaluation.predicted[index])
        )
        axis.set_title(f"{predicted} ({confidence[index]:.1%})\ntrue: {true}", size=9)
    figure.savefig(path, dpi=120)


def pick(
    batches: Batches, indices: Iterable[int], labels: np.ndarray
) -> dict[int, np.ndarray]:
    """The images at these indices; the batches must have these labels."""
    other = ValueError("The batches are not those of the evaluation, in its order")
    indices, images, begin = set(indices), {}, 0
    for batch, truth in batches:
        end = begin + len(truth)
        if not np.array_equal(truth, labels[begin:end]):
            raise other
        for index in indices.intersection(range(begin, end)):
            images[index] = np.array(batch[index - begin])
        begin = end
    if begin != len(labels):
        raise other
    return images


def write_per_class(evaluation: Evaluation, path: str | Path) -> None:
    """Writes a CSV with the name, images, accuracy and precision of each class.

    The accuracy is left empty for a class without images.
    """
    images = evaluation.confusion.sum(axis=1)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "images", "accuracy", "precision"])
        for name, number, accuracy, precision in zip(
            evaluation.class_names,
            images,
            evaluation.class_accuracy,
            evaluation.class_precision,
        ):
            shown = f"{accuracy:.6f}" if number else ""
            writer.writerow([name, number, shown, f"{precision:.6f}"])


def export(
    model: keras.Model,
    path: str | Path,
    batches: Batches,
    class_names: Sequence[str],
    crop: float = 1.0,
    square: bool = True,
) -> float:
    """Exports a SavedModel, loads it back and compares the predictions.

    `classes.json` in its folder is what `predict.py` needs: the class names, the shape
    of an image, what pixels are, `crop` and `square`.

    Args:
        model: from images to class probabilities.
        path: of the folder to write.
        batches: pairs of images and labels to compare with.
        class_names: a name for each class.
        crop: share of the resized image's shorter side that the center crop of
            validation keeps, for example 224 / 256.
        square: whether validation makes images square, or keeps their shape until the
            crop.

    Returns:
        The largest difference of a probability.

    Raises:
        RunError: if TensorFlow cannot write, or if it is above 1e-4.
    """
    shutil.rmtree(path, ignore_errors=True)  # of an earlier run, or half written
    try:
        model.export(str(path), verbose=False)
    except tf.errors.OpError as error:  # a full disk, for instance
        raise RunError(f"there is no SavedModel: {error.message}") from error
    served = tf.saved_model.load(str(path))
    difference = 0.0
    for images, _ in batches:
        # not `predict`: it may compile with XLA, which rounds half precision otherwise
        off = np.abs(model(images, training=False) - served.serve(images))
        difference = float(np.maximum(difference, off.max()))  # keeps NaN
    if not difference <= 1e-4:
        raise RunError(
            f"The SavedModel in {path} predicts something else than the model: "
            f"probabilities are off by up to {difference:.2g}"
        )
    shape = model.input_shape[1:]
    colour = "grey" if shape[-1] == 1 else "RGB"
    about = {
        "class_names": list(class_names),
        "input_shape": shape,
        "pixels": f"float32, 0 to 255, {colour}",
        "crop": crop,
        "square": square,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False)
    Path(path, "classes.json").write_text(text + "\n", encoding="utf-8")
    return difference
