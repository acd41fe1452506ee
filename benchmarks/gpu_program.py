"""
Title: What an update costs on a GPU, counted without one
Description: Kernels and words of the program that XLA compiles for an H100.

    pip install "jax[cuda12]" keras tensorflow-cpu    # 7 GB; no GPU, no driver
    python benchmarks/gpu_program.py                   # all optimizers, and the CSV

XLA compiles ahead of time for a GPU that it is told about. In the compiled text every
kernel's inputs and outputs have shapes: their bytes are the update's memory traffic,
exactly and on every machine the same. "Words" are 4-byte words per parameter and step.
With `--network ResNet50` the update is that of all its variables; the number of kernels
and the seconds to compile them are what to look at. The target "cpu" counts the program
for the CPU at hand in the same way. Tests guard the counts.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if __name__ == "__main__":  # autotuning asks for a GPU
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    )

import jax
import keras
import numpy as np
from measurements import environment, network, write_csv

import keras_gradopt
from keras_gradopt import transforms

"""
## The target
"""

# NVIDIA's data sheet of the H100 SXM5 80 GB, in XLA's words
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
"""


def sharding_of(target: str) -> jax.sharding.Sharding:
    """One device: the described H100, or this CPU."""
    if target == "cpu":
        return jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    from jax._src import xla_bridge  # JAX has no public name for an absent GPU
    from jax.experimental import topologies

    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: (
        "cuda" if name in ("cuda", "gpu") else known(name)
    )
    topology = topologies.get_topology_desc(
        platform="cuda", topology="1x1x1", target_config=H100
    )
    mesh = jax.sharding.Mesh(np.array(topology.devices).reshape(1), ("device",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


"""
## Counting
"""

_BITS = {"pred": 8, "bf16": 16}  # others end in their number of bits
_ARRAY = re.compile(r"\b(pred|bf16|[fsu](?:8|16|32|64))\[([\d,]*)\]")
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(([^)]*)\)"
)
_NOT_KERNELS = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
}


_COLLECTIVES = {
    f"{kind}{phase}"
    for kind in (
        "all-reduce", "all-gather", "all-to-all", "collective-permute",
        "reduce-scatter",
    )
    for phase in ("", "-start")
}  # fmt: skip


class Kernel(NamedTuple):
    """One instruction of the compiled program that runs."""

    operation: str
    bytes: int


def array_bytes(shape: str) -> int:
    """Bytes of all arrays in a shape as HLO text has it."""
    total = 0
    for dtype, sides in _ARRAY.findall(shape):
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype))
        total += bits // 8 * math.prod(int(n) for n in sides.split(",") if n)
    return total


def kernels(text: str) -> list[Kernel]:
    """The kernels of the entry computation, with what they read and write."""
    body = text[text.index("\nENTRY") :].splitlines()[2:]
    held, found = {}, []
    for line in body:
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, shape, operation, inputs = match.groups()
        held[name] = array_bytes(shape)
        if operation not in _NOT_KERNELS:
            read = set(re.findall(r"%([\w.-]+)", inputs))
            moved = held[name] + sum(held.get(other, 0) for other in read)
            found.append(Kernel(operation, moved))
    return found


class Program(NamedTuple):
    """An optimizer's update of one variable of each shape, compiled.

    Attributes:
        words: 4-byte words moved per parameter.
        kernels: number of kernels.
        copies: kernels that only copy.
        scratch: 4-byte words of temporary memory per parameter.
        state: bytes of slots per parameter.
        trace_seconds: of tracing and lowering.
        compile_seconds: of XLA.
        collectives: kernels that talk to other devices.
        gathers: those of them that gather whole tensors.
        held: bytes of variables, gradients and slots per parameter, on one device.
    """

    words: float
    kernels: int
    copies: int
    scratch: float
    state: float
    trace_seconds: float
    compile_seconds: float
    collectives: int
    gathers: int
    held: float


def compiled(
    optimizer: keras.optimizers.Optimizer,
    shapes: Sequence[tuple[int, ...]],
    sharding: jax.sharding.Sharding | Callable[[tuple[int, ...]], Any],
) -> Program:
    """Compiles `stateless_apply` and counts.

    Args:
        optimizer: not yet built.
        shapes: of the variables, which count as kernels of convolutions from rank 3.
        sharding: what `sharding_of` returned; or a function from a shape to the
            sharding of variables, gradients and slots that have it. The counts are
            then those of one device.
    """
    variables = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
    optimizer.build(variables)

    def described(variable):
        value = variable.value
        where = sharding(value.shape) if callable(sharding) else sharding
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=where)

    state = [described(variable) for variable in optimizer.variables]
    parameters = [described(variable) for variable in variables]

    def update(state, parameters, gradients):
        new, state = optimizer.stateless_apply(state, gradients, parameters)
        return state, new  # in the order of the donated arguments

    begin = time.perf_counter()
    places = [[x.sharding for x in group] for group in (state, parameters)]
    lowered = jax.jit(update, donate_argnums=(0, 1), out_shardings=tuple(places)).lower(
        state, parameters, parameters
    )
    traced = time.perf_counter()
    program = lowered.compile()
    end = time.perf_counter()
    found = kernels(program.as_text())
    count = sum(math.prod(shape) for shape in shapes)
    memory = program.memory_analysis()
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in state)
    return Program(
        words=sum(kernel.bytes for kernel in found) / 4 / count,
        kernels=len(found),
        copies=sum(kernel.operation.startswith("copy") for kernel in found),
        scratch=memory.temp_size_in_bytes / 4 / count,
        state=held / count,
        trace_seconds=traced - begin,
        compile_seconds=end - traced,
        collectives=sum(kernel.operation in _COLLECTIVES for kernel in found),
        gathers=sum("all-gather" in kernel.operation for kernel in found),
        held=memory.argument_size_in_bytes / count,
    )


"""
## The table
"""

SHAPES = [(1000, 1000), (3, 3, 64, 128), (128,)]
KERNELS_ONLY = [(3, 3, 256, 512), (1, 1, 512, 256)]  # where WGD acts


def rows() -> dict[str, tuple[Any, float, list]]:
    """For each name: what makes the optimizer, its bound in words, and the shapes."""
    k, t = keras.optimizers, transforms

    def over(inner, transform):
        return lambda: keras_gradopt.Transformed(inner(), [transform()])

    bounds = {
        "AdamCore": 7, "RAdam": 7, "AdaBelief": 7, "GAFAdam": 7, "NosAdam": 7,
        "AngularGrad": 11, "DiffGrad": 9, "GAFSGD": 5, "AdaL": 8, "AdamNorm": 8,
        "RAdamNorm": 8, "AdaBeliefNorm": 8, "DiffGradNorm": 10, "WGDAdam": 8,
        "WGDNadam": 8, "WGDRAdam": 8, "WGDSGD": 6,
    }  # fmt: skip
    table = {
        "keras Adam": (k.Adam, 7, SHAPES),
        "keras SGD, momentum": (lambda: k.SGD(momentum=0.9), 5, SHAPES),
    }
    for name, bound in bounds.items():
        shapes = KERNELS_ONLY if name.startswith("WGD") else SHAPES
        table[name] = (getattr(keras_gradopt, name), bound, shapes)
    half = {"history_dtype": "bfloat16"}
    table |= {
        "AngularGrad, bfloat16 history": (
            lambda: keras_gradopt.AngularGrad(**half), 9, SHAPES),
        "DiffGrad, bfloat16 history": (
            lambda: keras_gradopt.DiffGrad(**half), 8, SHAPES),
        "Adam, AngularFriction": (over(k.Adam, t.AngularFriction), 11, SHAPES),
        "Adam, CorrectNorm": (over(k.Adam, t.CorrectNorm), 8, SHAPES),
        "Adam, ScaleByL1Norm": (over(k.Adam, t.ScaleByL1Norm), 8, SHAPES),
        "Adam, Activate": (over(k.Adam, t.Activate), 7, SHAPES),
        "Adam, Whiten": (over(k.Adam, t.Whiten), 8, KERNELS_ONLY),
        "Lion, DifferenceFriction": (over(k.Lion, t.DifferenceFriction), 7, SHAPES),
        "Adamax, AngularFriction": (over(k.Adamax, t.AngularFriction), 11, SHAPES),
        "RMSprop, Activate": (over(k.RMSprop, t.Activate), 5, SHAPES),
        "Nadam, Whiten": (over(k.Nadam, t.Whiten), 8, KERNELS_ONLY),
        "AdamW, AngularFriction": (over(k.AdamW, t.AngularFriction), 11, SHAPES),
    }  # fmt: skip
    return table


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--optimizers", nargs="+", help="rows (default: all)")
    make.add_argument("--target", choices=["h100", "cpu"], default="h100")
    make.add_argument("--network", help="of keras.applications: all its variables")
    make.add_argument("--csv", type=Path)
    args = make.parse_args()
    sharding, found = sharding_of(args.target), []
    if args.network:
        variables = network(args.network).trainable_variables
        whole = [tuple(variable.shape) for variable in variables]
    print("| optimizer | words | bound | kernels | copies | scratch | state, bytes |")
    print("|---|---|---|---|---|---|---|")
    for name, (optimizer, bound, shapes) in rows().items():
        if args.optimizers and name not in args.optimizers:
            continue
        if args.network:  # WGD leaves those alone that are no kernels: no bound
            shapes, bound = whole, ""
        program = compiled(optimizer(), shapes, sharding)
        found.append({"optimizer": name, "bound": bound, **program._asdict()})
        print(
            f"| {name} | {program.words:.2f} | {bound} | {program.kernels} for "
            f"{len(shapes)} | {program.copies} | {program.scratch:.2f} | "
            f"{program.state:.1f} |",
            flush=True,
        )
    print(f"\n{args.target}, {environment('jax')}")
    write_csv(args.csv, found)


if __name__ == "__main__":
    sys.exit(main())
