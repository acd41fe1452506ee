"""What saved state does to an optimizer: restored by name, said, or refused whole."""

import keras
import numpy as np
import pytest
from keras import ops
from scenarios import (
    CHOSEN,
    KINDS,
    MAKE,
    assert_states_equal,
    compiled,
    fit,
    ours,
    reload,
    tensorflow_only,
    trained,
    warnings_about_state,
)
from table import ALL
from trajectories import numpy_values

import keras_gradopt as kg
from keras_gradopt import transforms as kt

pytestmark = pytest.mark.slow

SHAPES = {"kernel": (3, 2), "bias": (2,), "scale": ()}


def variables(*names):
    names = names or SHAPES
    random = np.random.default_rng(0)
    made = []
    for name in names:
        with keras.name_scope("layer"):
            value = random.normal(size=SHAPES[name]).astype("float32")
            made.append(keras.Variable(value, name=name))
    return made


def step(optimizer, weights, steps=2):
    for number in range(steps):
        grads = [ops.full(w.shape, number + 1.0, dtype=w.dtype) for w in weights]
        optimizer.apply(grads, weights)


def stepped(make, *names, steps=2):
    optimizer, weights = make(), variables(*names)
    step(optimizer, weights, steps)
    return optimizer


def saved(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


def refused(optimizer, store, match):
    """The state is refused with this message, and nothing of it is assigned."""
    before = numpy_values(optimizer.variables)
    with pytest.raises(ValueError, match=match) as error:
        optimizer.load_own_variables(store)
    assert_states_equal(numpy_values(optimizer.variables), before)
    return str(error.value)


@pytest.mark.parametrize("name", [*ALL, "AdamCore"])
def test_state_of_every_other_class_is_refused(name):
    """Also where number and shapes agree, as with NosAdam's weight sum and a norm."""
    makes = {**ALL, "AdamCore": kg.AdamCore}
    accepted = []
    for other, make in makes.items():
        if other == name:
            continue
        optimizer, store = stepped(makes[name]), saved(stepped(make))
        before = numpy_values(optimizer.variables)
        try:
            optimizer.load_own_variables(store)
            accepted.append(other)
        except ValueError as error:
            message = str(error)
            assert "compile" in message and type(optimizer).__name__ in message
        else:
            continue
        assert_states_equal(numpy_values(optimizer.variables), before)
    assert not accepted


@ours
def test_state_of_keras_adam_is_refused(name):
    refused(stepped(ALL[name]), saved(stepped(keras.optimizers.Adam)), "compile")


@ours
def test_another_shape_under_the_same_name_is_refused(name):
    store = saved(stepped(ALL[name]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "kernel", (2, 3))
        optimizer = stepped(ALL[name])
    refused(optimizer, store, r"(?s)kernel.*\(2, 3\)")


@ours
def test_nothing_in_common_is_refused(name):
    store = saved(stepped(ALL[name], "scale"))
    message = refused(stepped(ALL[name], "kernel", "bias"), store, "compile")
    assert "compile=False" in message


@ours
def test_what_both_have_is_restored_by_name(name):
    """And what only one side has is named in one warning."""
    first = stepped(ALL[name], "kernel", "bias", steps=3)
    optimizer = stepped(ALL[name], "bias", "scale", steps=1)
    with warnings_about_state() as found:
        optimizer.load_own_variables(saved(first))
    assert len(found) == 1
    assert "kernel" in found[0] and "scale" in found[0]
    assert int(optimizer.iterations) == int(first.iterations) == 3
    theirs = {v.path: v for v in first.variables if "bias" in v.path}
    mine = {v.path: v for v in optimizer.variables if "bias" in v.path}
    assert len(theirs) == len(mine) > 0
    assert_states_equal(numpy_values(mine.values()), numpy_values(theirs.values()))


@ours
def test_order_of_the_variables_does_not_matter(name):
    first, weights = MAKE[name](), variables("kernel", "bias", "scale")
    step(first, weights)
    second, again = MAKE[name](), variables("scale", "kernel", "bias")
    second.build(again)
    with warnings_about_state() as found:
        second.load_own_variables(saved(first))
    assert not found
    for new, old in zip(again, [weights[2], *weights[:2]]):
        new.assign(old)
    step(first, weights)
    step(second, again)
    assert_states_equal(numpy_values(again), numpy_values([weights[2], *weights[:2]]))


OTHER_TRANSFORMS = {
    "one less": [kt.DifferenceFriction()],
    "the other": [kt.CorrectNorm()],
    "none": [],
    "twice": [kt.DifferenceFriction(), kt.DifferenceFriction()],
}


@pytest.mark.parametrize("transforms", OTHER_TRANSFORMS.values(), ids=OTHER_TRANSFORMS)
def test_other_transforms_are_never_silent(transforms):
    """Refused whole, or restored by name and the rest said."""

    def make(*transforms):
        return lambda: kg.Transformed(keras.optimizers.Adam(), list(transforms))

    store = saved(stepped(make(kt.DifferenceFriction(), kt.CorrectNorm()), steps=3))
    optimizer = stepped(make(*transforms), steps=1)
    before = numpy_values(optimizer.variables)
    with warnings_about_state() as found:
        try:
            optimizer.load_own_variables(store)
        except ValueError:
            assert_states_equal(numpy_values(optimizer.variables), before)
            return
    assert len(found) == 1, found


def test_transforms_in_another_order_keep_their_own_state():
    """A slot belongs to its kind of transform, wherever that stands."""

    def make(*transforms):
        return lambda: kg.Transformed(keras.optimizers.Adam(), list(transforms))

    friction, norm = kt.DifferenceFriction(), kt.CorrectNorm()
    first = stepped(make(friction, norm), steps=3)
    second = stepped(make(norm, friction), steps=1)
    with warnings_about_state() as found:
        second.load_own_variables(saved(first))
    assert not found
    values = [
        dict(zip(one.state_layout().names(), numpy_values(one.variables)))
        for one in (first, second)
    ]
    assert_states_equal(*([v[name] for name in sorted(v)] for v in values))


@ours
def test_damaged_state_is_refused(name):
    """A file cut short: not half a state."""
    optimizer, store = stepped(ALL[name], steps=1), saved(stepped(ALL[name]))
    number = len([key for key in store if key.isdigit()])
    for missing in (0, 2, number - 1):
        cut = {key: value for key, value in store.items() if key != str(missing)}
        refused(optimizer, cut, ".")


@ours
def test_state_without_steps_into_a_stepped_optimizer(name):
    """It stays wholly as it was, and says so once."""
    unbuilt = saved(ALL[name](0.5))
    optimizer = stepped(ALL[name])
    before = numpy_values(optimizer.variables)
    with warnings_about_state() as found:
        optimizer.load_own_variables(unbuilt)
    assert len(found) == 1
    assert_states_equal(numpy_values(optimizer.variables), before)


@ours
def test_state_without_steps_into_one_without_steps(name):
    optimizer = ALL[name](0.5)
    optimizer.build(variables())
    with warnings_about_state() as found:
        optimizer.load_own_variables(saved(ALL[name](0.25)))
    assert not found
    assert float(optimizer.learning_rate) == 0.25
    assert int(optimizer.iterations) == 0


@ours
def test_file_of_another_class_says_what_to_do(name, tmp_path):
    """`load_model` of a file whose optimizer was changed: weights can be had."""
    other = "RAdam"
    model, path = trained("functional", other), tmp_path / "w.weights.h5"
    model.save_weights(path)
    mine = trained("functional", name)
    before = numpy_values(mine.optimizer.variables)
    with pytest.raises(ValueError, match="RAdam") as error:
        mine.load_weights(path)
    assert "compile" in str(error.value)
    assert_states_equal(numpy_values(mine.optimizer.variables), before)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    fit(compiled(loaded, name))


@ours
def test_weights_file_of_another_class_before_compile(name, tmp_path):
    trained("functional", "RAdam").save_weights(tmp_path / "w.weights.h5")
    model = KINDS["functional"]()
    model.load_weights(tmp_path / "w.weights.h5")
    fit(compiled(model, name))


@ours
def test_state_survives_two_reloads(name, tmp_path):
    """A file written from a loaded model, whose paths are shorter, is as good."""
    model = trained("sequential", name)
    again, first = reload(model, tmp_path)
    third, second = reload(again, tmp_path)
    assert not first and not second
    fit(third)
    fit(model)
    assert_states_equal(
        *(numpy_values([*m.variables, *m.optimizer.variables]) for m in (third, model))
    )


@tensorflow_only
@pytest.mark.parametrize("built", [True, False])
@ours
def test_checkpoint_of_another_class_assigns_nothing(name, built, tmp_path):
    import tensorflow as tf

    def checkpoint(model):
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    path = checkpoint(trained("functional", "RAdam")).write(str(tmp_path / "c"))
    model = compiled(KINDS["functional"](), name)
    if built:
        fit(model)
    before = numpy_values([*model.variables, *model.optimizer.variables])
    with pytest.raises(ValueError, match="RAdam"):
        checkpoint(model).read(path)
        model.optimizer.build(model.trainable_variables)
    if built:
        after = numpy_values([*model.variables, *model.optimizer.variables])
        assert_states_equal(after, before)


@tensorflow_only
@ours
def test_checkpoint_of_another_layout_names_the_differences(name, tmp_path):
    import tensorflow as tf

    first, optimizer = stepped(ALL[name], "kernel"), stepped(ALL[name])
    path = tf.train.Checkpoint(optimizer=first).write(str(tmp_path / "c"))
    before = numpy_values(optimizer.variables)
    with pytest.raises(ValueError, match="bias"):
        tf.train.Checkpoint(optimizer=optimizer).read(path)
    assert_states_equal(numpy_values(optimizer.variables), before)


@tensorflow_only
@pytest.mark.parametrize("name", [*ALL, "AdamCore"])
def test_checkpoint_of_every_other_class_is_refused(name, tmp_path):
    import tensorflow as tf

    makes = {**ALL, "AdamCore": kg.AdamCore}
    accepted = []
    for other, make in makes.items():
        if other == name:
            continue
        first, optimizer = stepped(make), stepped(makes[name])
        path = tf.train.Checkpoint(optimizer=first).write(str(tmp_path / "c"))
        before = numpy_values(optimizer.variables)
        try:
            tf.train.Checkpoint(optimizer=optimizer).read(path)
            accepted.append(other)
        except ValueError:
            assert_states_equal(numpy_values(optimizer.variables), before)
    assert not accepted


def plans_of(optimizer):
    return {type(t) for p in optimizer.pipelines for t in p.transforms}


@pytest.mark.parametrize("name", ALL)
def test_build_is_whole_or_has_not_happened(name, monkeypatch):
    """A transform whose plan fails: no step without it, not even at the retry."""

    def fail(self, variables):
        raise RuntimeError("no plan")

    optimizer, weights = ALL[name](), variables()
    classes = plans_of(optimizer)
    if not classes:
        pytest.skip("has no transforms")
    before = numpy_values(weights)
    with monkeypatch.context() as patch:
        for transform in classes:
            patch.setattr(transform, "plan", fail)
        for _ in range(2):
            with pytest.raises(Exception, match=r"no plan|not built|transforms"):
                step(optimizer, weights)
            assert_states_equal(numpy_values(weights), before)
    expected = variables()
    step(ALL[name](), expected)
    try:
        step(optimizer, weights)
    except (RuntimeError, ValueError):  # refuses for good: as well
        return
    assert_states_equal(numpy_values(weights), numpy_values(expected))


@pytest.mark.parametrize("name", CHOSEN)
def test_build_that_fails_in_fit(name, monkeypatch):
    """The same through `fit`, whose second call must not train without transforms."""

    def fail(self, variables):
        raise RuntimeError("no plan")

    model = compiled(KINDS["functional"](), name)
    before = numpy_values(model.weights)
    for transform in plans_of(model.optimizer):
        monkeypatch.setattr(transform, "plan", fail)
    for _ in range(2):
        with pytest.raises(Exception, match=r"no plan|not built|transforms"):
            fit(model)
        assert_states_equal(numpy_values(model.weights), before)
