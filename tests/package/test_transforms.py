"""Identities and symmetries of the transforms, layouts, ranges, extreme gradients."""

from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops
from table import ALL, ROWS
from trajectories import (
    BACKEND,
    EVERY_MODE,
    MODE,
    TENSORS,
    Variables,
    gradients,
    run,
    stepper,
)

import keras_gradopt as kg
from keras_gradopt import equations
from keras_gradopt import transforms as kt

pytestmark = [pytest.mark.oldest, pytest.mark.quick]

IDENTITIES = [name for name, row in ROWS.items() if row.identity]


def assert_equal(ours, theirs):
    for tensor, a, b in zip(TENSORS, ours, theirs):
        np.testing.assert_array_equal(a, b, err_msg=tensor)


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("name", IDENTITIES)
def test_transformed_is_the_named_class(name, mode):
    streams = [g.astype("float32") for g in gradients()]
    row = ROWS[name]
    named = run(row.make(), Variables(dtype="float32"), streams, mode)
    transformed = run(row.identity(), Variables(dtype="float32"), streams, mode)
    for tensor, a, b in zip(TENSORS, transformed, named):
        atol = row.identity_rtol * np.abs(a - a[0]).max()
        np.testing.assert_allclose(b, a, rtol=0, atol=atol, err_msg=tensor)


def test_transformed_correct_norm_is_both_moments():
    streams = [g.astype("float32") for g in gradients()]
    named = kg.AdamNorm(corrected_moments="both")
    transformed = kg.Transformed(kg.AdamCore(), [kt.CorrectNorm()])
    assert_equal(
        run(transformed, Variables(dtype="float32"), streams),
        run(named, Variables(dtype="float32"), streams),
    )


EMPTY = {
    "Adam": lambda: keras.optimizers.Adam(gradient_accumulation_steps=3),
    "Lion": lambda: keras.optimizers.Lion(1e-3, clipnorm=0.1),
    "SGD": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=7
    ),
    "Nadam": lambda: keras.optimizers.Nadam(weight_decay=0.1),
}


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("inner", EMPTY)
def test_no_transforms_is_the_inner_optimizer(inner, mode):
    streams = [g.astype("float32") for g in gradients()]
    transformed = kg.Transformed(EMPTY[inner](), [])
    variables = Variables(dtype="float32")
    ours = run(transformed, variables, streams, mode)
    alone = EMPTY[inner]()
    assert_equal(ours, run(alone, Variables(dtype="float32"), streams, mode))
    assert len(alone.variables) == len(transformed.variables)
    for a, b in zip(alone.variables, transformed.variables):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_a_transform_can_stand_twice():
    """Two frictions with slots of their own, multiplied."""
    pair = [
        kt.DifferenceFriction(),
        kt.Activate("tanh", 1.0, 1.0),
        kt.DifferenceFriction(),
    ]
    optimizer = kg.Transformed(keras.optimizers.SGD(1.0), pair)
    weight = keras.Variable([0.0])
    expected, p1, p2 = 0.0, 0.0, 0.0
    for g in (0.5, -1.5, -1.0):
        optimizer.apply([ops.array([g])], [weight])
        a = np.tanh(g)
        expected -= a / (1 + np.exp(-abs(g - p1))) / (1 + np.exp(-abs(a - p2)))
        p1, p2 = g, a
    assert float(weight[0]) == pytest.approx(expected, rel=1e-5)


def test_order_matters_left_to_right():
    """Activate then ScaleByL1Norm is not ScaleByL1Norm then Activate."""
    g = np.array([1.0, -3.0])

    def step(*transforms):
        weight = keras.Variable([0.0, 0.0])
        kg.Transformed(keras.optimizers.SGD(1.0), list(transforms)).apply(
            [ops.array(g, "float32")], [weight]
        )
        return -ops.convert_to_numpy(weight)

    act, scale = kt.Activate("arctan", 0.5, 2.0), kt.ScaleByL1Norm()
    activated = 0.5 * np.arctan(2 * g)
    np.testing.assert_allclose(
        step(act, scale), np.abs(activated).sum() * activated, rtol=1e-5
    )
    np.testing.assert_allclose(step(scale, act), 0.5 * np.arctan(8 * g), rtol=1e-5)


def trajectory(name, streams, zero=True, mode=MODE):
    variables = Variables(dtype="float32")
    if zero:
        for variable in variables:
            variable.assign(ops.zeros(variable.shape))
    return run(ALL[name](), variables, [s.astype("float32") for s in streams], mode)


class Looks(kt.Transform):
    """The gradient becomes what `apply` sees; steps of SGD at rate 1 show it."""

    def apply(self, gradient, slots, context):
        seen = context.value + 10.0 * context.step + 1000.0 * context.learning_rate
        return kt.Result(ops.zeros_like(gradient) + seen)


@pytest.mark.parametrize(
    "mode", [MODE, *(["graph"] if BACKEND == "tensorflow" else [])]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: kg.SGDCore(1.0, transforms=[Looks()]),
        lambda: kg.Transformed(kg.SGDCore(1.0), [Looks()]),
        lambda: kg.Transformed(keras.optimizers.SGD(1.0), [Looks()]),
    ],
)
def test_apply_sees_value_step_and_learning_rate(make, mode):
    """Of its own variable, and before the update."""
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    optimizer = make()
    step = stepper(optimizer, variables, mode)
    expected = [np.array([1.0, 2.0]), np.array([3.0])]
    for t in (1, 2):
        step([ops.ones(2), ops.ones(1)])
        expected = [value - (value + 10.0 * t + 1000.0) for value in expected]
        for variable, value in zip(variables, expected):
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_transforms_as_an_argument_run_before_those_of_the_class():
    optimizer = kg.AngularGrad(transforms=[kt.Activate("tanh")])
    inserted = kg.Transformed(kg.AngularGrad(), [kt.Activate("tanh")])
    again = kg.AngularGrad.from_config(optimizer.get_config())
    assert repr(again) == repr(optimizer)
    kinds = ["Activate", "AngularFriction"]
    assert [type(t).__name__ for t in again.transforms] == kinds
    streams = [g.astype("float32") for g in gradients()]
    results = [
        run(one, Variables(dtype="float32"), streams)
        for one in (optimizer, inserted, again)
    ]
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])
    with pytest.raises(ValueError, match="transforms"):
        kg.RAdam(transforms=["whiten"])


@pytest.mark.parametrize("axes", [(3,), (0, 1, 2)])
def test_whitened_gradients_are_not_longer(axes):
    """WGD's eq. 17; shorter by exactly what all kernels (or entries) share."""
    gradient = np.random.default_rng(0).normal(size=(3, 3, 4, 8)) + 0.3
    whitened = ops.convert_to_numpy(
        equations.whiten(ops.convert_to_tensor(gradient, "float32"), axes)
    )
    mean = np.broadcast_to(gradient.mean(axes, keepdims=True), gradient.shape)
    left, removed = (np.sum(x.astype("float64") ** 2) for x in (whitened, mean))
    assert left + removed == pytest.approx(np.sum(gradient**2), rel=1e-5)
    assert removed > 1


@pytest.mark.parametrize("activation", ["arctan", "tanh", "log"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 20), (0.2, 10), (0.1, 5), (1, 1)])
def test_tiny_gradients_are_multiplied_by_alpha_beta(activation, alpha, beta):
    """GAF's Theorem 5: they grow if and only if alpha beta > 1; large ones shrink."""
    activate = kt.Activate(activation, alpha, beta)
    tiny, large = ops.convert_to_numpy(activate(ops.array([1e-6, 10.0])))
    assert tiny / 1e-6 == pytest.approx(alpha * beta, rel=1e-4)
    assert large < 10


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", ALL)
def test_opposite_gradients_go_the_opposite_way(name):
    there = trajectory(name, gradients())
    back = trajectory(name, [-g for g in gradients()])
    for a, b in zip(there, back):
        np.testing.assert_array_equal(a, -b)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", ALL)
def test_order_of_entries_does_not_matter(name):
    """Permuting a vector's entries permutes its trajectory (norms to rounding)."""
    stream = gradients("main", ["bias"])[0].astype("float32")
    order = np.random.default_rng(0).permutation(stream.shape[1])
    variables = [keras.Variable(np.zeros(stream.shape[1], "float32")) for _ in range(2)]
    plain = run(ALL[name](), variables[:1], [stream])[0]
    permuted = run(ALL[name](), variables[1:], [stream[:, order]])[0]
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["AdamCore", "RAdam", "NosAdam", "AdamNorm", "AdaL", "WGDAdam"]
)
def test_adaptive_steps_do_not_depend_on_the_scale_of_gradients(name):
    """Powers of two scale exactly; so does the norm and its average."""
    make = getattr(kg, name)

    def go(scale):
        optimizer = make(epsilon=1e-30)
        if name == "RAdam":
            optimizer.iterations.assign(100)  # unrectified steps do depend on it
        streams = [
            (g * scale).astype("float32") for g in gradients("plain", TENSORS[:5])
        ]
        return run(optimizer, Variables(TENSORS[:5], "float32"), streams)

    for a, b in zip(go(1.0), go(2.0**8)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["WGDSGD", "WGDAdam", "WGDNadam", "WGDRAdam"])
def test_whitened_optimizers_ignore_what_all_kernels_share(name):
    """Adding one kernel to the gradients of all changes nothing."""
    common = np.random.default_rng(1).normal(size=(3, 2, 2, 1))
    stream = gradients("plain", ["conv"])[0]

    def go(g):
        variables = Variables(["conv"], "float32")
        return run(ALL[name](), variables, [g.astype("float32")])[0]

    np.testing.assert_allclose(go(stream), go(stream + common), rtol=2e-3, atol=2e-4)


LAYERS = [
    # layer, input shape, weight, axes that count its kernels (None: not whitened)
    (lambda: layers.Conv1D(3, 2, name="a"), (9, 4), "kernel", (2,)),
    (lambda: layers.Conv2D(3, 2, name="b"), (9, 9, 4), "kernel", (3,)),
    (lambda: layers.Conv3D(3, 2, name="c"), (9, 9, 9, 4), "kernel", (4,)),
    (lambda: layers.Conv2D(4, 2, groups=2, name="d"), (9, 9, 4), "kernel", (3,)),
    (lambda: layers.Conv1DTranspose(3, 2, name="e"), (9, 4), "kernel", (1,)),
    (lambda: layers.Conv2DTranspose(3, 2, name="f"), (9, 9, 4), "kernel", (2,)),
    (lambda: layers.Conv3DTranspose(3, 2, name="g"), (9, 9, 9, 4), "kernel", (3,)),
    (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), "kernel", (1, 2)),
    (lambda: layers.DepthwiseConv2D(3, name="conv"), (9, 9, 4), "kernel", (2, 3)),
    (lambda: layers.SeparableConv1D(3, 2), (9, 4), "depthwise_kernel", (1, 2)),
    (lambda: layers.SeparableConv1D(3, 2), (9, 4), "pointwise_kernel", (2,)),
    (lambda: layers.SeparableConv2D(3, 2), (9, 9, 4), "depthwise_kernel", (2, 3)),
    (lambda: layers.SeparableConv2D(3, 2), (9, 9, 4), "pointwise_kernel", (3,)),
    (lambda: layers.ConvLSTM2D(3, 2), (5, 9, 9, 4), "kernel", (3,)),
    (lambda: layers.ConvLSTM2D(3, 2), (5, 9, 9, 4), "recurrent_kernel", (3,)),
    (lambda: layers.Conv2D(3, 2, name="h"), (9, 9, 4), "bias", None),
    (lambda: layers.Dense(3, name="conv2d"), (4,), "kernel", None),
    (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (9, 4), "kernel", None),
    (lambda: layers.Embedding(5, 3), (2,), "embeddings", None),
    (lambda: layers.BatchNormalization(), (9, 9, 4), "gamma", None),
    (lambda: layers.LSTM(3), (9, 4), "recurrent_kernel", None),
    (lambda: layers.MultiHeadAttention(2, 3), "attention", "query", None),
]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("mean_over", ["kernels", "entries"])
@pytest.mark.parametrize(
    "case", LAYERS, ids=lambda case: f"{case[2]}{case[1]}{case[3]}"
)
def test_whitening_knows_the_layout_of_every_layer(case, mean_over):
    make, shape, weight_name, axes = case
    layer = make()
    if shape == "attention":
        layer.build((None, 5, 4), (None, 5, 4))
        weight = next(
            w for w in layer.weights if weight_name in w.path and "kernel" in w.path
        )
        assert len(weight.shape) == 3
    else:
        layer.build((None, *shape))
        weight = next(w for w in layer.weights if w.name == weight_name)
    gradient = np.random.default_rng(0).normal(size=weight.shape)
    expected = gradient
    if axes is not None:
        over = (
            axes
            if mean_over == "kernels"
            else tuple(set(range(gradient.ndim)) - set(axes))
        )
        expected = gradient - gradient.mean(axis=over, keepdims=True)
        assert np.abs(expected - gradient).max() > 0.01
    before = ops.convert_to_numpy(weight)
    optimizer = kg.WGDSGD(1.0, mean_over=mean_over)
    optimizer.apply([ops.convert_to_tensor(gradient.astype("float32"))], [weight])
    moved = before - ops.convert_to_numpy(weight)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mean_over", "filters", "channels"), [("kernels", 1, 3), ("entries", 3, 1)]
)
def test_no_layer_loses_its_gradient(mean_over, filters, channels):
    layer = layers.Conv2D(filters, 1, use_bias=False)
    layer.build((None, 4, 4, channels))
    before = ops.convert_to_numpy(layer.kernel)
    with pytest.warns(UserWarning, match="none of the 1 variables"):
        optimizer = kg.WGDSGD(1.0, mean_over=mean_over)
        optimizer.apply([ops.ones(layer.kernel.shape)], [layer.kernel])
    np.testing.assert_allclose(
        before - ops.convert_to_numpy(layer.kernel), 1.0, rtol=1e-6
    )


def test_whiten_warns_where_it_would_be_inert():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.warns(UserWarning, match="changes nothing here"):
        kg.WGDAdam().build(model.trainable_variables)


@pytest.mark.parametrize("beta_2", [0.5, 0.6, 0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_rectification_is_right_in_float32(beta_2):
    """Compared with exact fractions; the formula as printed fails this."""
    steps = [1, 2, 3, 4, 5, 6, 7, 10, 50, 99, 101, 1000, 9_999, 100_000, 1_000_000]
    for t in steps:
        decay = Fraction(beta_2) ** t if t < 1000 else Fraction(beta_2**t)
        rho_inf = 2 / (1 - Fraction(beta_2)) - 1
        rho = float(rho_inf - 2 * t * decay / (1 - decay))
        rectified, r = equations.rectification(ops.array(t, "float32"), beta_2, 4.0)
        assert bool(rectified) == (rho > 4), (t, rho)
        if rho > 4:
            top = float(rho_inf)
            square = (rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho)
            assert float(r) == pytest.approx(square**0.5, rel=1e-5), t


def test_arctan_is_right_in_float32():
    """To two units in the last place, from the smallest numbers to infinity."""
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-37, 38, 20_000)
    near_one = random.uniform(0.5, 2, 20_000)
    x = np.concatenate([sizes, -sizes, near_one, [0, np.inf, -np.inf]])
    x = x.astype("float32")
    exact = np.arctan(x.astype("float64"))
    ours = equations.gradient_activation(ops.array(x), "arctan", 1.0, 1.0)
    ours = ops.convert_to_numpy(ours)
    assert (abs(ours - exact) <= 2.4e-7 * abs(exact)).all()
    nan = equations.gradient_activation(ops.array([np.nan]), "arctan", 1.0, 1.0)
    assert np.isnan(ops.convert_to_numpy(nan)).all()


def test_bias_correction_is_right_in_float32():
    for decay in (0.0, 0.5, 0.9, 0.999, 0.99999):
        for t in (1, 2, 10, 1000, 1_000_000):
            ours = equations.bias_correction(decay, ops.array(t, "float32"))
            exact = 1 - Fraction(decay) ** t if t <= 1000 else 1 - decay**t
            assert float(ours) == pytest.approx(float(exact), rel=1e-6)


def test_angular_coefficient_range():
    """[0.5, 0.881] for cos, [0.5, 1] for tan, without NaN at right angles."""
    g = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1e30, 3e38], "float32")
    first, second = (ops.convert_to_tensor(x.ravel()) for x in np.meshgrid(g, g))
    ratio = equations.angular_ratio(first, second)
    right_angle = ops.convert_to_numpy(first * second) == -1
    assert np.isinf(ops.convert_to_numpy(ratio)[right_angle]).all()
    for angle, top in (("cos", 0.5 + 0.5 * np.tanh(1)), ("tan", 1.0)):
        c = ops.convert_to_numpy(
            equations.angular_friction(ratio, ratio, angle, 0.5, 0.5)
        )
        assert c.min() == pytest.approx(0.5)
        assert c.max() == pytest.approx(top, rel=1e-6)
        assert c[right_angle] == pytest.approx(0.5 if angle == "cos" else 1.0)
