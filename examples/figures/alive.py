"""
Title: Alive and dead
Description: What GradientMonitor says of three optimizers and of inert copies.

    python examples/figures/alive.py

A small convolutional network learns scikit-learn's digits with AngularGrad, RAdamNorm
and WGDAdam, and with a copy of each that is inert in a way in which published code is:
the coefficient is always 0.5; the average norm is forgotten at every step; the whitened
gradient is not the one that is used. The loss falls with all six. The monitor compares
each update with the one that the base optimizer would have made in its place: the angle
between the two, and the ratio of their lengths. It finds the copies dead, and of the
three it finds AngularGrad barely alive: at 0.88 times the learning rate its base would
do nearly the same.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from figures import drawing
from keras import ops
from matplotlib.figure import Figure

import keras_gradopt
from keras_gradopt import transforms
from keras_gradopt.callbacks import GradientMonitor

"""
## Three ways to be inert
"""


class ConstantFriction(transforms.AngularFriction):
    """The coefficient is 0.5, whatever the angle: Adam at half the learning rate."""

    def apply(self, gradient, slots, context):
        result = super().apply(gradient, slots, context)
        return result._replace(coefficient=0.5 * ops.ones_like(gradient))


class InertAngularGrad(keras_gradopt.AdamCore):
    """AngularGrad with a constant coefficient."""

    def __init__(self, learning_rate=0.001):
        super().__init__(learning_rate, transforms=[ConstantFriction()])


class ForgetfulCorrection(transforms.CorrectNorm):
    """The average norm begins at 0 at every step, and so is never above the norm."""

    def apply(self, gradient, slots, context):
        return super().apply(gradient, [ops.zeros_like(slots[0])], context)


class InertRAdamNorm(keras_gradopt.RAdamNorm):
    """RAdamNorm whose correction never fires."""

    def __init__(self, learning_rate=0.001):
        super().__init__(learning_rate)
        self.pipelines[-1].transforms = (ForgetfulCorrection(),)


class InertWGDAdam(keras_gradopt.WGDAdam):
    """Its transform whitens; its update takes the gradient as it was."""

    def update_step(self, gradient, variable, learning_rate):
        self.pipelines[0].bypassed = True
        super().update_step(gradient, variable, learning_rate)
        self.pipelines[0].bypassed = False


PAIRS = [
    (keras_gradopt.AngularGrad, InertAngularGrad),
    (keras_gradopt.RAdamNorm, InertRAdamNorm),
    (keras_gradopt.WGDAdam, InertWGDAdam),
]


"""
## Training and drawing
"""


def monitored(optimizer, images, labels, epochs):
    """The monitor of a training run, and the loss of each epoch."""
    model = drawing.small_network(optimizer, seed=0)
    monitor = GradientMonitor(every=1, group_by="model")
    history = model.fit(
        images, labels, 16, epochs, shuffle=False, verbose=0, callbacks=[monitor]
    )
    return monitor, history.history["loss"]


def in_short(verdict):
    """The verdict, in a few words."""
    if verdict.degree == "barely alive":
        near = f"within {100 * verdict.distance:.2g} % of a factor {verdict.factor:.4g}"
        return f"barely alive, {near}"
    return "DEAD" if verdict.degree == "dead" else verdict.degree


def draw(found):
    """Angle and ratio of lengths over the steps, a row for each pair."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    for axes, (real, inert) in zip(figure.subplots(len(PAIRS), 2), PAIRS):
        for quantity, label, axis in zip(
            ("effect_angle", "effect_scale"),
            ("turned, radians", "times as long"),
            axes,
        ):
            for cls, style, color in ((real, "-", "#0072B2"), (inert, "--", "#D55E00")):
                monitor, _ = found[cls.__name__]
                axis.plot(
                    *monitor.series(quantity), style, color=color,
                    label=f"{cls.__name__}: {in_short(monitor.verdict)}",
                )  # fmt: skip
            axis.set(xlabel="step", ylabel=label)
            axis.grid(alpha=0.25)
        axis.legend(fontsize=8)  # of both
    figure.suptitle(
        "Six optimizers whose loss falls; three of them do nothing new\n"
        "Each update of the whole model, to that of the base optimizer in its place"
    )
    return figure


def training(small):
    """Images, labels and epochs; `small`: less of each."""
    images, labels, _, _ = drawing.digits()
    return (images[:320], labels[:320], 3) if small else (images, labels, 4)


def main(arguments=None):
    """Draws the figure, prints what the monitor says; returns the monitors."""
    args = drawing.arguments("alive", __doc__, arguments)
    images, labels, epochs = training(args.small)
    found = {}
    for pair in PAIRS:
        for cls in pair:
            monitor, losses = monitored(cls(), images, labels, epochs)
            found[cls.__name__] = monitor, losses
            print(f"\n{cls.__name__}, loss {losses[-1]:.3f}")
            monitor.summary()
    drawing.save(draw(found), args.output)
    return {name: monitor for name, (monitor, _) in found.items()}


if __name__ == "__main__":
    main()
