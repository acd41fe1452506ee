"""What Keras lets a user do with an optimizer, with every one of ours.

Each feature is checked against what it means (so many micro-steps are one step on
their mean, an excluded variable decays as without decay, ...), not only run.
"""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from keras import ops
from table import ALL
from trajectories import BACKEND, MODES, numpy_values, stepper

pytestmark = pytest.mark.oldest

every_optimizer = pytest.mark.parametrize("name", ALL)

STEPS = 6


def streams(steps=STEPS, scale=1.0):
    """Gradients for the variables of `new_variables`, `(steps, *shape)` each."""
    random = np.random.default_rng(3)
    shapes = [(2, 2, 2, 3), (4, 3), (3,)]
    return [
        (scale * random.normal(size=(steps, *shape))).astype("float32")
        for shape in shapes
    ]


def new_variables():
    random = np.random.default_rng(4)
    shapes = {"conv_kernel": (2, 2, 2, 3), "kernel": (4, 3), "bias": (3,)}
    return [
        keras.Variable(random.normal(size=shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]


def go(optimizer, gradients, before_step=None, variables=None):
    """Applies gradients step by step; returns the final values."""
    variables = variables or new_variables()
    for t, grads in enumerate(zip(*gradients)):
        if before_step:
            before_step(t, optimizer)
        optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)
    return numpy_values(variables)


def assert_close(ours, theirs, rtol=2e-5, atol=2e-6):
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_differ(ours, theirs):
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs)) > 1e-5


@every_optimizer
def test_gradient_accumulation_is_one_step_on_the_mean(name):
    micro = streams(12)
    means = [g.reshape(3, 4, *g.shape[1:]).mean(axis=1) for g in micro]
    accumulating = ALL[name](gradient_accumulation_steps=4)
    assert_close(go(accumulating, micro), go(ALL[name](), means))
    assert int(accumulating.iterations) == 3


@every_optimizer
@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.5}, {"clipvalue": 0.3}, {"global_clipnorm": 1.0}], ids=str
)
def test_clipping_comes_before_the_transforms(name, clip):
    gradients = streams()
    ((kind, bound),) = clip.items()
    if kind == "clipvalue":
        clipped = [np.clip(g, -bound, bound) for g in gradients]
    else:
        norms = [
            np.sqrt((g**2).sum(axis=tuple(range(1, g.ndim)), keepdims=True))
            for g in gradients
        ]
        if kind == "global_clipnorm":
            total = np.sqrt(sum(n.reshape(-1) ** 2 for n in norms))
            norms = [total.reshape(n.shape) for n in norms]
        clipped = [g * np.minimum(1, bound / n) for g, n in zip(gradients, norms)]
    assert_close(go(ALL[name](**clip), gradients), go(ALL[name](), clipped))


@every_optimizer
def test_moving_average_of_the_weights(name):
    plain = new_variables()
    averages, gradients = numpy_values(plain), streams()
    optimizer = ALL[name]()
    for t in range(STEPS):
        go(optimizer, [g[t : t + 1] for g in gradients], variables=plain)
        decay = 0.8 if t else 0.0
        averages = [
            decay * a + (1 - decay) * v for a, v in zip(averages, numpy_values(plain))
        ]
    variables = new_variables()
    with_ema = ALL[name](use_ema=True, ema_momentum=0.8)
    assert_close(go(with_ema, gradients, variables=variables), numpy_values(plain))
    with_ema.finalize_variable_values(variables)
    assert_close(numpy_values(variables), averages)


@every_optimizer
def test_moving_average_overwrites_the_weights(name):
    optimizer = ALL[name](use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3)
    variables = new_variables()
    first = go(optimizer, [g[:3] for g in streams()], variables=variables)
    assert_differ(first, go(ALL[name](), [g[:3] for g in streams()]))
    averages = [
        v for v in optimizer.variables if "average" in v.name and "norm" not in v.name
    ]
    assert_close(first, numpy_values(averages))


@every_optimizer
def test_schedule_and_setter_agree(name):
    rates = [0.01, 0.005, 0.02, 0.01, 0.001, 0.03]

    @keras.saving.register_keras_serializable("tests")
    class Listed(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return ops.take(ops.array(rates, "float32"), ops.cast(step, "int32"))

        def get_config(self):
            return {}

    def set_rate(t, optimizer):
        optimizer.learning_rate = rates[t]

    scheduled = go(ALL[name](Listed()), streams())
    assert_close(scheduled, go(ALL[name](0.5), streams(), set_rate))
    called = iter(rates)
    assert_close(scheduled, go(ALL[name](lambda: next(called)), streams()))
    assert_differ(scheduled, go(ALL[name](0.01), streams()))


@every_optimizer
def test_weight_decay_is_decoupled_and_can_be_excluded(name):
    """Zero gradients: an unexcluded variable shrinks by 1 - rate * decay each step."""
    zero = [0 * g for g in streams()]
    optimizer = ALL[name](learning_rate=0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    start, end = numpy_values(new_variables()), go(optimizer, zero)
    shrunk = [value * 0.95**STEPS for value in start[:2]]
    assert_close(end, [*shrunk, start[2]], rtol=1e-4)


@every_optimizer
@pytest.mark.parametrize("by", ["name", "variable"])
def test_weight_decay_exclusions_survive_a_reload(name, by):
    """Keras' own forget them."""
    variables = new_variables()
    optimizer = ALL[name](learning_rate=0.1, weight_decay=0.5)
    if by == "name":
        optimizer.exclude_from_weight_decay(var_names=["bias", "conv"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[variables[0], variables[2]])
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again = keras.optimizers.deserialize(config)
    assert again.get_config() == optimizer.get_config()
    start = numpy_values(variables)
    end = go(again, [0 * g for g in streams()], variables=variables)
    shrunk = start[1] * 0.95**STEPS
    assert_close(end, [start[0], shrunk, start[2]], rtol=1e-4)
    with pytest.raises(ValueError, match="before the optimizer is built"):
        again.exclude_from_weight_decay(var_names=["kernel"])


@every_optimizer
def test_pickle_and_copy(name):
    optimizer = ALL[name](learning_rate=0.125)
    for again in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert again is not optimizer
        assert again.get_config() == optimizer.get_config()


@every_optimizer
def test_loss_scale_factor_is_taken_out(name):
    scaled = [8 * g for g in streams()]
    optimizer = ALL[name](loss_scale_factor=8.0)
    assert float(optimizer.scale_loss(ops.convert_to_tensor(2.0))) == 16.0
    assert_close(go(optimizer, scaled), go(ALL[name](), streams()), rtol=0, atol=0)


@every_optimizer
def test_loss_scale_optimizer_skips_steps_that_overflow(name):
    """Variables and slots are untouched by a step with an infinite gradient."""
    variables = new_variables()
    wrapped = keras.optimizers.LossScaleOptimizer(ALL[name](), initial_scale=8.0)
    wrapped.build(variables)
    gradients = streams()
    inner = wrapped.inner_optimizer

    apply = stepper(wrapped, variables)

    def step(t, factor):
        apply([ops.convert_to_tensor(factor * g[t]) for g in gradients])

    step(0, 8.0)
    before = numpy_values([*variables, *inner.variables])
    step(1, np.inf)
    for old, new in zip(before, numpy_values([*variables, *inner.variables])):
        np.testing.assert_array_equal(old, new)
    assert float(wrapped.dynamic_scale) == 4.0
    step(1, 4.0)
    assert_close(numpy_values(variables), go(ALL[name](), [g[:2] for g in gradients]))


@pytest.mark.skipif(BACKEND != "jax", reason="right elsewhere")
def test_nadam_with_loss_scaling_is_wrong_on_jax():
    """When this fails, Keras has mended it: tell so in docs/keras-notes.md."""
    variables, gradients = new_variables(), streams(2)
    nadam = keras.optimizers.Nadam()
    wrapped = keras.optimizers.LossScaleOptimizer(nadam, initial_scale=8.0)
    wrapped.build(variables)
    for grads in zip(*gradients):
        stepper(wrapped, variables)([ops.convert_to_tensor(8 * g) for g in grads])
    assert_differ(numpy_values(variables), go(keras.optimizers.Nadam(), gradients))


@every_optimizer
def test_missing_gradients_leave_variables_and_slots_alone(name):
    variables = new_variables()
    optimizer = ALL[name]()
    go(optimizer, [g[:2] for g in streams()], variables=variables)
    before = numpy_values(optimizer.variables), numpy_values(variables)
    grads = [ops.convert_to_tensor(streams()[0][2]), None, None]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(grads, variables)
    np.testing.assert_array_equal(numpy_values(variables)[1], before[1][1])
    assert (numpy_values(variables)[0] != before[1][0]).any()
    moved = [
        variable.path
        for variable, old in zip(optimizer.variables, before[0])
        if not np.array_equal(ops.convert_to_numpy(variable), old)
    ]
    assert moved
    assert all("conv_kernel" in path or "iteration" in path for path in moved), moved


@every_optimizer
def test_other_variables_are_a_clear_error(name):
    optimizer = ALL[name]()
    go(optimizer, streams())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([ops.ones(3)], [keras.Variable(np.ones(3))])


@every_optimizer
def test_apply_gradients_is_apply(name):
    variables = new_variables()
    optimizer = ALL[name]()
    for grads in zip(*streams()):
        pairs = list(zip(map(ops.convert_to_tensor, grads), variables))
        iterations = optimizer.apply_gradients(pairs)
    assert int(iterations) == STEPS
    assert_close(numpy_values(variables), go(ALL[name](), streams()), rtol=0, atol=0)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="new in Keras 3.15"
)
@every_optimizer
def test_multi_optimizer_runs_two_of_ours(name):
    """Each variable moves as if its optimizer were alone."""
    variables = new_variables()
    optimizers = keras.optimizers.OptimizerMap(ALL[name](0.01))
    optimizers["conv_kernel"] = ALL[name](0.001)
    both = go(
        keras.optimizers.MultiOptimizer(optimizers), streams(), variables=variables
    )
    head = go(ALL[name](0.01), streams())
    backbone = go(ALL[name](0.001), streams())
    assert_close(both, [backbone[0], *head[1:]], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES if BACKEND != "jax" else ["eager", "xla"])
@every_optimizer
def test_eager_graph_and_compiled_agree(name, mode):
    """To the rounding of float32; eager on NumPy's float64 twin is in test_methods."""
    streams, variables = streams_of_every_kind(), new_variables()
    reference = go(ALL[name](), streams)
    apply = stepper(ALL[name](), variables, mode)
    for grads in zip(*streams):
        apply([ops.convert_to_tensor(g) for g in grads])
    assert_close(numpy_values(variables), reference)


def streams_of_every_kind():
    """Ordinary gradients, one all zero, one repeated, a huge and a tiny one."""
    gradients = streams(8)
    for g in gradients:
        g[2], g[4], g[5], g[6] = 0, g[3], 1e6 * g[5], 1e-6 * g[6]
    return gradients


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@every_optimizer
def test_no_nan_where_adam_has_none(name, dtype):
    """Zero, repeated, tiny and huge gradients, in every dtype of the variables."""
    random = np.random.default_rng(0)
    one = random.normal(size=(2, 2, 2, 3))
    # the squares of `large` are finite, their sum is not
    limits = {"float16": (1e4, 100, 1e-7), "float64": (1e30, 5e153, 1e-30)}
    huge, large, tiny = limits.get(dtype, (1e30, 5e18, 1e-30))

    def final(optimizer, scales):
        variable = keras.Variable(random.normal(size=one.shape), dtype=dtype)
        optimizer.build([variable])
        apply = stepper(optimizer, [variable])
        for scale in scales:
            apply([ops.cast(ops.convert_to_tensor(scale * one), dtype)])
        wide = ops.cast(variable.value, "float64" if dtype == "float64" else "float32")
        return np.isfinite(ops.convert_to_numpy(wide))

    for scales in (
        [0, 0, 1, 1],
        [1, 1, 1, 1],
        [tiny, tiny, 1],
        [1, 1, 1, huge],
        [1, large, 1, 1],
    ):
        ours = final(ALL[name](), scales)
        adam = final(keras.optimizers.Adam(), scales)
        assert (ours >= adam).all(), scales


@every_optimizer
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_gradients_stay_in_their_variable(name, value):
    """Other variables stay finite, and other entries of this one.

    A norm or mean spreads an infinite entry over its variable, never to another.
    """
    gradients = [g.copy() for g in streams(3)]
    gradients[1][1, 0, 0] = value
    ours = go(ALL[name](), gradients)
    assert np.isfinite(ours[0]).all() and np.isfinite(ours[2]).all()
    spreads = "AdaL" in name or "Norm" in name or name == "Transformed Adam"
    if not spreads:
        others = np.ones_like(ours[1], bool)
        others[0, 0] = False
        assert np.isfinite(ours[1][others]).all()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no stateless_apply")
@every_optimizer
@pytest.mark.parametrize("accumulate", [None, 3])
def test_stateless_apply_is_apply(name, accumulate):
    optimizer = ALL[name](gradient_accumulation_steps=accumulate)
    variables = new_variables()
    optimizer.build(variables)
    state, values = optimizer.variables, [v.value for v in variables]
    state = [v.value for v in state]
    before = numpy_values([*optimizer.variables, *variables])
    for grads in zip(*streams()):
        values, state = optimizer.stateless_apply(
            state, [ops.convert_to_tensor(g) for g in grads], values
        )
    for old, new in zip(before, numpy_values([*optimizer.variables, *variables])):
        np.testing.assert_array_equal(old, new)  # nothing but the results changed
    expected = go(ALL[name](gradient_accumulation_steps=accumulate), streams())
    assert_close([ops.convert_to_numpy(v) for v in values], expected)


def small_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="relu", name="backbone"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )


def data():
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = random.normal(size=(48, 6, 6, 2)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def fit(model, epochs=1):
    return model.fit(*data(), epochs=epochs, batch_size=16, shuffle=False, verbose=0)


@pytest.mark.slow
@every_optimizer
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model()
        model.compile(ALL[name](0.01), loss="sparse_categorical_crossentropy")
        losses = fit(model, 4).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    wraps = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert wraps == (policy == "mixed_float16")


@pytest.mark.slow
@every_optimizer
def test_a_second_fit_goes_on(name):
    """Two calls of one epoch are one call of two."""
    models = []
    for calls in ([1, 1], [2]):
        model = small_model()
        model.compile(ALL[name](), loss="sparse_categorical_crossentropy")
        for epochs in calls:
            fit(model, epochs)
        models.append(numpy_values([*model.variables, *model.optimizer.variables]))
    for a, b in zip(*models):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@every_optimizer
def test_freezing_after_building_stops_a_layer(name):
    """As with Keras' own: compile again after changing `trainable`."""
    model = small_model()
    model.compile(ALL[name](), loss="sparse_categorical_crossentropy")
    fit(model)
    model.get_layer("backbone").trainable = False
    model.compile(ALL[name](), loss="sparse_categorical_crossentropy")
    frozen = numpy_values(model.get_layer("backbone").weights)
    dense = numpy_values(model.layers[-1].weights)
    fit(model)
    assert_close(numpy_values(model.get_layer("backbone").weights), frozen, 0, 0)
    assert_differ(numpy_values(model.layers[-1].weights), dense)
    model.get_layer("backbone").trainable = True
    model.compile(ALL[name](), loss="sparse_categorical_crossentropy")
    fit(model)
    assert_differ(numpy_values(model.get_layer("backbone").weights), frozen)


@pytest.mark.slow
@every_optimizer
def test_freezing_without_compiling_again(name):
    """A custom loop that leaves a layer out and takes it in again."""
    variables = new_variables()
    optimizer = ALL[name]()
    optimizer.build(variables)
    before = numpy_values(variables)
    rest, steps = variables[1:], list(zip(*streams()))
    for grads in steps[:2]:
        optimizer.apply([ops.convert_to_tensor(g) for g in grads[1:]], rest)
    np.testing.assert_array_equal(numpy_values(variables)[0], before[0])
    alone = ALL[name]()
    others = new_variables()[1:]
    for grads in steps[:2]:
        alone.apply([ops.convert_to_tensor(g) for g in grads[1:]], others)
    assert_close(numpy_values(rest), numpy_values(others), rtol=0, atol=0)
    for grads in steps[2:]:
        optimizer.apply([ops.convert_to_tensor(g) for g in grads], variables)
    assert_differ(numpy_values(variables)[:1], before[:1])


def assert_fits_alike(name, **keywords):
    """The weights are those of a plain `fit`."""
    finals = []
    for compiling in (keywords, {"jit_compile": False}):
        model = small_model()
        model.compile(ALL[name](), loss="sparse_categorical_crossentropy", **compiling)
        fit(model)
        finals.append(numpy_values(model.trainable_weights))
    assert_close(*finals, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@every_optimizer
def test_fit_eagerly(name):
    assert_fits_alike(name, run_eagerly=True)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles the model there only")
@every_optimizer
def test_fit_compiled(name):
    assert_fits_alike(name, jit_compile=True)


@pytest.mark.slow
@every_optimizer
def test_several_outputs_and_losses(name):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="relu")(inputs)
    outputs = [keras.layers.Dense(1)(hidden), keras.layers.Dense(2)(hidden)]
    model = keras.Model(inputs, outputs)
    model.compile(ALL[name](0.01), loss=["mse", "mae"])
    x = np.random.default_rng(0).normal(size=(32, 4))
    targets = [x[:, :1], x[:, 1:3]]
    losses = model.fit(x, targets, epochs=5, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]
