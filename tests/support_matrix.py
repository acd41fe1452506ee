"""What works with what, in `docs/support.md`, from the outcomes of the tests.

Runs of the tests with the environment variable `SUPPORT_RESULTS` set leave their
outcomes in that folder (see `conftest.py`). From the runs on all backends, fast and
slow,

    python tests/support_matrix.py FOLDER           # writes docs/support.md
    python tests/support_matrix.py FOLDER --check   # fails if docs/support.md differs
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "support.md"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}

# section -> feature -> what shows it for every optimizer: tests, or checks of the
# conformance kit (names without test_), which tests/package/test_conformance.py runs
FEATURES = {
    "How it runs": {
        "eager, graph and XLA agree": ["modes_agree"],
        "float16, bfloat16, float32 and float64 variables; zero, repeated, 1e-30 and "
        "1e30 gradients: no NaN where Keras' Adam has none": [
            "test_no_nan_where_adam_has_none",
            "zero_gradients",
            "extreme_gradients",
        ],
        "infinite and NaN gradients stay in their variable": ["nonfinite_gradients"],
        "sparse gradients of embeddings": ["sparse_gradients"],
        "`mixed_float16` and `mixed_bfloat16`": ["test_mixed_precision_trains"],
        "custom loops: `apply`, `apply_gradients`": ["test_apply_gradients_is_apply"],
    },
    "Keras' settings": {
        "gradient accumulation": ["accumulation"],
        "`clipnorm`, `clipvalue`, `global_clipnorm`": ["clipping"],
        "moving average of the weights": ["moving_average"],
        "moving average that overwrites them": ["moving_average"],
        "schedules, callables, setting `learning_rate`": ["schedules"],
        "weight decay and `exclude_from_weight_decay`": [
            "weight_decay",
            "exclusions_reload",
            "test_weight_decay_exclusions_survive_a_reload",
        ],
        "`loss_scale_factor`": ["loss_scaling"],
        "`LossScaleOptimizer`, skipped steps": ["loss_scaling"],
        "`MultiOptimizer`": ["test_multi_optimizer_runs_two_of_ours"],
    },
    "Models": {
        "a second `fit`": ["resume"],
        "freezing and unfreezing in a custom loop": ["frozen_variables"],
        "variables without gradient": ["frozen_variables"],
        "other variables: a clear error": ["unknown_variable"],
    },
    "Nothing lost": {
        "`.keras`, reloaded in a new process": [
            "test_reloads_in_a_new_process_and_goes_on_bit_identically"
        ],
        "`.keras` files of earlier versions": ["test_saved_file_goes_on_as_it_did"],
        "`save_own_variables`": ["saved_variables"],
        "`tf.train.Checkpoint`": ["test_tensorflow_checkpoint_round_trip"],
        "killed (-9) and restored, bit by bit": [
            "test_killed_and_restored_is_never_killed"
        ],
        "pickle and copy": ["test_pickle_and_copy"],
    },
    "Several devices": {
        "`MirroredStrategy`, `fit`": ["two_devices"],
        "`MultiWorkerMirroredStrategy`, custom loop": [
            "test_multi_worker_mirrored_strategy"
        ],
        "`DataParallel` over processes, `fit`": ["test_data_parallel_over_processes"],
        "`ModelParallel`, `fit`": ["test_model_parallel"],
    },
}

# Tests that run in processes of another backend than their own.
RUNS_ON = {
    "test_data_parallel_over_processes": "jax",
    "test_model_parallel": "jax",
}

# feature, backend -> why no optimizer has it there; anything else that is missing is
# an error
LIMITS = {
    ("sparse gradients of embeddings", "jax"): "Gradients of Keras' embeddings are "
    "dense there; `BCOO` gradients pass Keras' own `optimizer_sparse_test.py`.",
    ("sparse gradients of embeddings", "torch"): "Gradients of Keras' embeddings are "
    "dense there.",
    ("`tf.train.Checkpoint`", "jax"): "A TensorFlow format.",
    ("`tf.train.Checkpoint`", "torch"): "A TensorFlow format.",
    ("`MirroredStrategy`, `fit`", "jax"): "`tf.distribute` is TensorFlow's.",
    ("`MirroredStrategy`, `fit`", "torch"): "`tf.distribute` is TensorFlow's.",
    ("`MultiWorkerMirroredStrategy`, custom loop", "jax"): "`tf.distribute` is "
    "TensorFlow's.",
    ("`MultiWorkerMirroredStrategy`, custom loop", "torch"): "`tf.distribute` is "
    "TensorFlow's.",
}
for feature in ("`DataParallel` over processes, `fit`", "`ModelParallel`, `fit`"):
    for backend in ("tensorflow", "torch"):
        LIMITS[feature, backend] = (
            "`keras.distribution` computes in parallel on JAX only."
        )
# feature, backend -> why only some optimizers are tried there
SAMPLED = {
    (
        "killed (-9) and restored, bit by bit",
        backend,
    ): "Not tried with the others: each "
    "kill costs a process, so every fourth optimizer is killed there."
    for backend in ("jax", "torch")
}
for feature, backend in (
    ("`MultiWorkerMirroredStrategy`, custom loop", "tensorflow"),
    ("`DataParallel` over processes, `fit`", "jax"),
    ("`ModelParallel`, `fit`", "jax"),
):
    SAMPLED[feature, backend] = (
        "Not tried with the others: one of each way in which an update is made "
        "(`FAMILIES` in `tests/table.py`)."
    )

JIT = (
    "`jit_compile=True` under `MirroredStrategy`",
    "`InvalidArgumentError: Trying to access resource .../replica_1 located in device "
    "CPU:1 from device CPU:0`, with a link to XLA's known issue of variables "
    "on another device",
    'leave `jit_compile` at `"auto"`: Keras compiles nothing under a strategy',
)
WORKERS = (
    "`fit` under `MultiWorkerMirroredStrategy` with more than one worker "
    "(keras-team/keras issue 20585)",
    "`ValueError: Attempt to convert a value (PerReplica...) with an unsupported type "
    "(<class '...PerReplica'>) to a Tensor.`",
    "a custom loop of `strategy.run` and `optimizer.apply` as in "
    "`tests/workers/multiworker.py`; or `fit` on JAX with "
    "`keras.distribution.DataParallel` as in `tests/workers/jax_processes.py`",
)
KERAS_CANNOT = f"""
## What Keras itself cannot do, whatever the optimizer

Each is tried with Keras' own Adam (`tests/package/test_limits.py`), so that we notice
when it is mended.

- **{"**: ".join(JIT[:2])}. Instead: {JIT[2]}.
- **{"**: ".join(WORKERS[:2])}. Instead: {WORKERS[2]}.
"""


def read(folder):
    """{test: {backend: {optimizer or None: [outcome]}}}, and Keras' own tests."""
    results = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    keras_tests = defaultdict(dict)
    for path in sorted(Path(folder).rglob("*.json")):
        run = json.loads(path.read_text())
        for entry in run["tests"]:
            where = RUNS_ON.get(entry["test"], run["backend"])
            outcome = entry["outcome"]
            results[entry["test"]][where][entry["optimizer"]].append(outcome)
            if entry["keras_tests"]:
                keras_tests[run["backend"]] |= entry["keras_tests"]
    return results, keras_tests


def supported(results, tests, backend, optimizer):
    """Whether all of the tests ran for the optimizer on the backend, and passed."""
    seen = []
    for test in tests:
        by_optimizer = results.get(test, {}).get(backend, {})
        outcomes = by_optimizer.get(optimizer, []) + by_optimizer.get(None, [])
        outcomes = [outcome for outcome in outcomes if outcome != "skipped"]
        if "failed" in outcomes:
            sys.exit(f"{test} failed on {backend} for {optimizer}")
        seen.append(bool(outcomes))
    return all(seen)


def table(*header):
    """The head of a table in Markdown; the rows follow."""
    return [row(*header), "|---" * len(header) + "|"]


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def where(backends):
    return ", ".join(BACKENDS[backend] for backend in backends)


def render(results, keras_tests, optimizers):
    """The page: exceptions first, then all of it by optimizer and by feature."""
    # (feature, backend) -> the optimizers that have it there, in order
    have = {
        (feature, backend): [
            o for o in optimizers if supported(results, tests, backend, o)
        ]
        for features in FEATURES.values()
        for feature, tests in features.items()
        for backend in BACKENDS
    }
    number = len(have) // len(BACKENDS)
    lines = [
        "# What works with what",
        "",
        f"{number} features were tried with {len(optimizers)} optimizers on "
        "TensorFlow, JAX and PyTorch (on CPUs). What is not in the first list works "
        "with every optimizer on every backend.",
        "",
        "Generated from the outcomes of the tests by `tests/support_matrix.py`; CI "
        "checks that it is current.",
        "",
        "## What does not work, or was not tried",
        "",
        *exceptions(have, optimizers),
        "",
        "## By optimizer",
        "",
        f"How many of the {number} features each has, and what it lacks that others "
        "have.",
        "",
        *by_optimizer(have, optimizers),
        "",
        "## By feature",
        "",
        "With how many of the optimizers; where not with all, the list above says why.",
        *by_feature(have, optimizers),
        KERAS_CANNOT,
        *keras_lines(keras_tests),
    ]
    return "\n".join(lines).rstrip() + "\n"


def exceptions(have, optimizers):
    """What some or all optimizers lack; what has no reason ends the program."""
    backends, gaps = defaultdict(list), []
    for (feature, backend), names in have.items():
        missing = len(optimizers) - len(names)
        why = (SAMPLED if names else LIMITS).get((feature, backend))
        if missing and why:
            backends[feature, tuple(names), why].append(backend)
        elif missing:
            gaps.append(f"{feature} on {backend}: {missing} optimizers")
    if gaps:
        sys.exit("Not shown by any test, and no reason given:\n" + "\n".join(gaps))
    for (feature, names, why), missing in backends.items():
        only = f"only with {', '.join(names)}" if names else "not"
        yield f"- **{feature}**: {only} on {where(missing)}. {why}"


def by_optimizer(have, optimizers):
    alike = defaultdict(list)  # cells -> the optimizers that have them
    for optimizer in optimizers:
        numbers, lacking = dict.fromkeys(BACKENDS, 0), defaultdict(list)
        for (feature, backend), names in have.items():
            numbers[backend] += optimizer in names
            if names and optimizer not in names:
                lacking[feature].append(backend)
        lacks = "; ".join(f"{f}: {where(missing)}" for f, missing in lacking.items())
        alike[*numbers.values(), lacks or "-"].append(optimizer)
    yield from table("optimizer", *BACKENDS.values(), "lacks")
    for cells, names in alike.items():
        yield row(", ".join(names), *cells)


def by_feature(have, optimizers):
    for section, features in FEATURES.items():
        yield from ("", f"### {section}", "")
        yield from table("feature", *BACKENDS.values())
        for feature in features:
            counts = [len(have[feature, backend]) for backend in BACKENDS]
            cells = ["all" if n == len(optimizers) else n or "-" for n in counts]
            yield row(feature, *cells)


def keras_lines(keras_tests):
    """Keras' own tests, a list for each file: how many stand-ins passed where."""
    rows = defaultdict(dict)
    for backend, tests in keras_tests.items():
        for test, outcomes in tests.items():
            passed = outcomes.count("passed")
            counts = {"passed": passed, "skipped": len(outcomes) - passed}
            rows[test][backend] = ", ".join(f"{n} {w}" for w, n in counts.items() if n)
    alike = defaultdict(lambda: defaultdict(list))  # file -> outcomes -> tests
    for test, by_backend in sorted(rows.items()):
        file, _, name = test.partition("::")
        backends = defaultdict(list)  # outcome -> where
        for backend in BACKENDS:
            backends[by_backend.get(backend, "not run")].append(backend)
        outcomes = "; ".join(f"{o} on {where(b)}" for o, b in backends.items())
        alike[file][outcomes].append(f"`{name}`")
    yield "## Keras' own tests, one by one"
    yield ""
    yield (
        "Read from the installed Keras, `SGD` and `Adam` replaced by ours "
        "(`tests/package/test_keras_own.py`); each runs with several of ours. Skips "
        "are Keras' own: what the backend cannot do, or that tf_keras is not installed."
    )
    for file, tests in alike.items():
        yield from ("", f"### `{file}`", "")
        yield from (f"- {outcomes}: {', '.join(t)}" for outcomes, t in tests.items())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    results, keras_tests = read(args.folder)
    optimizers = json.loads(next(args.folder.rglob("*.json")).read_text())["optimizers"]
    text = render(results, keras_tests, optimizers)
    if not args.check:
        DOCUMENT.write_text(text)
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != text:
        sys.exit(
            "docs/support.md is not what the tests show. Write it again: "
            "python tests/support_matrix.py FOLDER"
        )


if __name__ == "__main__":
    main()
