"""
Title: From a million to a billion parameters
Description: State, time of an update, and what devices tell each other.

    python benchmarks/scale.py --csv docs/performance/scale.csv \\
        --sharding-csv docs/performance/sharding.csv

The state is counted; the time is the words that an update moves (its bound, which
gpu_program.py finds reached on an H100) over a memory bandwidth: this machine's,
measured here by copying, and an H100's, from its data sheet. The second table counts
collectives in the program compiled for eight devices, forced on the host: variables
whole on each (data parallel; gradients already reduced), and split along their last or
their first axis (model parallel); and the bytes that each device holds.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import gpu_program  # sets the backend
import jax
import numpy as np
from measurements import environment, write_csv

H100_BANDWIDTH = 3.35e12  # bytes a second, NVIDIA's data sheet of the SXM5 80 GB
PARAMETERS = [10**6, 10**7, 10**8, 10**9]
SHAPES = [(1024, 1024), (3, 3, 64, 128), (128,)]
NAMES = [
    "keras Adam", "AdamCore", "GAFSGD", "AdamNorm", "AdaL", "DiffGrad",
    "DiffGradNorm", "AngularGrad", "AngularGrad, bfloat16 history", "WGDAdam",
]  # fmt: skip


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of copying 400 MB; the median of nine."""
    source = np.ones(10**8, "float32")
    target = np.empty_like(source)
    found = []
    for _ in range(10):
        begin = time.perf_counter()
        np.copyto(target, source)
        found.append(2 * source.nbytes / (time.perf_counter() - begin))
    return statistics.median(found[1:])


def shardings():
    """For each way to place tensors, a function from a shape to its sharding."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("model",))

    def place(axis):
        def of(shape):
            split = [None] * len(shape)
            if axis is not None and shape and shape[axis] % len(mesh.devices) == 0:
                split[axis] = "model"
            spec = jax.sharding.PartitionSpec(*split)
            return jax.sharding.NamedSharding(mesh, spec)

        return of

    return {"whole": place(None), "last axis": place(-1), "first axis": place(0)}


def sharding_rows(names) -> list[dict]:
    """Collectives of some optimizers; prints a table, row by row."""
    table, places, found = gpu_program.rows(), shardings(), []
    print(f"\n{len(jax.devices())} devices, {len(SHAPES)} variables")
    print("\n| optimizer | " + " | ".join(places) + " |")
    print("|---" * (len(places) + 1) + "|")
    for name in names:
        cells = []
        for where, place in places.items():
            program = gpu_program.compiled(table[name][0](), SHAPES, place)
            n, gathers = program.collectives, program.gathers
            cells.append(f"{n}, {gathers} of them gathers" if gathers else str(n))
            found.append({
                "optimizer": name, "split": where, "collectives": n,
                "gathers": gathers, "bytes_per_parameter": round(program.held, 4),
            })  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return found


def print_memory(rows) -> None:
    """The memory plan: bytes a parameter on each device, and GB of a billion."""
    by = {(row["optimizer"], row["split"]): row["bytes_per_parameter"] for row in rows}
    devices = len(jax.devices())
    print(f"\nvariables, gradients and slots on each of {devices} devices")
    print("\n| optimizer | whole | split | a billion parameters, GB, whole / split |")
    print("|---|---|---|---|")
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        whole, split = by[name, "whole"], by[name, "last axis"]
        print(f"| {name} | {whole:.2f} | {split:.2f} | {whole:.1f} / {split:.2f} |")


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--csv", type=Path)
    make.add_argument("--sharding-csv", type=Path)
    args = make.parse_args()
    table, bandwidth = gpu_program.rows(), copy_bandwidth()
    rows = []
    for name in NAMES:
        optimizer, words, shapes = table[name]
        state = gpu_program.compiled(
            optimizer(), shapes, gpu_program.sharding_of("cpu")
        ).state
        rows += [
            {
                "optimizer": name,
                "parameters": count,
                "state_bytes": round(state * count),
                "words": words,
                "ms_h100": round(1e3 * words * 4 * count / H100_BANDWIDTH, 3),
                "ms_here": round(1e3 * words * 4 * count / bandwidth, 1),
            }
            for count in PARAMETERS
        ]
    write_csv(args.csv, rows)
    print(environment("jax"))
    print(f"copying moves {bandwidth / 1e9:.1f} GB/s here\n")
    print("| optimizer | parameters | state, MB | H100, ms | here, ms |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['optimizer']} | {row['parameters']:,} | "
            f"{row['state_bytes'] / 1e6:,.0f} | {row['ms_h100']:,.2f} | "
            f"{row['ms_here']:,.0f} |"
        )

    found = sharding_rows(table)
    print_memory(found)
    write_csv(args.sharding_csv, found)


if __name__ == "__main__":
    sys.exit(main())
