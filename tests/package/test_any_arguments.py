"""Whatever is given to a constructor, or found in a config: taken, or a sentence.

Never an error without the argument's name, and never a hang.
"""

import contextlib
import copy
import inspect
import json
import math
import re
import signal
import threading
from decimal import Decimal
from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import ops
from table import ALL, OPTIMIZERS
from test_properties import TRANSFORMS, bounded

import keras_gradopt as kg
from keras_gradopt import arguments
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]

KEYWORDS = list(arguments.OptimizerKeywords.__annotations__)
CONSTRUCTORS = {
    **{name: row.make for name, row in OPTIMIZERS.items()},
    "AdamCore": kg.AdamCore,
    **{cls.__name__: cls for cls in TRANSFORMS},
}
del CONSTRUCTORS["ScaleByL1Norm"]  # takes no arguments
every_constructor = pytest.mark.parametrize("name", CONSTRUCTORS)


def arguments_of(name):
    own = [
        n for n in inspect.signature(CONSTRUCTORS[name]).parameters if n != "keywords"
    ]
    return own if name in {c.__name__ for c in TRANSFORMS} else [*own, *KEYWORDS]


CONVERT = {  # kinds of number that Keras takes
    "float": float,
    "np.float32": np.float32,
    "np.float64": np.float64,
    "0-d array": np.array,
    "tensor": ops.convert_to_tensor,
}
WRONG = [
    *(10**400, -(10**400), 1e400, -1e400, math.nan, 10**-400, -0.0, 2**70),
    *(None, True, False, np.True_, "0.5", b"0.5", "", "cos\0", 1j, np.complex64(1)),
    *([], [0.5], (), {}, {"class_name": "Adam"}, set(), object(), float, print),
    *(np.array([0.5, 0.5]), np.array([]), np.array("0.5"), np.array(None)),
    *(np.array(math.nan), np.datetime64("2020-01-01"), np.float64("inf")),
    *(keras.Variable(0.5), keras.KerasTensor((), "float32")),
    *(Fraction(1, 2), Decimal("0.5"), Decimal("NaN"), 10**30, range(2), slice(1)),
]
EDGES = st.one_of(
    st.sampled_from(WRONG),
    st.floats(),
    st.integers(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.builds(np.array, st.one_of(st.floats(), st.integers(-5, 5), st.booleans())),
    st.builds(
        lambda x, d: np.dtype(d).type(x), st.integers(0, 9), st.sampled_from("?bhilfd")
    ),
    st.builds(lambda x: ops.convert_to_tensor(x), st.floats(width=32)),
    st.builds(lambda x: ops.convert_to_tensor(x), st.lists(st.floats(width=32))),
)


def tried(make, name, value):
    """What it made, or None for an error that names the argument."""
    try:
        return make(**{name: value})
    except (ValueError, TypeError) as error:
        assert name in str(error), error
        return None


@every_constructor
@bounded
@example(data=None)
@given(data=st.data())
def test_any_value_is_taken_or_refused_by_name(name, data):
    """What is taken has a config in JSON, and makes the same again."""
    if data is None:  # the example: every argument, every value that was found wrong
        pairs = [(a, value) for a in arguments_of(name) for value in WRONG]
    else:
        argument = data.draw(st.sampled_from(arguments_of(name)), "argument")
        pairs = [(argument, data.draw(EDGES, "value"))]
    for argument, value in pairs:
        if argument == "learning_rate" and callable(value):
            continue  # called at the first step
        made = tried(CONSTRUCTORS[name], argument, value)
        if made is None:
            continue
        config = json.loads(json.dumps(made.get_config()))
        assert type(made).from_config(dict(config)).get_config() == config, argument


@pytest.mark.parametrize("kind", CONVERT)
@every_constructor
def test_every_kind_of_number_is_a_number(name, kind):
    """As in Keras; the config then has Python's own."""
    make = CONSTRUCTORS[name]
    default = make().get_config()
    for argument, value in default.items():
        number = 0.5 if value is None else value
        is_number = isinstance(number, float) and argument in arguments_of(name)
        if not is_number or argument in ("gradient_accumulation_steps",):
            continue
        if value is None and argument not in KEYWORDS[:4]:
            continue
        config = make(**{argument: CONVERT[kind](number)}).get_config()
        assert config[argument] == pytest.approx(number, rel=1e-6), argument
        json.dumps(config)


INTEGERS = [np.int64, np.int32, np.array, ops.convert_to_tensor]


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda kind: kind.__name__)
def test_every_kind_of_integer_is_one(kind):
    for argument in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        config = kg.AngularGrad(**{argument: kind(3)}).get_config()
        assert config[argument] == 3
        json.dumps(config)
    assert kg.AngularGrad(weight_decay=kind(1)).get_config()["weight_decay"] == 1


@pytest.mark.parametrize("value", [np.True_, np.False_, np.array(True)])
def test_every_kind_of_flag_is_one(value):
    for make, argument in [
        (kg.AngularGrad, "use_ema"),
        (kg.WGDSGD, "nesterov"),
        (kg.GAFSGD, "learning_rate_inside"),
    ]:
        config = make(**{argument: value}).get_config()
        assert config[argument] is bool(value)


@contextlib.contextmanager
def at_most(seconds):
    """Interrupts what takes longer, of the process' own time; expressions too."""

    def stop(*_):
        raise TimeoutError(f"not done after {seconds} seconds")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def loads(config):
    """Whether a config makes an optimizer that takes a step, or gives a sentence."""
    with at_most(5):
        try:
            optimizer = keras.optimizers.deserialize(config)
            names = ["a" * 40 + "!", "kernel", "x" * 40]
            weights = [keras.Variable(np.ones(2), name=name) for name in names]
            optimizer.apply([ops.ones(2) for _ in weights], weights)
        except (ValueError, TypeError) as error:
            assert str(error)
            return False
    return True


def serialized(name):
    optimizer = ALL[name](weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return json.loads(json.dumps(keras.optimizers.serialize(optimizer)))


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=4,
)


def places(tree, path=()):
    """The paths to all that a config holds."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


# what Keras wraps around is for Keras to read, and so is its own optimizers' config
WRAPPING = ("class_name", "module", "registered_name")


@pytest.mark.parametrize(
    "name", ["AngularGrad", "AdamNorm", "WGDNadam", *list(ALL)[-3:]]
)
@bounded
@given(data=st.data())
def test_damaged_config_is_a_sentence(name, data):
    """One thing is lost, replaced or added."""
    config = serialized(name)
    inside = [p for p in places(config["config"]) if p[-1] not in WRAPPING]
    inside = [p for p in inside if p[:2] != ("inner_optimizer", "config")]
    *above, key = data.draw(st.sampled_from(inside), "place")
    parent = at(config["config"], above)
    how = data.draw(st.sampled_from(["lose", "replace", "add"]), "how")
    if how == "lose":
        del parent[key]
    elif how == "replace":
        parent[key] = data.draw(JSON, "value")
    elif isinstance(parent, dict):
        parent[data.draw(st.text(max_size=8), "key")] = data.draw(JSON, "value")
    loads(config)


def deep(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    return nested


DAMAGED = {
    "paths are missing": {"exclude_from_weight_decay": {"var_names": ["bias"]}},
    "names are missing": {"exclude_from_weight_decay": {"paths": ["kernel"]}},
    "exclusions are a list": {"exclude_from_weight_decay": ["bias"]},
    "no strings": {"exclude_from_weight_decay": {"paths": [1], "var_names": [None]}},
    "no expression": {"exclude_from_weight_decay": {"paths": [], "var_names": ["("]}},
    "nested": {"exclude_from_weight_decay": deep(900)},
    "nested number": {"weight_decay": deep(900)},
}


@pytest.mark.parametrize("name", ["AngularGrad", "WGDNadam", "Transformed Adam"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_that_was_found(damage, name):
    config = serialized(name)
    change = DAMAGED[damage]
    own = config["config"]
    if "weight_decay" in change and "inner_optimizer" in own:
        own = own["inner_optimizer"]["config"]
    own.update(change)  # as deep as it is: a copy would recurse
    assert not loads(config)


ENDLESS = ["(a+)+$", "(a|a)*$", "(x+x+)+y", "(a|aa)+$"]  # exponential
ENDLESS += [
    "a*a*a*a*a*a*a*a*a*b",
    "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x$",
    "a?" * 25 + "b",
]
ENDLESS += ["(a|a)" * 25 + "b"]


@pytest.mark.parametrize("name", ["AngularGrad", "Transformed Adam"])
@pytest.mark.parametrize("pattern", ENDLESS)
def test_expressions_that_take_for_ever_do_not(pattern, name):
    """A file from elsewhere does not hang `build` or a step: refused."""
    config = serialized(name)
    config["config"]["exclude_from_weight_decay"]["var_names"] = [pattern]
    assert not loads(config)
    with pytest.raises(ValueError, match="a regular expression with"):
        kt.Only(pattern, kt.Whiten())


def test_expressions_that_people_write_are_quick():
    import time

    from keras_gradopt import arguments

    for pattern in (
        "kernel|bias|gamma|beta|embeddings",
        r"^(encoder|decoder)/block_\d+/.*(kernel|bias)$",
        r".*/?block_\d+/.*kernel$",
        "a*a*a*a*b",  # the worst that is allowed
    ):
        start = time.perf_counter()
        arguments.pattern("patterns", pattern)
        re.search(pattern, 60 * "a" + "c")
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "name", ["gradient_accumulation_steps", "ema_overwrite_frequency"]
)
def test_a_number_that_no_counter_holds(name):
    with pytest.raises(ValueError, match=name):
        kg.RAdam(use_ema=True, **{name: 10**400})
    with pytest.raises(ValueError, match="every"):
        kg.callbacks.GradientMonitor(10**400)


@pytest.mark.parametrize("depth", [2, 100, 1000])
def test_transformed_in_transformed_is_a_sentence(depth):
    """However deep: a sentence, not a `RecursionError`."""
    config = keras.optimizers.serialize(kg.Transformed(keras.optimizers.SGD(), []))
    for _ in range(depth):
        outer = copy.copy(config)
        outer["config"] = {"inner_optimizer": config, "transforms": []}
        config = outer
    assert not loads(config)


@pytest.mark.parametrize("lost", ["inner_optimizer", "transforms"])
def test_transformed_without_its_parts(lost):
    config = keras.optimizers.serialize(
        kg.Transformed(keras.optimizers.SGD(), [kt.Whiten()])
    )
    del config["config"][lost]
    with pytest.raises((ValueError, TypeError), match=r"inner.optimizer"):
        keras.optimizers.deserialize(config)
