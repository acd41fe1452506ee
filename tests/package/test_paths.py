"""Variables are recognized by their paths, however these begin."""

import keras
import numpy as np
import pytest
from keras import layers
from table import ALL

import keras_gradopt as kg
from keras_gradopt.paths import matching

pytestmark = pytest.mark.oldest


@pytest.mark.parametrize(
    ("here", "saved", "expected"),
    [
        ("a/kernel a/bias", "a/kernel a/bias", {0: 0, 1: 1}),
        ("a/kernel c/kernel", "seq/a/kernel seq/inner/c/kernel", {0: 0, 1: 1}),
        ("seq/a/kernel seq/inner/c/kernel", "a/kernel c/kernel", {0: 0, 1: 1}),
        ("seq_1/a/k seq_1/b/k", "seq/a/k seq/b/k", {0: 0, 1: 1}),
        ("b/k a/k", "seq/a/k seq/b/k", {0: 1, 1: 0}),
        ("kernel a/kernel", "sub/kernel sub/a/kernel", {0: 0, 1: 1}),
        ("d/k d/k", "enc/d/k dec/d/k", {0: 0, 1: 1}),  # as many: in order
        ("d/k", "enc/d/k dec/d/k", {}),  # which of the two?
        ("enc/d/k top/k", "dec/d/k top/k", {1: 1}),
        ("a/k b/k c/k", "b/k", {1: 0}),
        ("a/kernel c/x", "ba/kernel c/x", {1: 1}),  # whole parts only
        ("", "", {0: 0}),
    ],
)
def test_matching(here, saved, expected):
    assert matching(here.split(" "), saved.split(" ")) == expected


def test_nothing_matches_nothing():
    assert matching([], ["a"]) == matching(["a"], []) == {}


@keras.saving.register_keras_serializable("test_paths")
class Subclassed(keras.Model):
    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.a = layers.Dense(3, name="a")
        self.inner = keras.Sequential([layers.Dense(2, name="c")], name="inner")

    def call(self, x):
        return self.inner(self.a(x))


def sequential():
    inner = keras.Sequential([layers.Dense(2, name="c")], name="inner")
    return keras.Sequential([layers.Dense(3, name="a"), inner])


def functional():
    inputs = keras.Input((4,))
    inner = keras.Sequential([layers.Dense(2, name="c")], name="inner")
    return keras.Model(inputs, inner(layers.Dense(3, name="a")(inputs)))


MODELS = [sequential, functional, Subclassed]


def fit(model):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, x[:, :2], batch_size=4, shuffle=False, verbose=0)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("by", ["variable", "name"])
@pytest.mark.parametrize(
    "name",
    ["AngularGrad", "Transformed Adam"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("WGDSGD", "GAFSGD")],
)
def test_exclusions_from_weight_decay_survive_a_reload(name, by, make, tmp_path):
    """The loaded model goes on as the saved one does, bit by bit."""
    model = make()
    model(np.zeros((1, 4), "float32"))
    optimizer = ALL[name](weight_decay=0.5)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert len(kernels) == 2
    if by == "variable":
        optimizer.exclude_from_weight_decay(var_list=kernels)
    else:
        optimizer.exclude_from_weight_decay(var_names=["kern"])
    model.compile(optimizer, "mse")
    fit(model)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    again.save(tmp_path / "again.keras")
    twice = keras.saving.load_model(tmp_path / "again.keras")
    paths = [[v.path for v in m.trainable_variables] for m in (model, again)]
    assert paths[0] != paths[1]  # or this would show nothing
    for one in (model, again, twice):
        fit(one)
    for one in (again, twice):
        for ours, theirs in zip(model.get_weights(), one.get_weights()):
            np.testing.assert_array_equal(ours, theirs)


def test_excluded_variable_that_is_not_there_is_named():
    one, other = (keras.Variable(np.ones(2), name=name) for name in ("one", "other"))
    optimizer = kg.AdamCore(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[one])
    with pytest.warns(UserWarning, match=r"Excluded.*\['one'\]"):
        optimizer.build([other])


@pytest.mark.parametrize(
    "damaged",
    [
        [1],
        {"paths": []},
        {"paths": "a", "var_names": []},
        {"paths": [1], "var_names": []},
        {"paths": [], "var_names": ["(a+)+$"]},
        {"paths": [], "var_names": ["("]},
    ],
)
@pytest.mark.parametrize("name", ["AngularGrad", "Transformed Adam"])
def test_damaged_exclusions_are_refused(name, damaged):
    config = {**ALL[name]().get_config(), "exclude_from_weight_decay": damaged}
    with pytest.raises(ValueError, match=r"exclude_from_weight_decay|var_names"):
        type(ALL[name]()).from_config(config)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "((a+))+", "(a|aa)+", "(?:a?a?)*", "(?P<x>a*)*", "(a{2}){3}", "(", 3],
)
def test_patterns_that_could_take_for_ever_are_refused(pattern):
    with pytest.raises(ValueError, match="var_names"):
        kg.RAdam().exclude_from_weight_decay(var_names=[pattern])


@pytest.mark.parametrize(
    "pattern", ["bias|norm", "(bias|norm)_.*", "(?:ab)+", "[(a+)+]x", r"\(a+\)+"]
)
def test_other_patterns_are_taken(pattern):
    kg.RAdam().exclude_from_weight_decay(var_names=[pattern])
