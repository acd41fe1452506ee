"""
Title: Tracing and compiling an update
Description: Seconds and graph operations, for the variables of two networks.

    python benchmarks/tracing.py --csv docs/performance/tracing.csv
    python benchmarks/tracing.py --csv docs/performance/tracing.csv --rounds 0  # tables

On TensorFlow: seconds to trace `apply` into a graph, the first call of that graph
(which compiles what is compiled within), and the same where XLA compiles the whole.
Operations are those of the graph and of the functions that it calls, each once. Every
optimizer is traced anew in every round, in turns; a round is a process of its own, as
TensorFlow never gives back what it compiled.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import statistics
import sys
import time

os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf
from measurements import (
    add_rounds,
    environment,
    gradients_like,
    known_rows,
    network,
    next_round,
    optimizers,
    write_csv,
)

MEASURED = ("trace_s", "first_call_s", "xla_first_call_s")


def graph_operations(graph: tf.Graph) -> int:
    """Of a graph and of the functions that it calls, each counted once."""
    functions = graph.as_graph_def().library.function
    return len(graph.get_operations()) + sum(len(f.node_def) for f in functions)


def measured(make, variables, gradients) -> dict[str, float]:
    """One optimizer's seconds and counts."""
    optimizer = make()
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply(gradients, variables))
    begin = time.perf_counter()
    concrete = step.get_concrete_function()
    traced = time.perf_counter()
    concrete()
    called = time.perf_counter()
    whole = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=True)
    whole()
    end = time.perf_counter()
    return {
        "operations": graph_operations(concrete.graph),
        "trace_s": traced - begin,
        "first_call_s": called - traced,
        "xla_first_call_s": end - called,
    }


def one_round(title: str, name: str, labels: list[str] | None) -> list[dict]:
    """Every optimizer once, on the variables of one network."""
    variables = network(name).trainable_variables
    gradients = [tf.constant(array) for array in gradients_like(variables)]
    # the first trace and the first compilation of a process take longer
    measured(optimizers()["keras SGD, momentum"], variables, gradients)
    rows = []
    for label, optimizer in optimizers().items():
        if labels and label not in labels:
            continue
        found = measured(optimizer, variables, gradients)
        print(f"{name}, {title}, {label}: {found}", flush=True)
        row = {"network": name, "optimizer": label}
        rows.append(row | {k: round(v, 3) for k, v in found.items()})
    return rows


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--optimizers", nargs="+", help="rows (default: all)")
    make.add_argument("--networks", nargs="+", default=["ResNet50", "DenseNet121"])
    add_rounds(make, 3)
    args = make.parse_args()
    rows = known_rows(args)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, context, max_tasks_per_child=1
    ) as processes:
        for name in args.networks:
            first = next_round([row for row in rows if row["network"] == name])
            for number in range(args.rounds):
                title = f"round {number + 1} of {args.rounds}"
                task = processes.submit(one_round, title, name, args.optimizers)
                rows += [row | {"round": first + number} for row in task.result()]
                write_csv(args.csv, rows)  # what there is, if this is interrupted
    print(environment("tensorflow"))
    for name in dict.fromkeys(row["network"] for row in rows):
        count = len({row["round"] for row in rows if row["network"] == name})
        print(f"\n{name}, medians of {count} rounds\n")
        print("| optimizer | operations | trace, s | first call, s | XLA, s |")
        print("|---|---|---|---|---|")
        mine = [row for row in rows if row["network"] == name]
        for label in dict.fromkeys(row["optimizer"] for row in mine):
            runs = [row for row in mine if row["optimizer"] == label]
            middle = [statistics.median(row[key] for row in runs) for key in MEASURED]
            shown = " | ".join(f"{value:.2f}" for value in middle)
            print(f"| {label} | {runs[0]['operations']:,} | {shown} |")


if __name__ == "__main__":
    sys.exit(main())
