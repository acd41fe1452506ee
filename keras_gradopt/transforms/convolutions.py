"""Which variables are convolution kernels, and which of their axes count kernels."""

import gc
import itertools
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

_CONV, _TRANSPOSED, _DEPTHWISE = (-1,), (-2,), (-2, -1)
# layer classes, and for each of their weights that is a convolution kernel the axes
# that count its kernels
_CONVOLUTIONS: list[tuple[tuple[type, ...], dict[str, tuple[int, ...]]]] = [
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), {"kernel": _CONV}),
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        {"kernel": _TRANSPOSED},
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), {"kernel": _DEPTHWISE}),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        {"depthwise_kernel": _DEPTHWISE, "pointwise_kernel": _CONV},
    ),
    (
        (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D),
        {"kernel": _CONV, "recurrent_kernel": _CONV},
    ),
]
# what is computed with the weights of these is said by a layer within, if by any
_CONTAINERS = (layers.Wrapper, layers.RNN)
# what these compute with their own weights is not Keras', so not known
_FOREIGN = ("Layer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper")
_KERAS_LAYERS = tuple(
    value
    for name, value in vars(layers).items()
    if isinstance(value, type)
    and issubclass(value, layers.Layer)
    and name not in _FOREIGN
)


def kernel_axes(
    variables: Sequence[keras.Variable],
    given: Mapping[str, Sequence[int] | None] | None = None,
) -> list[tuple[int, ...] | None]:
    """For each variable the axes that count its kernels, or None.

    A variable does not know its layer, and neither its shape nor its name tells a
    Conv2D kernel from a transposed or depthwise one, or from an attention kernel. So
    the layers that own the variables are looked up.

    Args:
        variables: of a model.
        given: for variables whose path ends so the axes, or None for no kernel.

    Raises:
        ValueError: if one of `given` fits no variable, or names an axis too high.

    Warns:
        UserWarning: of variables of rank 3 or more whose layer is not found, or is of a
            class that Keras does not know.
    """
    given = given or {}
    owners = _owners([v for v in variables if len(v.shape) > 2])
    found: list[tuple[int, ...] | None] = []
    guessed, unknown = [], []
    left = dict(given or {})
    for variable in variables:
        rank = len(variable.shape)
        path = getattr(variable, "path", variable.name)
        having = owners[id(variable)]
        ends = [end for end in given if f"/{path}".endswith(f"/{end}")]
        if ends:
            axes = given[max(ends, key=len)]  # the most special one
            for end in ends:
                left.pop(end, None)
        elif rank < 3:
            axes = None
        elif not having:
            axes = _CONV if rank < 6 else None
            guessed.append(path)
        else:
            all_axes = [_of_layer(layer, variable) for layer in having]
            axes = next((axes for axes in all_axes if axes is not None), None)
            if axes is None and not any(map(_is_known, having)):
                unknown.append(path)
        if axes is not None and not all(-rank <= axis < rank for axis in axes):
            raise ValueError(f"{path} has {rank} axes. Received: kernel_axes={axes}")
        found.append(None if axes is None else tuple(axis % rank for axis in axes))
    if left:
        paths = [getattr(variable, "path", variable.name) for variable in variables]
        raise ValueError(
            f"`kernel_axes` names {sorted(left)}, which none of the variables ends "
            f"with: {paths}"
        )
    _warn(guessed, "belong to no layer that could be found, so if of rank 3 to 5 they "
          "are taken for kernels of a Conv layer, (..., in, out)")  # fmt: skip
    _warn(unknown, "belong to layers that Keras does not know, so they are taken for "
          "no convolution kernels")  # fmt: skip
    return found


def _of_layer(layer, variable):
    for classes, kernels in _CONVOLUTIONS:
        if isinstance(layer, classes):
            return kernels.get(variable.name)
    return None


def _is_known(layer):
    """Whether Keras computes with the weights of this layer, itself."""
    return isinstance(layer, _KERAS_LAYERS) and not isinstance(layer, _CONTAINERS)


def _warn(paths, said):
    if paths:
        more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
        warnings.warn(
            f"Whiten: {', '.join(paths[:8])}{more} {said}. `Whiten(kernel_axes={{path: "
            "axes})` says which of their axes count kernels.",
            stacklevel=2,
        )


def _owners(variables: Sequence[Any]) -> dict[int, list[layers.Layer]]:
    """For the id of each variable the layers that have it, and their containers."""
    owners: dict[int, list[layers.Layer]] = defaultdict(list)
    wanted = {id(variable) for variable in variables}
    for layer in _living_layers() if wanted else ():
        if layer.built:
            for weight in layer.weights:
                if id(weight) in wanted:
                    owners[id(weight)].append(layer)
    return owners


def _living_layers() -> list[layers.Layer]:
    """All layers, whosever they are.

    `gc.get_objects` also takes hold of tuples that other threads are just making, and
    these fail if they run before the hold is given up. So a generation of objects is
    asked for and sifted within one call of C, in which no other thread runs. As each
    iterator can be used once, it is asked for twice, for objects and types. The second
    time there is more at the end, which must be used up, or a reference cycle keeps the
    hold. (`gc.get_referrers`, which would touch less, can crash.)
    """
    kinds = [layers.Layer]
    for cls in kinds:
        kinds += [below for below in cls.__subclasses__() if below not in kinds]
    is_layer = set(kinds).__contains__

    def objects(generation):
        called_late = itertools.starmap(gc.get_objects, [(generation,)])
        return itertools.chain.from_iterable(called_late)

    was_enabled = gc.isenabled()
    gc.disable()  # a collection moves objects
    found: list[layers.Layer] = []
    try:
        for age in range(3):
            selected = map(is_layer, map(type, objects(age)))
            found += itertools.chain(
                itertools.compress(objects(age), selected),
                itertools.compress(selected, itertools.repeat(False)),
            )
    finally:
        if was_enabled:
            gc.enable()
    return found
