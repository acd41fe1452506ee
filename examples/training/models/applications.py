"""The networks of `keras.applications`, from pixels to class probabilities."""

import inspect

import keras
from keras import layers

from training.models.blocks import classifier, penalty

APPLICATIONS = {
    name: function
    for name, function in vars(keras.applications).items()
    if inspect.isfunction(function)
}


def application(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    l2: float = 1e-4,
    weights: str | None = None,
) -> keras.Model:
    """A network of `keras.applications`, with that family's `preprocess_input` inside.

    Its own classifier is kept only for 1000 classes without pretrained weights;
    otherwise there is a new one on the mean over the image. Grey images are repeated to
    the three channels that these networks take.

    Args:
        name: as Keras spells it, for example "ResNet50".
        input_shape: height, width, channels (1 or 3); the least size is Keras'. Pixels
            are 0-255.
        classes: number of classes.
        l2: weight decay of the kernels, depthwise ones included.
        weights: "imagenet", which Keras downloads, the path of a weights file of the
            network without its classifier, or `None` for random weights.

    Returns:
        A model from images to class probabilities.
    """
    function = APPLICATIONS[name]
    images = keras.Input(input_shape, name="image")
    x = images
    if input_shape[-1] == 1:
        x = layers.Concatenate()([x, x, x])
    x = inspect.getmodule(function).preprocess_input(x)
    shape = (*input_shape[:2], 3)
    if weights is None and classes == 1000:
        network = function(
            weights=None,
            input_shape=shape,
            classes=classes,
            classifier_activation=None,
        )
        # probabilities stay in float32 under mixed precision
        outputs = layers.Softmax(dtype="float32")(network(x))
        model = keras.Model(images, outputs, name=name)
    else:
        network = function(
            weights=weights, input_shape=shape, include_top=False, pooling="avg"
        )
        model = classifier(images, network(x), classes, l2, name)
    _penalize(network, l2)
    return model


def _penalize(network, l2):
    """Adds the L2 penalty, for which `keras.applications` has no argument."""
    for layer in network.layers:
        for kind in ("kernel", "depthwise", "pointwise"):
            if hasattr(layer, f"{kind}_regularizer"):
                # only separable convolutions have more than one kernel
                kernel = getattr(layer, f"{kind}_kernel", None)
                kernel = layer.kernel if kernel is None else kernel
                kernel.regularizer = penalty(l2)  # for this model
                setattr(layer, f"{kind}_regularizer", penalty(l2))  # for its config
