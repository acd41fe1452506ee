"""Checks of constructor arguments: what was wrong, the value, what is allowed."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import keras
import numpy as np

if TYPE_CHECKING:
    from keras_gradopt.transforms import Transform


class OptimizerKeywords(TypedDict, total=False):
    """The keywords that every Keras optimizer takes."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


class KeywordsAndTransforms(OptimizerKeywords, total=False):
    """Those, and what every optimizer of this package takes."""

    transforms: "Sequence[Transform]"


LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Any]
)


def refuse(name: str, value: object, allowed: str) -> ValueError:
    """The error for argument `name`, for the caller to raise."""
    shown = repr(value) if _is_printable(value) else "an integer of many digits"
    return ValueError(f"`{name}` must be {allowed}. Received: {name}={shown}")


def _is_printable(value):
    return not isinstance(value, int) or abs(value) < 10**100


def plain(value: Any) -> Any:
    """The Python number or bool in a NumPy scalar, an array or a tensor of rank 0."""
    if isinstance(value, np.generic):
        return value.item()
    if keras.ops.is_tensor(value) or isinstance(value, (np.ndarray, keras.Variable)):
        if tuple(value.shape) == ():
            return keras.ops.convert_to_numpy(value).item()
    return value


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    exclude_low: bool = False,
    exclude_high: bool = False,
) -> float:
    """Returns `value` as a `float`, or raises when it is not in the interval."""
    given = plain(value)
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    try:
        given = float(given) if is_number else math.nan
    except OverflowError:  # an integer
        given = math.inf
    inside = (
        math.isfinite(given)
        and (low < given if exclude_low else low <= given)
        and (given < high if exclude_high else given <= high)
    )
    if not inside:
        left = "(" if exclude_low or low == -math.inf else "["
        right = ")" if exclude_high or high == math.inf else "]"
        raise refuse(name, value, f"a finite number in {left}{low}, {high}{right}")
    return given


def decay_rate(name: str, value: Any) -> float:
    """Checks the decay rate of a moving average: a number in [0, 1)."""
    return number(name, value, 0, 1, exclude_high=True)


def positive(name: str, value: Any) -> float:
    """Checks a finite number above 0."""
    return number(name, value, 0, exclude_low=True)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Checks one of a few names."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise refuse(name, value, "one of " + ", ".join(map(repr, options)))
    return value


def flag(name: str, value: Any) -> bool:
    """Checks `True` or `False`."""
    given = plain(value)
    if not isinstance(given, bool):
        raise refuse(name, value, "True or False")
    return given


def learning_rate(value: Any) -> Any:
    """Checks a learning rate: a number, a schedule or a callable."""
    if callable(value):
        return value
    value = plain(value)
    if not isinstance(value, Real):
        raise refuse(
            "learning_rate",
            value,
            "a finite number in [0, inf), a "
            "keras.optimizers.schedules.LearningRateSchedule, or a callable",
        )
    return number("learning_rate", value, 0)


_LARGEST = 2**31 - 1  # of Keras' counters


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _integer_from(low: int) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> int:
        given = plain(value)
        integral = isinstance(given, Integral) and not isinstance(given, bool)
        if not integral or not low <= given <= _LARGEST:
            raise refuse(name, value, f"an integer from {low} to {_LARGEST}, or None")
        return int(given)

    return check


def whole_number(name: str, value: Any, low: int) -> int:
    """Checks a whole number that is not below `low` and that backends can hold."""
    integral = isinstance(value, Integral) and not isinstance(value, bool)
    if not integral or not low <= value <= _LARGEST:
        raise refuse(name, value, f"a whole number, at least {low}, below 2**31")
    return int(value)


def text(name: str, value: Any) -> str:
    """Checks a string."""
    if not isinstance(value, str):
        raise refuse(name, value, "a string, or None")
    return value


_MOST_CHOICES = 4


def pattern(name: str, value: Any) -> str:
    """Checks a regular expression that is to be found in the path of a variable.

    It may come from a file. Python's matcher takes exponential time for a repeated
    group that repeats something itself or has alternatives, so there is none; and the
    length of the path to the power of the repetitions, so there are few.
    """
    text(name, value)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise refuse(name, value, f"a regular expression ({error})") from error
    left = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", value)
    left = re.sub(r"\(\?(?:[:=!]|<[=!]|P<\w+>)", "(", left)
    varies, group = re.compile(r"[*+?{|]"), re.compile(r"\(([^()]*)\)([*+{]?)")
    choices = len(re.findall(r"[*+?{]\??", left))
    while found := group.search(left):
        inside, repeated = found.groups()
        if repeated and varies.search(inside):
            raise refuse(
                name,
                value,
                "a regular expression without repetition of a group that repeats "
                "something itself or has alternatives",
            )
        choices += "|" in inside
        instead = "*" if varies.search(inside) else "x"
        left = left[: found.start()] + instead + left[found.end(1) + 1 :]
    if choices > _MOST_CHOICES:
        raise refuse(
            name,
            value,
            f"a regular expression with at most {_MOST_CHOICES} repetitions (*, +, ?, "
            "{...}) and groups of alternatives",
        )
    return value


_KEYWORDS: dict[str, Callable[[str, Any], Any]] = {
    "weight_decay": _optional(lambda name, value: number(name, value, 0)),
    "clipnorm": _optional(positive),
    "clipvalue": _optional(positive),
    "global_clipnorm": _optional(positive),
    "use_ema": flag,
    "ema_momentum": lambda name, value: number(name, value, 0, 1),
    "ema_overwrite_frequency": _optional(_integer_from(1)),
    "loss_scale_factor": _optional(positive),
    "gradient_accumulation_steps": _optional(_integer_from(2)),
    "name": _optional(text),
}


def optimizer_keywords(
    own: Iterable[str], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks the keywords that every Keras optimizer takes.

    Args:
        own: the other arguments of the optimizer, for the error message.
        keywords: the keywords received.

    Returns:
        The keywords, checked.

    Raises:
        ValueError: for an unknown name, a wrong value, or two ways of clipping.
    """
    for name in keywords:
        if name not in _KEYWORDS:
            known = sorted({*own, *_KEYWORDS})
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(
                f"Unknown argument `{name}` (received: {name}={keywords[name]!r})."
                f"{hint} Allowed: {', '.join(known)}."
            )
    checked = {name: _KEYWORDS[name](name, keywords[name]) for name in keywords}
    clips = {n: v for n, v in checked.items() if "clip" in n and v is not None}
    if len(clips) > 1:
        raise ValueError(
            "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. "
            f"Received: {clips}"
        )
    return checked
