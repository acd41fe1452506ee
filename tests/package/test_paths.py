"""Variables are recognized by their paths, however these begin."""

import keras
import numpy as np
import pytest
from keras import layers
from table import ALL

import keras_gradopt as kg
from keras_gradopt.paths import matching, same_variables

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


@pytest.mark.parametrize(
    ("here", "saved", "expected"),
    [
        ("d/k d_1/k d_2/k", "d_1/k d_2/k d_3/k", {0: 0, 1: 1, 2: 2}),
        ("m_4/d_7/k m_4/d_8/k", "m/d/k m/d_1/k", {0: 0, 1: 1}),
        ("d_3/k d_4/k", "m_1/d/k m_1/d_1/k", {0: 0, 1: 1}),  # loaded
        ("b/k a/k", "a/k b/k", {0: 1, 1: 0}),  # names tell
        ("d/k d_1/k", "d_1/k d_2/k d_3/k", {1: 0}),  # not the same model
        ("d/k e_1/k", "d_1/k d_2/k", {}),
        ("d/k d_1/k", "d_1/k d_2/b", {1: 0}),
    ],
)
def test_the_same_model_built_again(here, saved, expected):
    assert same_variables(here.split(" "), saved.split(" ")) == expected


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


@keras.saving.register_keras_serializable("test_paths")
class Unnamed(keras.Model):
    """Layers that Keras numbers, in a process on and on."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.first, self.second = layers.Dense(4), layers.Dense(4)
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.second(self.first(x)))


def numbered(optimizer, by=1):
    """A model whose layers begin with this number; compiled."""
    keras.backend.clear_session()
    [layers.Dense(1) for _ in range(by)]
    model = Unnamed(name="model")
    model(np.zeros((1, 4), "float32"))
    model.compile(optimizer, "mse")
    return model


def loaded_with_other_numbers(model, path, by):
    model.save(path)
    if by is not None:  # else as Keras goes on counting in this process
        keras.backend.clear_session()
        [layers.Dense(1) for _ in range(by)]
    again = keras.saving.load_model(path)
    paths = [[v.path for v in m.trainable_variables] for m in (model, again)]
    assert paths[0] != paths[1]  # or this would show nothing
    return again


def assert_goes_on_alike(model, again):
    for one in (model, again):
        fit(one)
    for ours, theirs in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("by", [0, 2, None])
@pytest.mark.parametrize("name", ["AngularGrad", "Transformed Adam"])
def test_exclusions_survive_other_numbers_of_layers(name, by, tmp_path):
    optimizer = ALL[name](weight_decay=0.5)
    model = numbered(optimizer)
    optimizer.exclude_from_weight_decay(var_list=[model.first.kernel])
    fit(model)
    again = loaded_with_other_numbers(model, tmp_path / "m.keras", by)
    assert_goes_on_alike(model, again)


@pytest.mark.parametrize("name", ["AngularGrad", "Transformed Adam"])
def test_exclusions_of_what_is_frozen_at_first_are_kept(name):
    """A head is trained, then all: the backbone that was excluded still is."""
    names = ("backbone", "head", "tail")
    backbone, head, tail = (keras.Variable(np.ones(2), name=n) for n in names)
    optimizer = ALL[name](weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[backbone, head])
    with pytest.warns(UserWarning, match=r"Excluded.*\['backbone'\]"):
        optimizer.build([head, tail])
    optimizer.exclude_from_weight_decay(var_list=[head, backbone])  # as a replica does
    for _ in range(2):
        optimizer = type(optimizer).from_config(optimizer.get_config())
        # tail decays: Keras' own decay of no variable at all raises on PyTorch
        optimizer.apply([keras.ops.zeros(2)] * 3, [backbone, head, tail])
    for variable in (backbone, head):
        np.testing.assert_array_equal(variable, 1.0)
    assert np.all(keras.ops.convert_to_numpy(tail) < 1.0)


@pytest.mark.parametrize("make", [kg.AdamCore, keras.optimizers.Adam])
def test_of_two_variables_with_one_path_one_is_excluded(make):
    """Two towers made by one function: what was given counts, as in Keras."""
    one, other = (keras.Variable(np.ones(2), name="w") for _ in range(2))
    optimizer = make(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[other])
    optimizer.apply([keras.ops.zeros(2)] * 2, [one, other])
    assert [float(v[0]) for v in (one, other)] == pytest.approx([0.95, 1.0])
    again = type(optimizer).from_config(optimizer.get_config())
    if make is kg.AdamCore:  # Keras forgets it
        more = [keras.Variable(np.ones(2), name="w") for _ in range(2)]
        again.apply([keras.ops.zeros(2)] * 2, more)
        assert [float(v[0]) for v in more] == pytest.approx([0.95, 1.0])


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
        {"paths": [], "var_names": [], "built_on": ["a"]},
        {"paths": [], "var_names": [], "built_on": ["a"], "positions": [1]},
        {"paths": [], "var_names": [], "built_on": ["a"], "positions": ["a"]},
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
