"""
Title: Is your optimizer doing anything?
Date created: 2026/11/28
Last modified: 2026/11/28
Description: Measure in training what a method does beyond its base optimizer.
Accelerator: None
"""

"""
## Introduction

"I changed the optimizer, and the loss falls." It would also fall with the optimizer
that the new one is built on. Published optimizers have been found to do nothing beyond
their base: the code runs, its tests pass, and the method in it is dead.

`GradientMonitor` tells. It is a Keras callback; in some training steps it makes the
update a second time, without the method, and compares the two. This notebook

1. trains a network with AngularGrad and asks the monitor;
2. does so with a copy of AngularGrad that is broken as released code is;
3. looks closer, layer by layer, at a method that is alive;
4. asks about an optimizer that is not of this package.

It takes about half a minute on a laptop's processor.
"""

"""
## Setup
"""

import keras
import matplotlib.pyplot as plt
from keras import layers, ops
from sklearn.datasets import load_digits

import keras_gradopt
from keras_gradopt.callbacks import GradientMonitor
from keras_gradopt.transforms import AngularFriction

"""
## A model and data

1,797 handwritten digits that come with scikit-learn, 8 by 8 pixels, and a small
convolutional network. Replace both by your own: the monitor asks nothing of a model.
"""

digits = load_digits()
x = (digits.images[..., None] / 16).astype("float32")
y = digits.target


def make_model(optimizer):
    keras.utils.set_random_seed(0)  # the same start and the same batches for all
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="second"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ],
        name="digits",
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


"""
## Ask the monitor

AngularGrad multiplies each step of Adam by a coefficient, which it computes from the
angle between two consecutive gradients. `every=2` measures every second step,
`group_by="model"` sums over all variables.
"""


def train(optimizer, group_by="model"):
    model = make_model(optimizer)
    monitor = GradientMonitor(every=2, group_by=group_by)
    history = model.fit(x, y, 32, epochs=4, verbose=0, callbacks=[monitor])
    return monitor, history.history["loss"]


angulargrad, loss = train(keras_gradopt.AngularGrad(0.001))
print(f"loss {loss[0]:.2f} -> {loss[-1]:.2f}")
angulargrad.summary()

"""
*Barely alive*: the coefficient does vary, but so little that Adam with 0.88 times the
learning rate makes nearly the same steps. That is no fault of the code. Gradient
entries are far below 1 here, and the paper's coefficient is nearly constant for such.
So before you compare AngularGrad with Adam, compare Adam with itself at 0.88 times the
rate.
"""

"""
## A copy that does nothing

This copy has the fault of a released implementation: its coefficient is 0.5, whatever
the angle.
"""


class ConstantFriction(AngularFriction):
    def apply(self, gradient, slots, context):
        result = super().apply(gradient, slots, context)
        return result._replace(coefficient=0.5 * ops.ones_like(gradient))


inert, inert_loss = train(
    keras_gradopt.AdamCore(0.001, transforms=[ConstantFriction()])
)
print(f"loss {inert_loss[0]:.2f} -> {inert_loss[-1]:.2f}")
inert.summary()

"""
*DEAD*: the loss falls, and in no step and of no variable did the update differ from
Adam's by more than one constant factor. A learning rate of 0.0005 would have done it.
"""

"""
## A method that is alive, layer by layer

AdaNorm lengthens gradients that are shorter than they have been of late, variable by
variable.
"""

adanorm, adanorm_loss = train(keras_gradopt.AdamNorm(0.001), group_by="layer")
adanorm.summary()

"""
Left the loss, which falls with all three. Right what the monitor saw: the length of
each update, divided by the length of the update that the same optimizer would have made
from the same state without its method. A level line is a learning rate in disguise.
"""

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for label, losses in (
    ("AngularGrad", loss),
    ("its inert copy", inert_loss),
    ("AdamNorm", adanorm_loss),
):
    left.plot(range(1, 5), losses, marker="o", label=label)
left.set(xlabel="epoch", ylabel="training loss", xticks=range(1, 5))
right.plot(*angulargrad.series("effect_scale"), label="AngularGrad")
right.plot(*inert.series("effect_scale"), label="its inert copy")
right.plot(
    *adanorm.series("effect_scale", "digits/second"), label="AdamNorm, 2nd layer"
)
right.set(xlabel="step", ylabel="update, times as long as the base's", ylim=(0.4, 1.6))
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend()
plt.show()

"""
And all that a monitor recorded, a line for each layer. `monitor.records` has the
numbers; `csv_path=` and `log_dir=` write them to a file or for TensorBoard as they
come.
"""

adanorm.plot()

"""
## Any Keras optimizer

Without transforms there is nothing to be dead or alive; the monitor still measures
gradients, updates and the angle between them. A `cosine` of 1 is steepest descent.
"""

adam, _ = train(keras.optimizers.Adam(0.001))
adam.summary()

"""
## What to do with a verdict

- **Dead**: the optimizer is its base at another learning rate. Use the base, or look
  for the fault.
- **Barely alive**: within 5 % of that, in every variable. Compare it with the base at
  that rate first.
- **Alive**: the updates are others. Whether that helps is another question.

That other question is the subject of the notebook *Does it help?*
"""
