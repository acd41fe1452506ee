"""The support matrix in `docs/support.md`, from the outcomes of the tests.

Runs of the tests with the environment variable `SUPPORT_RESULTS` set leave their
outcomes in that folder (see `conftest.py`). From the runs on all backends, fast and
slow,

    python tests/support.py FOLDER           # writes docs/support.md
    python tests/support.py FOLDER --check   # fails if docs/support.md differs
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "support.md"
BACKENDS = {"tensorflow": "T", "jax": "J", "torch": "P"}

# section -> feature -> the tests that show it, each of them for every optimizer
FEATURES = {
    "How it runs": {
        "eager, graph and XLA agree": ["test_eager_graph_and_compiled_agree"],
        "`fit` with `run_eagerly=True`": ["test_fit_eagerly"],
        "`fit` with `jit_compile=True`": ["test_fit_compiled"],
        "float16, bfloat16, float32 and float64 variables; zero, repeated, 1e-30 and "
        "1e30 gradients: no NaN where Keras' Adam has none": [
            "test_no_nan_where_adam_has_none",
            "test_extreme_gradients_give_nan_only_where_adam_has_it",
        ],
        "infinite and NaN gradients stay in their variable": [
            "test_infinite_gradients_stay_in_their_variable"
        ],
        "sparse gradients of embeddings": ["test_sparse_gradients_equal_dense"],
        "`mixed_float16` and `mixed_bfloat16`": ["test_mixed_precision_trains"],
        "custom loops: `apply`, `apply_gradients`": ["test_apply_gradients_is_apply"],
        "`stateless_apply`, also accumulating": ["test_stateless_apply_is_apply"],
    },
    "Keras' settings": {
        "gradient accumulation": ["test_gradient_accumulation_is_one_step_on_the_mean"],
        "`clipnorm`, `clipvalue`, `global_clipnorm`": [
            "test_clipping_comes_before_the_transforms"
        ],
        "moving average of the weights": ["test_moving_average_of_the_weights"],
        "moving average that overwrites them": [
            "test_moving_average_overwrites_the_weights"
        ],
        "schedules, callables, setting `learning_rate`": [
            "test_schedule_and_setter_agree"
        ],
        "weight decay and `exclude_from_weight_decay`": [
            "test_weight_decay_is_decoupled_and_can_be_excluded",
            "test_weight_decay_exclusions_survive_a_reload",
        ],
        "`loss_scale_factor`": ["test_loss_scale_factor_is_taken_out"],
        "`LossScaleOptimizer`, skipped steps": [
            "test_loss_scale_optimizer_skips_steps_that_overflow"
        ],
        "`MultiOptimizer`": ["test_multi_optimizer_runs_two_of_ours"],
    },
    "Models": {
        "a second `fit`": ["test_a_second_fit_goes_on"],
        "several outputs": ["test_several_outputs_and_losses"],
        "freezing and unfreezing, compiling again": [
            "test_freezing_after_building_stops_a_layer"
        ],
        "freezing and unfreezing in a custom loop": [
            "test_freezing_without_compiling_again"
        ],
        "variables without gradient": [
            "test_missing_gradients_leave_variables_and_slots_alone"
        ],
        "other variables: a clear error": ["test_other_variables_are_a_clear_error"],
    },
    "Nothing lost": {
        "`.keras`, reloaded in a new process": [
            "test_reloads_in_a_new_process_and_goes_on_bit_identically"
        ],
        "`.keras` files of earlier versions": ["test_saved_file_goes_on_as_it_did"],
        "`save_own_variables`": ["test_own_variables_round_trip"],
        "`tf.train.Checkpoint`": ["test_tensorflow_checkpoint_round_trip"],
        "killed (-9) and restored, bit by bit": [
            "test_killed_and_restored_is_never_killed"
        ],
        "pickle and copy": ["test_pickle_and_copy"],
    },
    "Several devices": {
        "`MirroredStrategy`, `fit`": ["test_mirrored_strategy"],
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

# feature, backend -> why it is not there; anything else that is missing is an error
LIMITS = {
    ("`fit` with `jit_compile=True`", "torch"): "PyTorch: Keras compiles the model "
    "there, never the optimizer.",
    ("sparse gradients of embeddings", "jax"): "JAX: gradients of Keras' embeddings "
    "are dense; `BCOO` gradients pass Keras' own `optimizer_sparse_test.py`.",
    ("sparse gradients of embeddings", "torch"): "PyTorch: gradients of Keras' "
    "embeddings are dense.",
    ("`stateless_apply`, also accumulating", "tensorflow"): "TensorFlow: Keras raises "
    "`ValueError: stateless_apply is not supported with the TensorFlow backend`.",
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
# kills cost a process each: JAX and PyTorch take every fourth optimizer
SAMPLED = {("killed (-9) and restored, bit by bit", b) for b in ("jax", "torch")}

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

Each is tried with Keras' own Adam (`tests/test_limits.py`), so that we notice when it
is mended.

| what | the error | instead |
|---|---|---|
| {" | ".join(JIT)} |
| {" | ".join(WORKERS)} |
"""


def read(folder):
    """{test: {backend: {optimizer or None: [outcome]}}}, and Keras' own tests."""
    results = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    keras_tests = defaultdict(dict)
    for path in sorted(Path(folder).glob("*.json")):
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


def render(results, keras_tests, optimizers):
    lines = [
        "# What is supported",
        "",
        "Generated from the outcomes of the tests by `tests/support.py`; CI checks "
        "that it is current. T: TensorFlow, J: JAX, P: PyTorch (on CPUs). Where a "
        "letter is missing, a note under the table says why.",
    ]
    gaps = []
    for section, features in FEATURES.items():
        lines += ["", f"## {section}", ""]
        lines.append("| | " + " | ".join(optimizers) + " |")
        lines.append("|---|" + "---|" * len(optimizers))
        notes = {}
        for feature, tests in features.items():
            cells = defaultdict(str)
            for backend, letter in BACKENDS.items():
                have = [o for o in optimizers if supported(results, tests, backend, o)]
                for optimizer in have:
                    cells[optimizer] += letter
                missing = len(optimizers) - len(have)
                if not missing:
                    continue
                if (feature, backend) in SAMPLED and have:
                    reason = "Killed on JAX and PyTorch: every fourth optimizer."
                elif (feature, backend) in LIMITS and not have:
                    reason = LIMITS[feature, backend]
                else:
                    gaps.append(f"{feature} on {backend}: {missing} optimizers")
                    continue
                notes.setdefault(reason, len(notes) + 1)
                feature_notes = cells["notes"].split()
                if str(notes[reason]) not in feature_notes:
                    cells["notes"] += f" {notes[reason]}"
            numbers = cells.pop("notes", "").split()
            marks = f" [{', '.join(numbers)}]" if numbers else ""
            row = " | ".join(cells[optimizer] or "-" for optimizer in optimizers)
            lines.append(f"| {feature}{marks} | {row} |")
        lines.append("")
        lines += [f"[{number}] {reason}  " for reason, number in notes.items()]
    if gaps:
        sys.exit("Not shown by any test, and no reason given:\n" + "\n".join(gaps))
    lines.append(KERAS_CANNOT)
    lines += keras_lines(keras_tests)
    return "\n".join(lines).rstrip() + "\n"


def keras_lines(keras_tests):
    """Keras' own tests, one row each: how many stand-ins passed."""
    rows = defaultdict(dict)
    for backend, tests in keras_tests.items():
        for test, outcomes in tests.items():
            passed = outcomes.count("passed")
            counts = {"passed": passed, "skipped": len(outcomes) - passed}
            rows[test][backend] = ", ".join(f"{n} {w}" for w, n in counts.items() if n)
    yield "## Keras' own tests, one by one"
    yield ""
    yield (
        "Read from the installed Keras, `SGD` and `Adam` replaced by ours "
        "(`tests/test_keras_own.py`); each runs with several of ours. Skips are Keras' "
        "own: what the backend cannot do, or that tf_keras is not installed."
    )
    yield ""
    yield "| test | TensorFlow | JAX | PyTorch |"
    yield "|---|---|---|---|"
    for test, by_backend in sorted(rows.items()):
        cells = " | ".join(by_backend.get(backend, "-") for backend in BACKENDS)
        yield f"| `{test}` | {cells} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    results, keras_tests = read(args.folder)
    optimizers = json.loads(next(args.folder.glob("*.json")).read_text())["optimizers"]
    text = render(results, keras_tests, optimizers)
    if not args.check:
        DOCUMENT.write_text(text)
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != text:
        sys.exit(
            "docs/support.md is not what the tests show. Write it again: "
            "python tests/support.py FOLDER"
        )


if __name__ == "__main__":
    main()
