"""The scripts that draw the figures of the documentation, at small size."""

import csv
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import table
import twins
from keras import ops

import keras_gradopt

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from figures import (
    alive,
    coefficients,
    drawing,
    equivalent_surfaces,
    front,
    gradient_norms,
    loss_landscape,
    real_images,
    surfaces,
    toy_functions,
    wgd_bars,
)

pytestmark = [pytest.mark.slow, pytest.mark.backend_independent]
SCRIPTS = [
    coefficients,
    equivalent_surfaces,
    front,
    gradient_norms,
    loss_landscape,
    surfaces,
    toy_functions,
    wgd_bars,
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__.split(".")[-1])
def test_a_script_draws_its_figure(script, tmp_path, capsys):
    path = tmp_path / "new" / "figure.png"
    script.main(["--small", "--output", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert str(path) in shown and "nan" not in shown.replace("nan |", "")


def test_a_small_figure_is_never_the_published_one():
    published = drawing.arguments("surfaces", "", []).output
    assert published == Path("docs/figures/surfaces.png")
    small = drawing.arguments("surfaces", "", ["--small"]).output
    assert small == Path("runs/figures/surfaces.png")
    given = drawing.arguments("surfaces", "", ["--small", "--output", "x.png"]).output
    assert given == Path("x.png")


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """XLA would take longer to compile these small programs than they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_GRADOPT_JIT_COMPILE", "0")
        yield


# --- WGD's bars


def test_wgds_bars_are_the_printed_and_the_committed_numbers():
    paper = wgd_bars.printed(["wgd-3", "wgd-8"])
    assert paper["DenseNet-121", "SGD"] == [[87.00, 87.65]]
    assert len(paper) == 2 * 4
    with open(wgd_bars.ROWS, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "report"]
    ours = wgd_bars.measured()["CNN on digits", "SGD"]
    for pair, name in zip(np.transpose(ours), ("SGD", "WGDSGD"), strict=True):
        (first,) = (
            float(row["test_accuracy"])
            for row in rows
            if (row["task"], row["optimizer"]) == ("digits-cnn", name)
            and row["seed"] == min((r["seed"] for r in rows), key=int)
        )
        assert pair[0] == 100 * first and len(pair) == 12


# --- real images


def test_real_images_are_trained_once_and_drawn(tmp_path, capsys):
    runs, output = tmp_path / "runs", tmp_path / "new"
    flags = ["--small", "--runs", str(runs), "--output", str(output)]
    flags += ["--data-dir", str(tmp_path / "data")]
    tables = real_images.main(flags)
    folders = [path.name for path in runs.iterdir()]
    assert sorted(folders) == ["digits-resnet20-AdaL", "digits-resnet20-SGD"]
    for name in ("curves", "gradients", "lines", "surfaces"):
        picture = (output / f"real_{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    # what is printed is what the runs hold
    for row, name in zip(tables["curves"], ("SGD", "AdaL"), strict=True):
        history = real_images.columns(runs / f"digits-resnet20-{name}/history.csv")
        last = [history[c][-1] for c in ("loss", "val_loss", "val_accuracy")]
        assert row[1:] == [name, *last]
    # the rise around a solution is of its own loss
    images, labels = real_images.images_of(
        real_images.Runs(runs, str(tmp_path / "data"), []), "digits", 32
    )
    weights, loss = real_images.solution(runs / "digits-resnet20-SGD", images, labels)
    assert tables["surfaces"][0][1] == pytest.approx(loss(weights), rel=1e-5)
    made = {path: path.stat().st_mtime_ns for path in runs.glob("*/last.keras")}
    assert real_images.main(flags) == tables
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert "is finished" in capsys.readouterr().out


# --- common


def test_every_optimizer_has_a_colour_of_its_own():
    assert set(drawing.NAMED) == set(table.OPTIMIZERS)
    assert set(drawing.NAMED) < set(drawing.COLORS)
    assert len(set(drawing.COLORS.values())) == len(drawing.COLORS)


@pytest.mark.parametrize("name", list(drawing.COLORS))
def test_optimizers_by_name(name):
    optimizer = drawing.make(name, 0.5)
    half = name == "Adam, half rate"
    assert float(optimizer.learning_rate) == (0.25 if half else 0.5)
    if name in drawing.NAMED:
        assert type(optimizer) is drawing.NAMED[name]
    if name.startswith("AngularGrad"):
        (friction,) = optimizer.transforms
        assert friction.angle == ("tan" if name.endswith("tan") else "cos")


def test_a_descent_begins_anew_and_takes_the_rate():
    with drawing.float64():
        descent = drawing.Descent(
            drawing.make("AdamNorm", 1e-2), lambda p: 2 * p, [1.0, -3.0], 5
        )
        first, faster, again = descent(1e-2), descent(2e-2), descent(1e-2)
    assert keras.config.floatx() == "float32"
    assert first.shape == (6, 2) and first.dtype == np.float64
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[1], [0.99, -2.99], rtol=1e-8)
    np.testing.assert_allclose(faster[1], [0.98, -2.98], rtol=1e-8)


def test_tables_are_markdown():
    shown = drawing.table(["a", "b"], [["x", 0.123456], [1, float("inf")]])
    assert shown == "| a | b |\n| --- | --- |\n| x | 0.1235 |\n| 1 | inf |"


# --- toy functions


@pytest.mark.parametrize(
    ("name", "theta", "value"),
    [
        ("F1", -1, 0.49),
        ("F1", -0.3, 0),
        ("F1", 0.2, 0.05),
        ("F2", -1, 4.85),
        ("F2", -0.9, 0.85),
        ("F2", 0, 0.85),
        ("F3", -0.45, 0.3),
        ("F3", -0.2, 0.175),
        ("F3", 0.4, 0.35),
        ("F3", 0.45, 0.3),
        ("F3", -0.9, 0.81),
    ],
)
def test_toy_functions_are_the_papers(name, theta, value):
    assert float(toy_functions.loss(name, theta)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", list(toy_functions.FUNCTIONS))
def test_slopes_are_derivatives(name):
    kinks = np.array([*toy_functions.FUNCTIONS[name][0], 9.0])
    x = np.linspace(-1.3, 1.3, 1001)
    x = x[np.abs(x[:, None] - kinks).min(axis=1) > 2e-3]
    up, down = (
        ops.convert_to_numpy(toy_functions.loss(name, x + step))
        for step in (1e-3, -1e-3)
    )
    slopes = ops.convert_to_numpy(toy_functions.slope(name, x))
    np.testing.assert_allclose((up - down) / 2e-3, slopes, atol=1e-3)


@pytest.fixture(scope="module")
def on_f1():
    return toy_functions.paths("F1")


TWINS = {
    "SGD": (twins.sgd, {"learning_rate": 0.1 * 0.05, "momentum": 0.95}),
    toy_functions.UNDAMPED: (twins.sgd, {"learning_rate": 0.1, "momentum": 0.95}),
    "Adam": (twins.adam, {}),
    "Adam, half rate": (twins.adam, {"learning_rate": 0.05}),
    "DiffGrad": (twins.diffgrad, {}),
    "AdaBelief": (twins.adabelief, {}),
    "AngularGrad": (twins.angulargrad, {}),
    "AngularGrad tan": (twins.angulargrad, {"angle": "tan"}),
}


@pytest.mark.parametrize("name", list(TWINS))
def test_toy_paths_are_the_twins(name, on_f1):
    path = on_f1[name]
    gradients = ops.convert_to_numpy(toy_functions.slope("F1", path[:-1]))[:, None]
    twin, settings = TWINS[name]
    if twin is not twins.sgd:
        adam = {"beta_1": 0.95, "beta_2": 0.999, "epsilon": 1e-8}
        settings = {"learning_rate": 0.1, **adam, **settings}
    expected = twin(np.array([-1.0]), gradients, **settings)[:, 0]
    # Keras' SGD rounds its momentum to float32
    tolerance = 1e-5 if twin is twins.sgd else 1e-9
    np.testing.assert_allclose(path, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("Adam", 0.2),
        ("AdaBelief", 0.2),
        ("AngularGrad", 0.2),  # the paper's figure has -0.3
        ("AngularGrad tan", -0.3),
        ("DiffGrad", -0.3),
        ("Adam, half rate", -0.3),
        ("SGD", 0.2),  # the paper's figure has -0.3, which Keras' own form gives:
        (toy_functions.UNDAMPED, -0.3),
    ],
)
def test_where_optimizers_settle_on_f1(name, theta, on_f1):
    path = on_f1[name]
    assert len(path) == 301 and path[0] == -1
    value, _ = toy_functions.settled("F1", path)
    assert path[-1] == pytest.approx(theta, abs=0.02)
    assert value == pytest.approx(0.05 if theta > 0 else 0, abs=1e-3)


def test_lowest_points():
    lowest, value = toy_functions.minimum("F1")
    assert lowest == pytest.approx(-0.3, abs=1e-5) and value < 1e-9
    lowest, value = toy_functions.minimum("F2")
    assert float(toy_functions.slope("F2", lowest)) == pytest.approx(0, abs=1e-3)
    assert 0 < value < 0.05


# --- surfaces


@pytest.mark.parametrize("surface", list(surfaces.SURFACES))
def test_minima_and_gradients_of_the_surfaces(surface):
    _, gradient, start, lowest, _ = surfaces.SURFACES[surface]
    assert surfaces.height(surface, lowest) == pytest.approx(0, abs=1e-12)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-3, 3, 61)]), -1)
    assert surfaces.height(surface, grid).min() >= -1e-12
    for point in (start, lowest, (0.3, -1.7)):
        point = np.array(point)
        expected = [
            (surfaces.height(surface, point + h) - surfaces.height(surface, point - h))
            / 2e-3
            for h in 1e-3 * np.eye(2)
        ]
        found = ops.convert_to_numpy(gradient(ops.convert_to_tensor(point, "float64")))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_the_search_takes_the_best_rate_of_the_grid():
    assert surfaces.RATES[0] == 1e-6 and surfaces.RATES[-1] == 30
    rate, value, path = surfaces.search("Rastrigin", "Adam", [1e-5, 0.3, 1e3], 100)
    assert rate == 0.3 and path.shape == (101, 2)
    assert value == surfaces.score(surfaces.height("Rastrigin", path))
    assert surfaces.score(np.array([3.0, 2.0] + 18 * [1.0] + [math.nan])) == math.inf
    assert surfaces.score(np.arange(20.0)) == 18.5


@pytest.mark.parametrize("name", ["SGD", "Adam", "AngularGrad", "AdaL", "GAFSGD"])
def test_the_valley_is_followed_to_its_minimum(name):
    # rates around those that the whole search finds
    _, value, path = surfaces.search("Rosenbrock", name, surfaces.RATES[6:13], 500)
    assert value < 0.3
    assert np.linalg.norm(path[-1] - [1, 1]) < 0.9


@pytest.mark.parametrize(
    ("name", "base"), [("WGDSGD", "SGD"), ("WGDAdam", "Adam"), ("WGDRAdam", "RAdam")]
)
def test_whitening_changes_nothing_where_there_is_no_kernel(name, base):
    mine, other = (surfaces.search("Rosenbrock", n, [1e-3], 50) for n in (name, base))
    # to rounding, which a valley of Rosenbrock's makes more of at every step
    np.testing.assert_allclose(mine[2][:20], other[2][:20], rtol=1e-4)
    np.testing.assert_allclose(mine[2], other[2], atol=1e-3)


# --- equivalent surfaces


GAFS = ["arctan GAF", "tanh GAF", "log GAF"]
CLIPPINGS = ["clipping by value", "clipping by norm"]


@pytest.fixture(scope="module")
def of_quadratic():
    return equivalent_surfaces.conditions(equivalent_surfaces.quadratic_gradient)


def field(change):
    return equivalent_surfaces.changed(change, equivalent_surfaces.quadratic_gradient)


def test_the_original_surface_is_the_loss():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    heights = equivalent_surfaces.surface(field("original"), points)
    expected = points[:, 0] ** 2 + 0.2 * points[:, 1] ** 2
    np.testing.assert_allclose(heights, expected, rtol=1e-9)


@pytest.mark.parametrize("change", [*GAFS, "clipping by value"])
def test_the_gradient_of_a_surface_is_the_changed_gradient(change):
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    slopes = [
        (
            equivalent_surfaces.surface(field(change), points + h, 4000)
            - equivalent_surfaces.surface(field(change), points - h, 4000)
        )
        / 2e-3
        for h in 1e-3 * np.eye(2)
    ]
    expected = field(change)(points)
    np.testing.assert_allclose(np.transpose(slopes), expected, atol=2e-3)
    if change == "arctan GAF":
        by_hand = 0.1 * np.arctan(20 * points * [2, 0.4])
        np.testing.assert_allclose(expected, by_hand, rtol=1e-12)


def test_only_clipping_by_norm_has_no_surface(of_quadratic):
    for change, (*_, disagreement) in of_quadratic.items():
        if change == "clipping by norm":
            assert disagreement > 0.1
        else:
            assert disagreement < 1e-9


def test_condition_numbers_of_the_papers_example(of_quadratic):
    largest, smallest, zeta, center, contour, _ = of_quadratic["original"]
    np.testing.assert_allclose(
        [largest, smallest, zeta, center, contour], [2, 0.4, 5, 5, 5], rtol=1e-5
    )
    for change in GAFS:
        largest, smallest, zeta, center, contour, _ = of_quadratic[change]
        assert largest == pytest.approx(4, rel=1e-4)  # at the minimum: alpha beta l
        assert center == pytest.approx(5, rel=1e-4)  # the ratio there is unchanged
        assert zeta > 5  # against Theorem 3, whose premises do not hold
        assert 1 < contour < 5  # what the figure shows
    assert of_quadratic["arctan GAF"][1] == pytest.approx(4 / 1601, rel=1e-4)
    for change in CLIPPINGS:  # constant somewhere: not strongly convex
        assert of_quadratic[change][1:3] == (0, math.inf)


def test_the_condition_number_falls_where_the_theorem_applies():
    found = equivalent_surfaces.conditions(
        equivalent_surfaces.steep_gradient, contour=False
    )
    k, before, after = (
        equivalent_surfaces.STEEPNESS,
        found["original"],
        found["arctan GAF"],
    )
    assert before[0] == pytest.approx((k[0] / np.cos(k[0])) ** 2 / 30, rel=1e-4)
    assert before[1] == pytest.approx(k[1] ** 2 / 30, rel=1e-4)
    assert after[0] < before[0] and after[1] > before[1]
    assert after[2] < before[2] / 10


@pytest.mark.parametrize("change", list(equivalent_surfaces.CHANGES))
def test_pairs_of_points_are_within_the_extreme_slopes(change, of_quadratic):
    random = np.random.default_rng(0)
    first, second = random.uniform(-1, 1, (2, 20_000, 2))
    ratio = np.linalg.norm(
        field(change)(first) - field(change)(second), axis=-1
    ) / np.linalg.norm(first - second, axis=-1)
    largest, smallest, *_ = of_quadratic[change]
    assert smallest * (1 - 1e-6) <= ratio.min() and ratio.max() <= largest * (1 + 1e-6)


# --- loss landscape


def test_directions_have_the_norms_of_the_filters():
    random = np.random.default_rng(0)
    shapes = [(3, 3, 4, 6), (6,), (6,), (24, 5), (5,)]
    weights = [random.standard_normal(s).astype("float32") for s in shapes]
    direction = loss_landscape.filter_normalized(weights, random)
    for weight, step in zip(weights, direction):
        assert step.shape == weight.shape and step.dtype == weight.dtype
        if weight.ndim == 1:
            assert not step.any()
            continue
        for index in range(weight.shape[-1]):  # a filter of Keras is the last axis
            own = np.linalg.norm(weight[..., index])
            assert np.linalg.norm(step[..., index]) == pytest.approx(own, rel=1e-5)
        assert np.abs(np.corrcoef(weight.ravel(), step.ravel())[0, 1]) < 0.3


def test_lines_and_planes_are_where_they_should_be():
    weights = [np.array([[1.0], [2.0]])]
    first, second = [np.array([[1.0], [0.0]])], [np.array([[0.0], [1.0]])]

    def loss(moved):
        (x,), (y,) = moved[0]
        return 10 * x + y

    amounts = [-1.0, 0.0, 2.0]
    line = loss_landscape.along(loss, weights, first, amounts)
    np.testing.assert_allclose(line, [2, 12, 32])
    found = loss_landscape.plane(loss, weights, (first, second), amounts)
    np.testing.assert_allclose(found, [[1, 11, 31], [2, 12, 32], [4, 14, 34]])


def test_rise_and_unevenness():
    weights = [np.array([[3.0], [4.0]])]

    def bowl(moved):
        return float(np.sum((moved[0] - weights[0]) ** 2))

    center, rise, uneven = loss_landscape.shape(bowl, weights, 0, 4, radius=0.5)
    assert center == 0 and rise == pytest.approx(0.25 * 25)
    assert uneven == pytest.approx(0, abs=1e-9)

    def wall(moved):
        return max(0.0, float(moved[0][0, 0]) - 3)

    assert loss_landscape.shape(wall, weights, 0, 4)[2] == pytest.approx(1)


def test_training_lowers_the_loss_and_the_loss_is_kerass():
    images, labels, test_images, _ = drawing.digits()
    assert len(images) == 1437 and len(test_images) == 360
    assert images.min() == 0 and images.max() == 1
    images, labels = images[:256], labels[:256]
    network, weights = loss_landscape.train("AngularGrad", 0, images, labels, 3, True)
    assert network.count_params() == 9930
    loss = loss_landscape.loss_of(network, images, labels)
    value = loss(weights)
    expected = network.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    assert value == pytest.approx(expected, rel=1e-4)
    fresh = drawing.small_network(drawing.make("Adam", 1e-3), 0).get_weights()
    assert value < 0.9 * loss(fresh)
    assert loss(weights) == value


# --- coefficients


def test_frictions_are_within_their_bounds():
    random = np.random.default_rng(0)
    g, previous = random.standard_normal((2, 1000)) * 3
    cos = coefficients.angular(g, previous, "cos")
    tan = coefficients.angular(g, previous, "tan")
    angle = np.arctan(np.abs((g - previous) / (1 + g * previous)))
    np.testing.assert_allclose(cos, 0.5 * np.tanh(np.cos(angle)) + 0.5, rtol=1e-9)
    np.testing.assert_allclose(tan, 0.5 * np.tanh(np.tan(angle)) + 0.5, rtol=1e-6)
    assert cos.min() >= 0.5 and cos.max() <= 0.5 + 0.5 * math.tanh(1)
    assert coefficients.angular([0.3], [0.3], "cos") == pytest.approx(0.8807971)
    assert coefficients.angular([0.3], [0.3], "tan") == 0.5
    friction = coefficients.difference(g, previous)
    assert 0.5 <= friction.min() and friction.max() < 1
    assert coefficients.difference([2.0], [0.0]) == pytest.approx(1 / (1 + np.exp(-2)))


def test_gains_of_norms():
    norms = np.array([0.01, 0.5, 1.0, 7.0])
    expected = np.maximum((0.95 * 1 + 0.05 * norms) / norms, 1)
    np.testing.assert_allclose(coefficients.norm_gain(norms, 1.0), expected)
    np.testing.assert_allclose(coefficients.l1_gain([1e-3, 2.0], 50), [0.05, 100])


@pytest.mark.parametrize("activation", list(coefficients.ACTIVATIONS))
def test_activations_double_small_gradients_and_restrain_large_ones(activation):
    gain = coefficients.activated([1e-9, 0.5], activation) / [1e-9, 0.5]
    assert gain[0] == pytest.approx(2, rel=1e-6) and gain[1] < 1
    assert coefficients.activated([-0.5], activation) == -0.5 * gain[1]


def test_schedules():
    r = coefficients.rectification(np.arange(1.0, 10_001), 0.999)
    assert np.isnan(r[:4]).all() and not np.isnan(r[4:]).any()
    assert (np.diff(r[4:]) > 0).all() and 0.99 < r[-1] < 1
    assert np.isnan(coefficients.rectification(np.array([1.0, 2, 3]), 0.9)).all()
    steps = np.arange(1.0, 101)
    np.testing.assert_allclose(1 - coefficients.nosadam_decay(steps, 0), 1 / steps)
    decay = coefficients.nosadam_decay(steps, 0.1)
    sums = np.cumsum(steps**-0.1)
    np.testing.assert_allclose(decay[1:], sums[:-1] / sums[1:])
    first, second = coefficients.adam_decay(steps[:2], 0.999)
    assert first == pytest.approx(0, abs=1e-9)
    assert second == pytest.approx(0.999 / 1.999)


@pytest.mark.parametrize("kernels", [4, 64])
def test_whitening_removes_what_is_common(kernels):
    shares = np.array([0.0, 0.5, 1.0])
    removed = coefficients.removed_energy(shares, kernels, "kernels")
    np.testing.assert_allclose(removed, shares + (1 - shares) / kernels, atol=0.03)
    removed = coefficients.removed_energy(shares, 64, "entries")
    np.testing.assert_allclose(removed, shares + (1 - shares) / 144, atol=0.03)


# --- gradient norms


def test_the_corrected_norm_is_the_average_where_that_is_longer():
    images, labels, _, _ = drawing.digits()
    found = gradient_norms.norms("AdamNorm", images, labels, 3)
    assert len(found) == 6
    corrections = 0
    for own in found.values():
        assert len(own["l2"]) == 3 * 23 and own["l2"].min() > 0
        average, expected = 0.0, []
        for norm in own["l2"]:
            average = 0.95 * average + 0.05 * norm
            expected.append(max(norm, average))
        np.testing.assert_allclose(own["corrected"], expected, rtol=1e-4)
        corrections += np.sum(own["corrected"] > 1.01 * own["l2"])
    assert corrections > 10
    mean = gradient_norms.mean_over_variables(found, "l2")
    assert mean[0] == pytest.approx(sum(own["l2"][0] for own in found.values()) / 6)


@pytest.mark.parametrize("name", ["Adam", "DiffGradNorm", "AdaL"])
def test_norms_of_the_first_step(name):
    images, labels, _, _ = drawing.digits()
    found = gradient_norms.norms(name, images[:64], labels[:64], 1, run_eagerly=True)
    for own in found.values():
        assert own["l1"] > own["l2"] > 0
        # AdaNorm's e has no bias correction, and frictions leave gradients alone
        factor = own["l1"] if name == "AdaL" else 1
        np.testing.assert_allclose(own["corrected"], factor * own["l2"], rtol=1e-5)


def test_smoothing_keeps_a_line_in_place():
    steps, means = gradient_norms.smooth(np.arange(1.0, 31), 5)
    np.testing.assert_allclose(steps, means)
    assert len(steps) == 26


# --- alive


def test_three_are_alive_and_their_copies_dead(tmp_path, capsys):
    """And each inert update is the base's, up to a constant."""
    monitors = alive.main(["--small", "--output", str(tmp_path / "alive.png")])
    for real, inert in alive.PAIRS:
        assert monitors[real.__name__].alive is True
        assert monitors[inert.__name__].alive is False
        _, angles = monitors[inert.__name__].series("effect_angle")
        assert max(angles) < 1e-4
        _, scales = monitors[inert.__name__].series("effect_scale")
        constant = 0.5 if real is keras_gradopt.AngularGrad else 1
        assert np.allclose(scales, constant, rtol=1e-3)
    assert capsys.readouterr().out.count("DEAD: the optimizer is its base") == 3
