"""
Title: Time of an update on a CPU
Description: Each optimizer on the variables of ResNet-50, beside what else there is.

    pip install torch pytorch-optimizer optax jax
    python benchmarks/step_time.py --csv docs/performance/step_time.csv

On TensorFlow as a graph (what `fit` runs on a CPU by default) and compiled by XLA as a
whole; optax under `jax.jit` with donated arrays; pytorch_optimizer and torch's fused
Adam eagerly. All update the same 25.6 million parameters, in turns, in one process;
the table shows medians and ranges of milliseconds. A row that is not installed is left
out, and said so.
"""

import argparse
import os
import statistics
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait take no CPU

from measurements import (
    add_rounds,
    environment,
    gradients_like,
    interleaved,
    known_rows,
    milliseconds,
    network,
    next_round,
    optimizers,
    write_csv,
)


def tensorflow_calls(variables, gradients, names):
    """`apply` of each optimizer, as a graph and compiled by XLA."""
    import tensorflow as tf

    gradients = [tf.constant(gradient) for gradient in gradients]
    calls = {}
    for name, make in optimizers().items():
        if names and name not in names:
            continue
        optimizer = make()
        optimizer.build(variables)

        def apply(optimizer=optimizer):
            optimizer.apply(gradients, variables)

        calls[f"{name} | graph"] = tf.function(apply)
        calls[f"{name} | XLA"] = tf.function(apply, jit_compile=True)
    return calls


def optax_calls(values, gradients):
    """Updates of optax, arrays donated."""
    import jax
    import optax

    gradients = [jax.numpy.asarray(gradient) for gradient in gradients]
    calls = {}
    for name in ("adam", "adabelief", "radam"):
        optimizer = getattr(optax, name)(1e-3)
        held = [jax.numpy.array(value) for value in values]
        state = {"held": held, "optimizer": optimizer.init(held)}

        def update(held, inner, gradients, optimizer=optimizer):
            updates, inner = optimizer.update(gradients, inner, held)
            return optax.apply_updates(held, updates), inner

        update = jax.jit(update, donate_argnums=(0, 1))

        def call(state=state, update=update):
            state["held"], state["optimizer"] = update(
                state["held"], state["optimizer"], gradients
            )
            jax.block_until_ready(state["held"])

        calls[f"optax {name} | jit"] = call
    return calls


def torch_calls(values, gradients):
    """`step` of pytorch_optimizer's and of torch's optimizers."""
    import torch

    def parameters():
        made = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in values]
        for parameter, gradient in zip(made, gradients):
            parameter.grad = torch.from_numpy(gradient)
        return made

    calls = {
        "torch Adam, fused | eager": torch.optim.Adam(parameters(), fused=True).step,
        "torch Adam | eager": torch.optim.Adam(parameters()).step,
    }
    try:
        import pytorch_optimizer
    except ImportError:
        print("left out: pytorch_optimizer is not installed")
        return calls
    for name in ("AdaNorm", "DiffGrad", "AdaBelief", "RAdam"):
        optimizer = getattr(pytorch_optimizer, name)(parameters())
        calls[f"pytorch_optimizer {name} | eager"] = optimizer.step
    return calls


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--optimizers", nargs="+", help="rows on TensorFlow (all)")
    make.add_argument("--network", default="ResNet50", help="of keras.applications")
    add_rounds(make, 20)
    args = make.parse_args()
    rows = known_rows(args)
    if args.rounds:
        rows += measured(args, next_round(rows))
        write_csv(args.csv, rows)
    seconds = {(row["optimizer"], row["how"]): [] for row in rows}
    for row in rows:
        seconds[row["optimizer"], row["how"]].append(row["ms"] / 1e3)
    count = max(map(len, seconds.values()))
    print(f"\n| optimizer | how | ms (range of {count}) | to keras Adam |")
    print("|---|---|---|---|")
    for (name, how), taken in seconds.items():
        adam = seconds.get(("keras Adam", how))
        ratio = statistics.median(taken) / statistics.median(adam) if adam else None
        shown = f"{ratio:.2f}" if ratio else ""
        print(f"| {name} | {how} | {milliseconds(taken)} | {shown} |")


def measured(args: argparse.Namespace, first: int) -> list[dict]:
    """New rounds, numbered from `first`."""
    variables = network(args.network).trainable_variables
    values = [variable.numpy() for variable in variables]
    gradients = gradients_like(variables)
    calls = tensorflow_calls(variables, gradients, args.optimizers)
    for others in (optax_calls, torch_calls):
        try:
            calls |= others(values, gradients)
        except ImportError as error:
            print(f"left out: {error.name} is not installed")
    rows = []
    for name, taken in interleaved(calls, args.rounds).items():
        optimizer, _, how = name.partition(" | ")
        rows += [
            {
                "optimizer": optimizer,
                "how": how,
                "round": first + i,
                "ms": round(1000 * s, 3),
            }
            for i, s in enumerate(taken)
        ]
    count = sum(value.size for value in values)
    print(f"{args.network}: {len(values)} variables, {count:,} parameters")
    print(environment("tensorflow", "jax", "optax", "torch", "pytorch_optimizer"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
