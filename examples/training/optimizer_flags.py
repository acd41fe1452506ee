"""Optimizers, transforms and learning-rate schedules from what a user types."""

import ast
import inspect
import math
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import keras
import numpy as np

import keras_gradopt
from keras_gradopt import transforms


def optimizer_classes() -> dict[str, type]:
    """Optimizer classes that can be made from a learning rate, by lower-case name."""
    names = set(keras_gradopt.optimizers.__all__) - {"Transformed"}
    classes = {name: getattr(keras_gradopt, name) for name in names}
    for name, value in vars(keras.optimizers).items():
        if inspect.isclass(value) and issubclass(value, keras.Optimizer):
            if "learning_rate" in inspect.signature(value).parameters:
                classes.setdefault(name, value)
    return {name.lower(): cls for name, cls in classes.items() if name != "Optimizer"}


TRANSFORMS = {
    name.lower(): value
    for name, value in vars(transforms).items()
    if inspect.isclass(value) and issubclass(value, transforms.Transform)
    if value is not transforms.Transform
}


def unknown(kind: str, name: str, known: Any) -> ValueError:
    """The error for a name that is not among the known ones."""
    close = get_close_matches(name.lower(), list(known), 2)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return ValueError(f"unknown {kind} {name!r}{hint}; known are {', '.join(known)}")


def optimizer_class(name: str) -> type:
    """The class of that name, ours or Keras', upper and lower case alike."""
    known = optimizer_classes()
    if name.lower() not in known:
        raise unknown("optimizer", name, sorted(known))
    return known[name.lower()]


def parse_transforms(text: str) -> list[transforms.Transform]:
    """Transforms from text such as `whiten,activate(tanh,0.2,10)`.

    The text is parsed as Python would parse it, and nothing of it is executed.

    Raises:
        ValueError: for an unknown name or a wrong argument.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        parts = tree.elts if isinstance(tree, ast.Tuple) else [tree]
        return [_transform(part) for part in parts]
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"no list of transforms: {text!r} ({error})") from error


def _transform(part: ast.expr) -> transforms.Transform:
    """`whiten` or `activate(tanh,0.2,10)`."""
    call = part if isinstance(part, ast.Call) else ast.Call(part, [], [])
    name = ast.unparse(call.func)
    key = name.lower().replace("_", "")
    if key not in TRANSFORMS:
        raise unknown("transform", name, sorted(TRANSFORMS))
    given = [_argument(argument) for argument in call.args]
    named = {word.arg: _argument(word.value) for word in call.keywords}
    return TRANSFORMS[key](*given, **named)


def _argument(part: ast.expr) -> Any:
    """A value, or a transform within a transform: `only("head", whiten)`."""
    name = ast.unparse(part.func if isinstance(part, ast.Call) else part)
    if name.lower().replace("_", "") in TRANSFORMS:
        return _transform(part)
    return _value(ast.unparse(part))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Arguments of an optimizer from text such as `gamma=0.9`."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"a setting is NAME=VALUE, not {pair!r}")
        settings[name] = _value(value)
    return settings


def learning_rate_schedule(
    schedule: str, rate: float, steps_per_epoch: int, epochs: int
) -> Any:
    """A constant, or a Keras schedule over the steps of the run.

    Args:
        schedule: see `recipes.Recipe`.
        rate: the highest learning rate.
        steps_per_epoch: batches in an epoch, however many of them an update
            accumulates: Keras' schedules count batches too.
        epochs: of the whole run.

    Raises:
        ValueError: for text that is no schedule.
    """
    kind, colon, numbers = schedule.partition(":")
    try:
        marks = [float(number) for number in numbers.split(",")] if colon else []
    except ValueError:
        marks = [math.nan]
    positive = all(0 <= mark < 2**31 for mark in marks)
    rising = all(first < second for first, second in pairwise([0.0, *marks]))
    if kind == "constant" and not colon:
        return rate
    if kind == "cosine" and len(marks) <= 1 and positive:
        warmup = round(marks[0] * steps_per_epoch) if marks else 0
        decay = max(1, steps_per_epoch * epochs - warmup)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(rate, decay)
        return keras.optimizers.schedules.CosineDecay(
            0.0, decay, warmup_target=rate, warmup_steps=warmup
        )
    if kind == "step" and marks and positive and rising:
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [round(mark * steps_per_epoch) for mark in marks],
            [rate / 10**count for count in range(len(marks) + 1)],
        )
    raise ValueError(
        f"unknown schedule {schedule!r}; one of constant, cosine, "
        "cosine:WARMUP_EPOCHS, step:EPOCH[,EPOCH...] with rising epochs above 0"
    )


def make_optimizer(
    name: str,
    rate: Any,
    settings: dict[str, Any],
    transformed: list[transforms.Transform],
) -> keras.optimizers.Optimizer:
    """An optimizer by name, with transforms in front of it if there are any."""
    try:
        optimizer = optimizer_class(name)(rate, **settings)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    if transformed:
        return keras_gradopt.Transformed(optimizer, transformed)
    return optimizer


def try_one_step(name: str, rate: float, settings: dict[str, Any]) -> None:
    """Updates a variable of its own, as Keras checks few arguments before it must.

    Raises:
        ValueError: if that fails, or does not give a number.
    """
    at_once = settings | {"gradient_accumulation_steps": None}
    optimizer = make_optimizer(name, rate, at_once, [])
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    variable = keras.Variable([1.0, -1.0])
    try:
        with warnings.catch_warnings(action="ignore"):  # it is no kernel, for instance
            optimizer.apply([keras.ops.ones(2)], [variable])
        values = keras.ops.convert_to_numpy(variable)
    except Exception as error:  # each backend has its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}({given}) cannot make a step: {reason}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name}({given}) makes NaN or infinity in its first step")


def optimizer_of_run(
    run: Any,
    listed: str | None,
    steps_per_epoch: int,
    epochs: int,
    rates: Sequence[transforms.Transform] = (),
) -> keras.optimizers.Optimizer:
    """The optimizer of a run's settings, with its schedule and transforms.

    Args:
        run: settings with `optimizer`, `learning_rate`, `schedule` and `settings`.
        listed: transforms in words, or `None`.
        steps_per_epoch: what the schedule counts as one.
        epochs: how many of these.
        rates: further transforms, after those listed.

    Raises:
        ValueError: for a wrong argument.
    """
    parsed = [] if listed is None else parse_transforms(listed)
    rate = learning_rate_schedule(
        run.schedule, run.learning_rate, steps_per_epoch, epochs
    )
    return make_optimizer(run.optimizer, rate, run.settings, [*parsed, *rates])


def check_accumulation(settings: dict[str, Any], batches: int) -> None:
    """Refuses an accumulation over more batches than there are: nothing would move.

    Raises:
        ValueError: for that.
    """
    accumulated = settings.get("gradient_accumulation_steps") or 1
    if accumulated > batches:
        raise ValueError(
            f"--accumulate {accumulated} is more than the {batches} batches of the "
            "run: nothing would be updated"
        )
