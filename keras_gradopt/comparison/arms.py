"""Who is compared: optimizers, what is searched for each, and controls."""

import graphlib
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_gradopt.arguments import positive, refuse
from keras_gradopt.comparison.tasks import whole_number

AGAIN_SHIFT = 1000  # of the seed of the weights, for "the base again"
# Where gradients are small, the update is that of the method's base at these factors
# of the rate (AngularGrad, diffGrad); AdaNorm's corrected gradient is so much longer.
FACTORS = {
    "AngularGrad": {"cos": (0.88, 0.5), "tan": (0.5,)},
    "DiffGrad": (0.5,),
    "AdamNorm": (1.25,),
    "DiffGradNorm": (1.25,),
    "RAdamNorm": (1.25,),
    "AdaBeliefNorm": (1.25,),
}


@dataclass(frozen=True, eq=False)
class Arm:
    """An optimizer in a comparison.

    Args:
        make: A class, or any callable, from a learning rate (and the arguments that
            are searched, by keyword) to a new `keras.optimizers.Optimizer`.
        rate: The learning rate, if it is not to be searched. Defaults to `None`.
        search: Values to try of further arguments, by name; every combination gets a
            search for its learning rate. Defaults to `None`.
        rate_of: Another arm, whose learning rate is taken, times `factor`, instead of a
            search. Defaults to `None`.
        factor: Of the other arm's learning rate. Defaults to `1.0`.
        arguments_of: Another arm, whose searched arguments are taken. Defaults to
            `None`.
        weights_shift: Added to the seed of the initial weights, and to no other.
            Defaults to `0`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> import keras
    >>> from keras_gradopt import comparison
    >>> adam = comparison.Arm(keras.optimizers.Adam, search={"epsilon": [1e-8, 1e-4]})
    >>> half = comparison.Arm(keras.optimizers.Adam, rate_of="Adam", factor=0.5)
    """

    make: Callable[..., keras.optimizers.Optimizer]
    rate: float | None = None
    search: Mapping[str, Sequence[Any]] | None = None
    rate_of: str | None = None
    factor: float = 1.0
    arguments_of: str | None = None
    weights_shift: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.make, keras.optimizers.Optimizer) or not callable(self.make):
            raise refuse(
                "make",
                self.make,
                "a class or callable from a learning rate to a new optimizer (an "
                "optimizer itself can be used only once)",
            )
        positive("factor", self.factor)
        if self.rate is not None:
            positive("rate", self.rate)
        ways = {"rate": self.rate, "rate_of": self.rate_of}
        given = {name: value for name, value in ways.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"Only one of `rate`, `rate_of`. Received: {given}")
        whole_number("weights_shift", self.weights_shift, 0)
        self._check_search()

    def _check_search(self) -> None:
        if not isinstance(self.search or {}, Mapping):
            raise refuse("search", self.search, "values by the argument's name")
        for name, values in (self.search or {}).items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise refuse(f"search: {name}", values, "a list of values")
            if not values or len(set(map(repr, values))) < len(values):
                raise refuse(f"search: {name}", values, "values, each once")
            try:
                json.dumps(list(values), allow_nan=False)
            except (TypeError, ValueError):
                raise refuse(
                    f"search: {name}", values, "numbers, texts, booleans or None"
                ) from None
        if self.search and (self.rate_of or self.arguments_of):
            raise ValueError(
                "`search` cannot be given beside `rate_of` or `arguments_of`. "
                f"Received: search={self.search!r}"
            )

    def combinations(self) -> list[str]:
        """The arguments to try, as JSON; an empty text where there are none."""
        if not self.search:
            return [""]
        names = list(self.search)
        return [
            json.dumps(dict(zip(names, values)))
            for values in itertools.product(*self.search.values())
        ]

    def optimizer(self, rate: float, arguments: str = "") -> Any:
        """A new optimizer.

        Raises:
            ValueError: If `make` returns anything else.
        """
        made = self.make(rate, **(json.loads(arguments) if arguments else {}))
        if not isinstance(made, keras.optimizers.Optimizer):
            raise refuse(
                "optimizers",
                type(made).__name__,
                "callables that return a keras.optimizers.Optimizer",
            )
        if made.built:
            raise ValueError(
                "An optimizer in `optimizers` must be made anew at every call. "
                f"Received: one that has been used ({made!r})"
            )
        return made


def arms(optimizers: Any) -> dict[str, Arm]:
    """The optimizers as arms, checked."""
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise refuse("optimizers", optimizers, "optimizers by name")
    found: dict[str, Arm] = {}
    for name, value in optimizers.items():
        if not isinstance(name, str) or not name.strip() or "|" in name:
            raise refuse("optimizers", name, "named by texts without |")
        try:
            found[name] = value if isinstance(value, Arm) else Arm(value)
        except ValueError as error:
            raise ValueError(f"optimizers: {name}: {error}") from None
    for name, arm in found.items():
        for other in (arm.rate_of, arm.arguments_of):
            if other is not None and (other not in found or other == name):
                others = ", ".join(sorted(found.keys() - {name}))
                raise ValueError(
                    f"optimizers: {name}: {other!r} must be another optimizer: {others}"
                )
        if arm.rate_of is not None and found[arm.rate_of].rate_of is not None:
            raise ValueError(
                f"optimizers: {name}: {arm.rate_of!r} has its own rate from another"
            )
        if arm.arguments_of and found[arm.arguments_of].arguments_of:
            raise ValueError(
                f"optimizers: {name}: {arm.arguments_of!r} has its own arguments from "
                "another"
            )
    needs = {n: {a.rate_of, a.arguments_of} - {None} for n, a in found.items()}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ValueError(f"optimizers: they go by each other: {circle}") from None
    return found


def add_controls(
    found: dict[str, Arm], baseline: str
) -> tuple[dict[str, Arm], list[tuple[str, str]]]:
    """The arms with their controls, and which of these are compared with what.

    The base again, from other weights; and the base at the factors of the learning
    rate that a method of this package comes to where it does nothing else.

    Returns:
        All arms, and pairs (control, arm) beside (again, baseline).
    """
    base, pairs, more = found[baseline], [], dict(found)
    again = f"{baseline} again"
    more.setdefault(
        again,
        Arm(
            base.make, rate_of=baseline, arguments_of=baseline if base.search else None,
            weights_shift=AGAIN_SHIFT,
        ),
    )  # fmt: skip
    for name, arm in found.items():
        if name == baseline or arm.rate_of is not None:
            continue
        for factor in factors(arm, base):
            control = f"{baseline} at {factor:g} of {name}"
            more.setdefault(
                control,
                Arm(
                    base.make, rate_of=name, factor=factor,
                    arguments_of=baseline if base.search else None,
                ),
            )  # fmt: skip
            pairs.append((name, control))
    return more, pairs


def factors(arm: Arm, base: Arm) -> Sequence[float]:
    """The factors of the base's learning rate that a method of ours amounts to.

    None if the method is made of another base: a rate of SGD says nothing of Adam's.
    """
    made, other = (a.optimizer(1e-3, a.combinations()[0]) for a in (arm, base))
    if not type(made).__module__.startswith("keras_gradopt"):
        return ()
    bases = {type(made).__mro__[1].__name__}
    bases |= {"Adam", "AdamW"} if "AdamCore" in bases else set()
    if type(other).__name__ not in bases:
        return ()
    known: Any = FACTORS.get(type(made).__name__, ())
    return known[made.get_config()["angle"]] if isinstance(known, dict) else known


def facts(arm: Arm) -> dict[str, Any]:
    """What an arm is, for files: its class, its settings, how its rate is found."""
    made = arm.optimizer(1e-3, arm.combinations()[0])
    found: dict[str, Any] = {
        "optimizer": type(made).__name__,
        "config": repr(settings(made)),
    }
    if not isinstance(arm.make, type):
        found["made_by"] = getattr(arm.make, "__name__", type(arm.make).__name__)
    defaults = inspect.signature(Arm).parameters
    for name in ("rate", "search", "rate_of", "factor", "arguments_of"):
        value = getattr(arm, name)
        if value != defaults[name].default:
            found[name] = dict(value) if isinstance(value, Mapping) else value
    if arm.weights_shift:
        found["weights_shift"] = arm.weights_shift
    return json.loads(json.dumps(found))


def settings(optimizer: keras.optimizers.Optimizer) -> Any:
    """The config of an optimizer without its learning rate and name; or `None`."""
    try:
        return _without(optimizer.get_config())
    except Exception:  # of someone else's class, of any kind
        return None


def _without(config: Any) -> Any:
    if isinstance(config, (list, tuple)):
        return [_without(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        name: _without(value)
        for name, value in config.items()
        if name != "name"
        and (name != "learning_rate" or isinstance(value, (dict, list)))
    }
