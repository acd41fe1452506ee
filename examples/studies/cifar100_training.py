"""One training run of the CIFAR-100 study: kept after every epoch, resumed bit by bit.

The only part of the study that needs Keras, on any backend.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

# the package of this checkout, whose commit the rows name
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from cifar100_data import Images, batches, hold_out, pad, replace
from training.models import create_model

import keras_gradopt

# Adam is AdamCore: the base that the others share to the last operation, and PyTorch's,
# which the papers used. Keras' own adds its epsilon to the uncorrected root instead.
OPTIMIZERS = {
    "adam": keras_gradopt.AdamCore,
    "adam_control": keras_gradopt.AdamCore,
    "adam_again": keras_gradopt.AdamCore,
    "adamnorm": keras_gradopt.AdamNorm,
    "angulargrad": keras_gradopt.AngularGrad,
}
OTHER_WEIGHTS = 1000  # added to the seed that draws Adam-again's initial weights


@dataclass(frozen=True)
class Recipe:
    """What all runs share."""

    epochs: int = 5
    batch_size: int = 64
    network: str = "resnet20"
    precision: str = "float32"

    @property
    def epochs_at_full_rate(self) -> int:
        """Epochs before the rate is divided by ten: four of five, as in the papers."""
        return self.epochs * 4 // 5


def make_model(
    arm: str, seed: int, rate: float, images: np.ndarray, recipe: Recipe
) -> keras.Model:
    """The compiled network; its initial weights depend on the seed, not on the arm."""
    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(seed + OTHER_WEIGHTS * (arm == "adam_again"))
    model = create_model(
        recipe.network,
        images.shape[1:],
        classes=100,
        l2=0.0,  # AngularGrad: "WD = 0.0"; AdaNorm names none
        adapt_to=images[::10],  # sorted by class: some of each
    )
    steps = len(images) // recipe.batch_size
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [recipe.epochs_at_full_rate * steps - 1], [rate, rate / 10]
    )
    model.compile(
        OPTIMIZERS[arm](schedule),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # on a CPU XLA takes 1.8 times as long
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def train(
    arm: str,
    seed: int,
    rate: float,
    train_images: Images,
    test_images: Images | None,
    recipe: Recipe,
    state: Path,
    commit: str = "",
    progress: Callable[[int, dict[str, float]], Any] = lambda epoch, logs: None,
) -> dict[str, Any]:
    """Trains one arm with one seed, from `state` if that exists; the row's outcomes.

    Args:
        arm: of `OPTIMIZERS`.
        seed: of the weights, order and augmentation.
        rate: learning rate.
        train_images: to train on.
        test_images: for the last epoch's outcome; `None`: a tenth of `train_images` is
            held out and is that.
        recipe: what all runs share.
        state: the file that is written after every epoch.
        commit: of the code that trains now.
        progress: called after each epoch with its number and the epoch's means.
    """
    if test_images is None:
        train_images, test_images = hold_out(train_images)
    model = make_model(arm, seed, rate, train_images.images, recipe)
    kept = _restore(state, model)
    kept["commits"] = list(dict.fromkeys([*kept["commits"], commit]))
    padded = pad(train_images.images)
    for epoch in range(len(kept["losses"]), recipe.epochs):
        wall, cpu = time.time(), time.process_time()
        seen = batches(padded, train_images.labels, recipe.batch_size, seed, epoch)
        means = _means(model, model.train_on_batch, seen)
        kept["losses"].append(means["loss"])
        kept["accuracies"].append(means["accuracy"])
        kept["seconds"] += time.time() - wall
        kept["cpu_seconds"] += time.process_time() - cpu
        _keep(state, model, kept)
        progress(epoch + 1, means)
    outcome = _means(model, model.test_on_batch, _parts(test_images, 500))
    return {**outcome, **kept}


def _means(model, step, parts):
    """Loss and accuracy over all images, from one `step` for each part of them."""
    sums, count = {"loss": 0.0, "accuracy": 0.0}, 0
    for images, labels in parts:
        model.reset_metrics()  # some releases of Keras do so themselves, some do not
        logs = step(images, labels, return_dict=True)
        count += len(labels)
        for name in sums:
            sums[name] += float(logs[name]) * len(labels)
    return {name: value / count for name, value in sums.items()}


def _parts(data: Images, size: int) -> Iterator[Images]:
    for start in range(0, len(data.labels), size):
        yield Images(*(array[start : start + size] for array in data))


def _variables(model):
    return [*model.weights, *model.optimizer.variables]


def _keep(path, model, kept):
    values = [keras.ops.convert_to_numpy(v) for v in _variables(model)]
    arrays = {f"v{index}": value for index, value in enumerate(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, lambda file: np.savez(file, kept=json.dumps(kept), **arrays))


def _restore(path, model):
    if not path.exists():
        return {
            "losses": [], "accuracies": [], "seconds": 0.0, "cpu_seconds": 0.0,
            "commits": [],
        }  # fmt: skip
    variables = _variables(model)
    with np.load(path) as file:
        if len(file.files) != len(variables) + 1:
            raise ValueError(
                f"{path} holds {len(file.files) - 1} variables, the model has "
                f"{len(variables)}; delete it to start this run again"
            )
        for index, variable in enumerate(variables):
            variable.assign(file[f"v{index}"])
        return json.loads(str(file["kept"]))
