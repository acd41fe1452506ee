"""What is traced and compiled. Counts, which are the same on every machine."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from table import ALL, OPTIMIZERS
from trajectories import inner_functions, numpy_values

import keras_gradopt as kg

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="only TensorFlow builds graphs of operations"
)
SHAPES = 6 * [(3, 3, 4, 8), (8,), (5, 7), (7,)]


def variables_of(shapes, dtype="float32"):
    random = np.random.default_rng(0)
    values = [random.normal(size=shape) for shape in shapes]
    return [keras.Variable(value, dtype=dtype) for value in values]


def gradients_like(variables, seed=1):
    random = np.random.default_rng(seed)
    return [
        keras.ops.convert_to_tensor(random.normal(size=v.shape), v.dtype)
        for v in variables
    ]


def traced(optimizer, shapes=SHAPES):
    """The graph of one `apply`."""
    import tensorflow as tf

    variables = variables_of(shapes)
    optimizer.build(variables)

    @tf.function
    def step(gradients):
        optimizer.apply(gradients, variables)

    return step.get_concrete_function(gradients_like(variables)).graph


@on_tensorflow
@pytest.mark.parametrize("name", ALL)
def test_traced_once_a_shape(name):
    """One call of a compiled function a variable, one function a shape."""
    calls = inner_functions(traced(ALL[name]()))
    assert len(calls) == len(SHAPES)
    assert len(set(calls)) == len(set(SHAPES))


@on_tensorflow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_graph_is_no_larger_than_adams(name):
    """Of 24 variables; those of the inner functions counted too, each once."""

    from tracing import graph_operations

    adams = graph_operations(traced(keras.optimizers.Adam()))
    assert len(SHAPES) < graph_operations(traced(ALL[name]())) <= adams


@on_tensorflow
def test_compiled_functions_do_not_outlive_a_trace():
    """A setting changed between two traces counts in the second."""
    import tensorflow as tf

    def after_two_steps(change):
        variables = variables_of([(4, 5)])
        optimizer = kg.AngularGrad(0.1)
        for beta_1 in (0.9, 0.1):
            if change:
                optimizer.beta_1 = beta_1
            step = tf.function(lambda g: optimizer.apply(g, variables))
            step(gradients_like(variables))
        return numpy_values(variables)[0]

    eager = variables_of([(4, 5)])
    optimizer = kg.AngularGrad(0.1)
    for optimizer.beta_1 in (0.9, 0.1):
        optimizer.apply(gradients_like(eager), eager)
    np.testing.assert_allclose(after_two_steps(True), numpy_values(eager)[0], 1e-5)
    assert abs(after_two_steps(False) - numpy_values(eager)[0]).max() > 1e-3


@on_tensorflow
@pytest.mark.slow
def test_compiled_under_mirrored_strategy():
    """Where Keras cannot compile a step, the update of each variable still is."""
    script = Path(__file__).parents[1] / "workers" / "mirrored_program.py"
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    variables, replicas, calls, functions, shapes = json.loads(done.stdout)
    assert replicas == 2
    assert calls == variables * replicas
    assert functions == shapes * replicas  # TensorFlow traces for each device


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="compiled by JAX for eight devices")
def test_collectives():
    """Nothing for elementwise methods, one all-reduce for norms, nothing gathered."""
    expected = {
        "AngularGrad": {"whole": 0, "last axis": 0, "first axis": 0},
        "AdamNorm": {"whole": 0, "last axis": 1, "first axis": 1},
        "WGDAdam": {"whole": 0, "last axis": 2, "first axis": 0},
    }
    code = f"import json, scale; print(json.dumps(scale.sharding_rows({[*expected]})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).parents[2] / "benchmarks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for row in json.loads(done.stdout.splitlines()[-1]):
        assert row["collectives"] == expected[row["optimizer"]][row["split"]], row
        assert row["gathers"] == 0, row


@on_tensorflow
def test_transform_that_xla_cannot_compile():
    """It is traced once a shape, but not compiled."""
    import tensorflow as tf

    class Printed(kg.transforms.Transform):
        jit_compile = False

        def apply(self, gradient, slots, context):
            doubled = tf.numpy_function(lambda g: 2 * g, [gradient], tf.float32)
            return kg.transforms.Result(tf.ensure_shape(doubled, gradient.shape))

    optimizer = kg.Transformed(keras.optimizers.SGD(1.0), [Printed()])
    variables = [keras.Variable([1.0, 2.0])]
    optimizer.build(variables)
    tf.function(lambda: optimizer.apply([tf.ones(2)], variables))()
    np.testing.assert_array_equal(numpy_values(variables)[0], [-1, 0])


@on_tensorflow
def test_xla_can_be_kept_out(monkeypatch):
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", "0")
    assert inner_functions(traced(kg.AngularGrad())) == []
    monkeypatch.setenv("KERAS_GRADOPT_JIT_COMPILE", "1")
    assert inner_functions(traced(kg.AngularGrad()))
    import platform

    import tensorflow as tf

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert inner_functions(traced(kg.AngularGrad())) == []


@on_tensorflow
def test_variables_of_two_dtypes():
    """Of the same shape, in one graph; each as if it were alone."""
    import tensorflow as tf

    def after(dtypes):
        variables = [variables_of([(4, 5)], dtype)[0] for dtype in dtypes]
        optimizer = kg.AngularGrad(0.1)
        optimizer.build(variables)
        step = tf.function(lambda g: optimizer.apply(g, variables))
        for seed in range(3):
            step(gradients_like(variables, seed))
        return dict(zip(dtypes, numpy_values(variables)))

    def gradients_like(variables, seed):
        noise = np.random.default_rng(seed).normal(size=(4, 5))
        return [tf.constant(noise, variable.dtype) for variable in variables]

    both = after(["float32", "float64", "bfloat16"])
    for dtype, values in both.items():
        np.testing.assert_array_equal(values, after([dtype])[dtype])


@on_tensorflow
def test_inside_a_branch():
    """`apply` in one branch of a `tf.cond`, as where overflowing steps are skipped."""
    import tensorflow as tf

    variables = variables_of([(4, 5), (4, 5)])
    before = numpy_values(variables)
    optimizer = kg.NosAdam(0.1)
    optimizer.build(variables)
    gradients = gradients_like(variables)

    @tf.function
    def step(wanted):
        def apply():
            optimizer.apply(gradients, variables)
            return True

        return tf.cond(wanted, apply, lambda: False)

    step(tf.constant(False))
    for old, new in zip(before, numpy_values(variables)):
        np.testing.assert_array_equal(old, new)
    step(tf.constant(True))
    for old, new in zip(before, numpy_values(variables)):
        assert (old != new).all()


@pytest.mark.parametrize("returned", [0, 1, 3])
def test_number_of_returned_slots(returned):
    """As many as there are, or none, which leaves them as they are."""

    class Remembering(kg.transforms.Transform):
        slots = (kg.transforms.Slot("a"), kg.transforms.Slot("b", initial=7.0))

        def apply(self, gradient, slots, context):
            return kg.transforms.Result(gradient, None, returned * [gradient])

    optimizer = kg.Transformed(keras.optimizers.SGD(1.0), [Remembering()])
    variables = variables_of([(3,)])
    if returned:
        with pytest.raises(ValueError, match=f"2 slots.*returned {returned}"):
            optimizer.apply(gradients_like(variables), variables)
    else:
        optimizer.apply(gradients_like(variables), variables)
        a, b = (v for v in optimizer.variables if v.shape == (3,))
        assert (numpy_values([a, b]) == np.array([[0], [7]])).all()


def test_slots_may_change_places():
    """Also where variables are assigned in place."""

    class Swap(kg.transforms.Transform):
        slots = (
            kg.transforms.Slot("a", initial=1.0),
            kg.transforms.Slot("b", initial=2.0),
        )

        def apply(self, gradient, slots, context):
            a, b = slots
            return kg.transforms.Result(gradient, None, [b, a])

    for inner in (keras.optimizers.SGD(1.0), kg.AdamCore()):
        optimizer = kg.Transformed(inner, [Swap()])
        variables = variables_of([(3,)])
        optimizer.apply(gradients_like(variables), variables)
        a, b = (v for v in optimizer.variables if "swap" in v.path)
        assert (numpy_values([a, b]) == np.array([[2], [1]])).all()


# Half the memory for history


@pytest.mark.parametrize(
    ("make", "history", "whole"),
    [(kg.AngularGrad, 2, 16), (kg.DiffGrad, 1, 12), (kg.DiffGradNorm, 1, 12)],
)
def test_history_in_bfloat16(make, history, whole):
    """Bytes of state, a config that keeps it, and an update that differs a little."""
    found = {}
    for dtype in (None, "bfloat16"):
        variables = variables_of([(50, 40)])
        optimizer = make(0.01, history_dtype=dtype)
        for seed in range(20):
            optimizer.apply(gradients_like(variables, seed), variables)
        held = sum(
            int(np.prod(v.shape)) * (2 if v.dtype == "bfloat16" else 4)
            for v in optimizer.variables
            if len(v.shape)
        )
        assert held == 2000 * (whole - (2 * history if dtype else 0))
        assert type(optimizer).from_config(optimizer.get_config()).get_config() == (
            optimizer.get_config()
        )
        found[dtype] = numpy_values(variables)[0]
    moved = abs(found[None] - variables_of([(50, 40)])[0].numpy()).mean()
    apart = abs(found[None] - found["bfloat16"]).mean()
    assert 0 < apart < 0.01 * moved


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_history_in_bfloat16_is_saved(tmp_path, suffix):
    """The next step after a reload is the same, to the last bit."""

    def new_model():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(kg.AngularGrad(0.1, history_dtype="bfloat16"), "mse")
        return model

    images, targets = np.eye(3), np.ones((3, 2))
    model = new_model()
    model.fit(images, targets, epochs=3, verbose=0)
    path = str(tmp_path / f"saved{suffix}")
    if suffix == ".keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = new_model()
        again.optimizer.build(again.trainable_variables)
        again.load_weights(path)
    assert sum(v.dtype == "bfloat16" for v in again.optimizer.variables) == 4
    for each in (model, again):
        each.fit(images, targets, epochs=2, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)


# The program for a GPU, counted by benchmarks/gpu_program.py

HLO = """
HloModule m

%fused (p: f32[10,3]) -> f32[10,3] {
  %p = f32[10,3]{1,0} parameter(0)
  ROOT %n = f32[10,3]{1,0} negate(%p)
}

ENTRY %main (a: f32[10,3], b: bf16[10,3]) -> (f32[10,3], bf16[10,3]) {
  %a = f32[10,3]{1,0} parameter(0)
  %b = bf16[10,3]{1,0} parameter(1)
  %f = (f32[10,3]{1,0}, bf16[10,3]{1,0}) fusion(%a, %b), kind=kLoop, calls=%fused
  %first = f32[10,3]{1,0} get-tuple-element(%f), index=0
  %second = bf16[10,3]{1,0} get-tuple-element(%f), index=1
  %c = bf16[10,3]{1,0} copy(%second)
  ROOT %t = (f32[10,3]{1,0}, bf16[10,3]{1,0}) tuple(%first, %c)
}
"""


@pytest.fixture
def gpu_program():
    if BACKEND != "jax":
        pytest.skip("counted with JAX")
    import gpu_program

    return gpu_program


def test_kernels_are_counted(gpu_program):
    """30 entries of 4 and of 2 bytes read and written; then 2 and 2 copied."""
    assert gpu_program.kernels(HLO) == [("fusion", 360), ("copy", 120)]


def test_known_programs_on_a_cpu(gpu_program):
    """XLA on CPUs writes the moments and reads them again: 10 words, not 7."""
    sharding = gpu_program.sharding_of("cpu")
    for optimizer, words in (
        (keras.optimizers.SGD(), 3),
        (kg.AdamCore(), 10),
        (kg.AngularGrad(), 25),
    ):
        program = gpu_program.compiled(optimizer, [(1000, 100)], sharding)
        assert words / 2 < program.words <= words + 0.01


def test_the_program_of_a_network(gpu_program, tmp_path, monkeypatch):
    """`--network`: all its variables in one program, for each optimizer named."""
    small = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    monkeypatch.setattr(gpu_program, "network", {"Small": small}.get)
    flags = ["--network", "Small", "--target", "cpu", "--csv", str(tmp_path / "c.csv")]
    names = ["--optimizers", "keras Adam", "AngularGrad"]
    monkeypatch.setattr("sys.argv", ["gpu_program.py", *flags, *names])
    seen, compiled = [], gpu_program.compiled

    def spied(optimizer, shapes, sharding):
        seen.append(shapes)
        return compiled(optimizer, shapes, sharding)

    monkeypatch.setattr(gpu_program, "compiled", spied)
    gpu_program.main()
    assert seen == [[(64, 32), (32,)]] * 2
    with open(tmp_path / "c.csv", newline="") as file:
        adam, angular = csv.DictReader(file)
    assert (adam["optimizer"], angular["optimizer"]) == ("keras Adam", "AngularGrad")
    count = 64 * 32 + 32
    assert float(adam["state"]) == pytest.approx(8, abs=2 * 8 / count + 1e-6)
    assert float(angular["state"]) == pytest.approx(16, abs=2 * 8 / count + 1e-6)
    assert adam["bound"] == angular["bound"] == ""


@pytest.mark.parametrize("name", ["AngularGrad", "AdamNorm", "WGDAdam", "GAFSGD"])
def test_words_on_an_h100(name, gpu_program):
    """Where JAX' plugin for CUDA is installed; no GPU is needed."""
    pytest.importorskip("jax_cuda12_plugin")
    optimizer, bound, shapes = gpu_program.rows()[name]
    program = gpu_program.compiled(optimizer(), shapes, gpu_program.sharding_of("h100"))
    assert program.words <= 1.02 * bound
    assert program.copies == 0
