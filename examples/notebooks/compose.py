"""
Title: Compose a transform
Date created: 2026/11/28
Last modified: 2026/11/28
Description: Masks, learning rates by layer and adaptive clipping for any optimizer.
Accelerator: None
"""

"""
## Introduction

A *gradient transform* is put in front of an optimizer: what it makes of the gradient is
what the optimizer gets. `Transformed` takes any Keras optimizer and a list of
transforms, and is an optimizer itself. This notebook fine-tunes a small network and
uses

- `ScaleLearningRate`, to train the backbone more slowly than the head;
- `Only`, to apply a transform to some of the variables;
- `ClipAdaptively`, adaptive gradient clipping (AGC), so that a learning rate that is
  far too high still trains;
- a transform of our own, in eight lines.

Each time we look whether it did what it should. It takes about half a minute on a
laptop's processor.
"""

"""
## Setup
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import keras_gradopt
from keras_gradopt import Transformed
from keras_gradopt.callbacks import GradientMonitor
from keras_gradopt.transforms import (
    ClipAdaptively,
    DifferenceFriction,
    Only,
    Result,
    ScaleLearningRate,
    Transform,
)

"""
## A network to fine-tune

We train a network on the digits 0 to 4, and then go on with 5 to 9.
"""

digits = load_digits()
x = (digits.images[..., None] / 16).astype("float32")
y = digits.target
low = y < 5


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", name="backbone_first"),
            layers.Conv2D(32, 3, activation="relu", name="backbone_second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        name="digits",
    )


def train(model, optimizer, x, y, epochs, callbacks=()):
    keras.utils.set_random_seed(1)  # the same batches
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, 32, epochs, verbose=0, callbacks=list(callbacks))
    return history.history["loss"]


pretrained = make_model()
train(pretrained, keras.optimizers.Adam(0.005), x[low], y[low], epochs=5)
pretrained_weights = pretrained.get_weights()
pretrained.evaluate(x[low], y[low], verbose=0, return_dict=True)

"""
## Learning rates by layer

Keys are regular expressions; each variable takes the factor of the first one that is
found in its path. What fits no variable is an error, so a slip of the pen cannot pass
unseen.
"""


def fine_tune(optimizer, epochs=2):
    model = make_model()
    model.set_weights(pretrained_weights)
    monitor = GradientMonitor(every=1)
    train(model, optimizer, x[~low], y[~low] - 5, epochs, [monitor])
    return model, monitor


_, plain = fine_tune(keras.optimizers.Adam(0.001))
slow_backbone = ScaleLearningRate({"backbone": 0.1})
_, scaled = fine_tune(Transformed(keras.optimizers.Adam(0.001), [slow_backbone]))

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
for axis, monitor, title in zip(
    axes, (plain, scaled), ("Adam", "Adam, backbone at a tenth of the rate")
):
    for layer in ("backbone_first", "backbone_second", "head"):
        steps, lengths = monitor.series("update_l2", f"digits/{layer}")
        axis.plot(steps, lengths, label=layer)
    axis.set(xlabel="step", title=title, yscale="log")
    axis.grid(alpha=0.3)
axes[0].set_ylabel("length of the update")
axes[0].legend()
plt.show()

"""
A factor of 0 freezes. For factors that fall with the distance from the head, as is
usual with transformers, there is `layerwise_decay`:
"""

keras_gradopt.layerwise_decay(pretrained, 0.5)

"""
## On some variables only

`Only` confines a transform to the variables in whose path its pattern is found. Others
pass it by, and it keeps no state for them: here diffGrad's friction is on the head, and
the backbone has Adam's moments alone.
"""

optimizer = Transformed(
    keras.optimizers.Adam(0.001), [Only("head", DifferenceFriction()), slow_backbone]
)
model, masked = fine_tune(optimizer)
keras_gradopt.inspect(optimizer)

"""
The monitor says what each transform did to the variables that it is for:
"""

masked.summary()

"""
That `ScaleLearningRate` is called *DEAD* is right, and no fault: of the variables that
it is for, the backbone's, it makes nothing but one constant factor, 0.1.
"""

"""
## Adaptive gradient clipping

Clipping by a fixed norm needs another norm for each layer and each network. AGC
compares the gradient of each unit with the unit's weights instead: it may be at most
`clipping` times as long. As its authors do, we leave the last layer out.

Plain SGD with momentum and a learning rate of 1 learns nothing here: the first steps
throw the weights too far. With AGC in front of it, it trains.
"""


def sgd(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


clip = Only("backbone", ClipAdaptively(0.01))
monitor = GradientMonitor(every=5, group_by="model")
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, optimizer, callbacks in (
    ("rate 0.1", sgd(0.1), []),
    ("rate 1", sgd(1.0), []),
    ("rate 1, AGC", Transformed(sgd(1.0), [clip]), [monitor]),
):
    loss = train(make_model(), optimizer, x[low], y[low], 5, callbacks)
    axis.plot(range(1, 6), loss, marker="o", label=name)
axis.axhline(np.log(5), color="0.6", linestyle=":", label="guessing")
axis.set(xlabel="epoch", ylabel="training loss", xticks=range(1, 6))
axis.grid(alpha=0.3)
axis.legend()
plt.show()

"""
That is no reason to train at rate 1; it shows what AGC holds back. How much it did, the
monitor knows:
"""

monitor.summary()

"""
## A transform of our own

A transform is a pure function of the gradient, written with `keras.ops`, so that it
runs on every backend. This one is gradient centralization: it takes from each unit's
gradient its mean.
"""


@keras.saving.register_keras_serializable(package="notebook")
class Centralize(Transform):
    def apply(self, gradient, slots, context):
        axes = tuple(range(len(gradient.shape) - 1))  # all but the unit's
        if not axes:  # a bias
            return Result(gradient)
        return Result(gradient - ops.mean(gradient, axes, keepdims=True))


optimizer = Transformed(keras.optimizers.Adam(0.001), [Centralize(), slow_backbone])
model, own = fine_tune(optimizer)
print(optimizer)
own.summary()

"""
## Save and load

The transforms and their state are saved with the model. Where another program loads it,
that one needs the class `Centralize`, too.
"""

model.save("composed.keras")
loaded = keras.saving.load_model("composed.keras")
print(loaded.optimizer)
for saved, again in zip(model.optimizer.variables, loaded.optimizer.variables):
    np.testing.assert_array_equal(saved, again)

"""
What runs when, what order means, and how to write a transform with memory is in the
guide: *Compose transforms* and *Write a sixth method*.
"""
