"""
Title: On a GPU
Description: In at most ten minutes: are the numbers right, and how fast is it.

    python benchmarks/on_gpu.py                       # writes docs/performance/gpu
    python benchmarks/on_gpu.py --minutes 3 --quick   # a trial, on a CPU as well

Needs Keras, JAX and PyTorch (optax and pytest where they are there), no network and no
TensorFlow. Parts run one after the other in processes of their own, each with a share
of the time; what one of them has measured is on the disk when the next begins, so a
part that fails or runs out of time costs no other. The page is written from the files
that there are, also by `--page`:

- `steps.csv`: an update of all optimizers on the variables of two networks, on JAX
  beside optax, on PyTorch beside its Adam;
- `kernels.csv`: the kernels of an update as a profiler sees them, beside those of the
  compiled program;
- `training.csv`: the training step of ResNet-50 in bfloat16, and its memory;
- `checks.csv`: the conformance kit, and the package's tests where pytest is there.
"""

import argparse
import csv
import functools
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = ROOT / "docs" / "performance" / "gpu"
# part, backend, share of the time
PARTS = [
    ("steps", "jax", 0.20),
    ("steps", "torch", 0.15),
    ("kernels", "jax", 0.15),
    ("training", "jax", 0.25),
    ("checks", "jax", 0.15),
    ("checks", "torch", 0.10),
]
NETWORKS = ["ResNet50", "DenseNet121"]
PROFILED = ["keras Adam", "AdamCore", "AngularGrad", "AdamNorm", "AdaL", "WGDAdam"]
TRAINED = ["keras Adam", "AngularGrad", "AdamNorm", "GAFSGD", "WGDAdam"]
CHECKED = ["AngularGrad", "AdamNorm", "GAFSGD", "AdaL", "WGDAdam"]
STEPS = 10  # in one timing: a GPU is given work ahead


"""
## What each part shares
"""


def add(folder: Path, name: str, rows: list[dict]) -> None:
    """Adds rows to a file; on the disk when this returns."""
    path = folder / name
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def device() -> str:
    """The accelerator that the backend uses, or `cpu`."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        here = torch.cuda.is_available()
        return torch.cuda.get_device_name() if here else "cpu"
    import jax

    return jax.devices()[0].device_kind


def variables_of(name: str, quick: bool):
    """The trainable variables of a network, and gradients like them."""
    from measurements import gradients_like, network

    variables = network(name).trainable_variables
    if quick:
        variables = variables[:12]
    return variables, gradients_like(variables)


def table(quick: bool):
    """The optimizers; of a trial, a few."""
    from measurements import optimizers

    found = optimizers()
    return {n: found[n] for n in PROFILED[:3]} if quick else found


def left(until: float) -> bool:
    """Whether there is time for more."""
    return time.time() < until


"""
## Time of an update
"""


def jax_update(optimizer, variables, gradients):
    """A compiled update in place; calls are waited for by `wait`."""
    import jax

    optimizer.build(variables)
    held = {
        "state": [jax.numpy.array(v.value) for v in optimizer.variables],
        "values": [jax.numpy.array(v.value) for v in variables],
    }

    def update(state, values, gradients):
        values, state = optimizer.stateless_apply(state, gradients, values)
        return state, values

    begin = time.perf_counter()
    compiled = (
        jax.jit(update, donate_argnums=(0, 1))
        .lower(held["state"], held["values"], gradients)
        .compile()
    )
    seconds = time.perf_counter() - begin

    def call():
        held["state"], held["values"] = compiled(
            held["state"], held["values"], gradients
        )

    def wait():
        jax.block_until_ready(held["values"])

    return call, wait, seconds, compiled


def optax_update(name, variables, gradients):
    import jax
    import optax

    optimizer = getattr(optax, name)(1e-3)
    values = [jax.numpy.array(v.value) for v in variables]
    held = {"values": values, "state": optimizer.init(values)}

    def update(state, values, gradients):
        updates, state = optimizer.update(gradients, state, values)
        return state, optax.apply_updates(values, updates)

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def call():
        held["state"], held["values"] = compiled(
            held["state"], held["values"], gradients
        )

    return call, lambda: jax.block_until_ready(held["values"]), 0.0, compiled


def torch_update(optimizer, variables, gradients):
    """An update of Keras' on PyTorch, which runs it eagerly."""
    import torch

    optimizer.build(variables)

    def call():
        optimizer.apply(gradients, variables)

    return call, wait_for_torch(torch), 0.0, None


def torch_adam(variables, gradients, **arguments):
    """PyTorch's own Adam."""
    import torch

    parameters = [torch.nn.Parameter(v.value.detach().clone()) for v in variables]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    optimizer = torch.optim.Adam(parameters, **arguments)
    return optimizer.step, wait_for_torch(torch), 0.0, None


def wait_for_torch(torch):
    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def milliseconds(call, wait, rounds: int) -> list[float]:
    """Of one update, from `STEPS` at once; the first ones do not count."""
    found = []
    for _ in range(rounds + 2):
        wait()
        begin = time.perf_counter()
        for _ in range(STEPS):
            call()
        wait()
        found.append(1e3 * (time.perf_counter() - begin) / STEPS)
    return found[2:]


def makers(backend: str, variables, gradients, quick: bool) -> dict:
    """For each name, what makes `(call, wait, seconds of compiling, program)`."""
    update = jax_update if backend == "jax" else torch_update
    found = {
        label: lambda make=make: update(make(), variables, gradients)
        for label, make in table(quick).items()
    }
    if backend == "jax":
        for other in ("adam", "adabelief", "radam"):
            made = functools.partial(optax_update, other, variables, gradients)
            found[f"optax {other}"] = made
    else:
        for label, how in (("torch Adam, fused", {"fused": True}), ("torch Adam", {})):
            made = functools.partial(torch_adam, variables, gradients, **how)
            found[label] = made
    return found


def steps(args) -> None:
    """Every optimizer on two networks' variables, and others beside it."""
    import keras

    backend = keras.backend.backend()
    for name in NETWORKS:
        variables, arrays = variables_of(name, args.quick)
        gradients = [keras.ops.convert_to_tensor(a) for a in arrays]
        facts = {
            "backend": backend, "device": device(), "network": name,
            "variables": len(variables), "parameters": sum(a.size for a in arrays),
        }  # fmt: skip
        made = makers(backend, variables, gradients, args.quick)
        for label, make in made.items():
            if not left(args.until):
                print(f"out of time before {label} on {name}")
                return
            try:
                call, wait, seconds, _ = make()
                taken = milliseconds(call, wait, 3 if args.quick else 10)
            except Exception as error:  # of one optimizer; of another library, say
                print(f"{label}: {type(error).__name__}: {str(error)[:200]}")
                continue
            row = {**facts, "optimizer": label, **spread(taken)}
            add(args.folder, "steps.csv", [row | {"compile_seconds": f"{seconds:.2f}"}])
            print(f"{backend} {name} {label}: {row['ms']} ms")


def spread(taken: list[float]) -> dict[str, str]:
    """Median, least and most."""
    found = {"ms": statistics.median(taken), "least": min(taken), "most": max(taken)}
    return {name: f"{value:.4f}" for name, value in found.items()}


"""
## Kernels
"""


def events(folder: Path) -> list[dict]:
    """What ran on the device, from the newest trace in a folder."""
    paths = sorted(folder.rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not paths:
        return []
    with gzip.open(paths[-1]) as file:
        found = json.load(file)["traceEvents"]
    named = {
        (e.get("pid"), e.get("tid"))
        for e in found
        if e.get("name") == "thread_name" and "Stream" in str(e["args"].get("name"))
    }
    return [e for e in found if (e.get("pid"), e.get("tid")) in named and "dur" in e]


def kernels(args) -> None:
    """A profiler's count of one update, and the compiled program's."""
    import jax

    jax.devices()  # before the other benchmark asks for the CPU
    from gpu_program import kernels as compiled_kernels

    variables, arrays = variables_of("ResNet50", args.quick)
    gradients = [jax.numpy.asarray(a) for a in arrays]
    for label in PROFILED:
        if not left(args.until):
            print(f"out of time before {label}")
            return
        made = table(False)[label]()
        call, wait, _, compiled = jax_update(made, variables, gradients)
        text = compiled.as_text()
        call(), wait()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, create_perfetto_trace=False):
                call()
                wait()
            seen = events(Path(folder))
        add(args.folder, "kernels.csv", [{
            "device": device(), "network": "ResNet50", "variables": len(variables),
            "optimizer": label, "kernels_compiled": len(compiled_kernels(text)),
            "words_compiled": f"{words(compiled_kernels(text), arrays):.3f}",
            "kernels_seen": len(seen) or "",
            "ms_in_kernels": f"{sum(e['dur'] for e in seen) / 1e3:.4f}" if seen else "",
            "scratch_bytes": compiled.memory_analysis().temp_size_in_bytes,
        }])  # fmt: skip


def words(found, arrays) -> float:
    """4-byte words moved per parameter."""
    return sum(kernel.bytes for kernel in found) / 4 / sum(a.size for a in arrays)


"""
## A whole training step
"""


def training(args) -> None:
    """ResNet-50, batch 128 at 224 pixels, bfloat16, compiled, each in turn."""
    import jax
    import keras
    import numpy as np

    size, batch = (32, 4) if args.quick else (224, 128)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    random = np.random.default_rng(0)
    images = random.random((batch, size, size, 3), "float32")
    labels = random.integers(0, 1000, batch)
    for label in TRAINED:
        if not left(args.until):
            print(f"out of time before {label}")
            return
        keras.utils.set_random_seed(0)
        shape = (size, size, 3)
        model = keras.applications.ResNet50(weights=None, input_shape=shape)
        model.compile(table(False)[label](), "sparse_categorical_crossentropy")
        # what stays on the device: no batch is copied while it is timed
        data = (jax.numpy.asarray(images), jax.numpy.asarray(labels))
        begin = time.perf_counter()
        losses = [float(model.train_on_batch(*data))]
        first = time.perf_counter() - begin
        taken = []
        for _ in range(3 if args.quick else 20):
            begin = time.perf_counter()
            losses.append(float(model.train_on_batch(*data)))
            taken.append(1e3 * (time.perf_counter() - begin))
        held = jax.devices()[0].memory_stats() or {}
        add(args.folder, "training.csv", [{
            "device": device(), "network": "ResNet50", "batch": batch, "pixels": size,
            "precision": "mixed_bfloat16", "optimizer": label,
            **spread(taken), "first_call_seconds": f"{first:.1f}",
            "peak_bytes_so_far": held.get("peak_bytes_in_use", ""),
            "loss_first": f"{losses[0]:.4f}", "loss_last": f"{losses[-1]:.4f}",
        }])  # fmt: skip
        print(f"{label}: {statistics.median(taken):.1f} ms")
        del model
        keras.utils.clear_session()


"""
## Checks
"""


def checks(args) -> None:
    """The conformance kit on one optimizer of each paper; then the tests."""
    import keras

    import keras_gradopt
    from keras_gradopt.testing import check_optimizer

    for name in CHECKED[:1] if args.quick else CHECKED:
        if not left(args.until):
            print(f"out of time before {name}")
            return
        make = getattr(keras_gradopt, name)
        report = check_optimizer(lambda make=make: make(0.01), raise_on_failure=False)
        outcomes = [
            {
                "backend": keras.backend.backend(), "device": device(),
                "optimizer": name, "check": o.check.name,
                "outcome": "as Keras" if o.excused else o.status,
            }
            for o in report.outcomes
        ]  # fmt: skip
        add(args.folder, "checks.csv", outcomes)
        print(f"{name}: {'passed' if report.passed else 'FAILED'}")
    seconds = int(args.until - time.time())
    if seconds > 30 and not args.quick:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m",
                   "quick and not slow", "tests/package"]  # fmt: skip
        try:
            run = subprocess.run(
                command, cwd=ROOT, timeout=seconds, capture_output=True, text=True
            )
            said = (run.stdout.strip().splitlines() or ["nothing"])[-1]
        except subprocess.TimeoutExpired:
            said = f"not done in {seconds} s"
        add(args.folder, "checks.csv", [{
            "backend": keras.backend.backend(), "device": device(),
            "optimizer": "pytest tests/package, quick", "check": "", "outcome": said,
        }])  # fmt: skip


"""
## The page
"""


def read(folder: Path, name: str) -> list[dict[str, str]]:
    path = folder / name
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def markdown(rows: list[dict[str, str]], columns: list[str]) -> list[str]:
    titles = [column.replace("_", " ") for column in columns]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(columns)]
    return [*lines, *(f"| {' | '.join(row[c] for c in columns)} |" for row in rows)]


def with_ratio(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each row's time over that of Keras' Adam beside it."""
    first = {}
    for row in rows:
        if row["optimizer"] == "keras Adam":
            first[row.get("backend"), row["network"]] = float(row["ms"])
    for row in rows:
        base = first.get((row.get("backend"), row["network"]))
        row["to keras Adam"] = f"{float(row['ms']) / base:.2f}" if base else ""
    return rows


def page(folder: Path) -> str:
    """All that was measured, as Markdown."""
    steps_of = with_ratio(read(folder, "steps.csv"))
    lines = [
        "# On a GPU", "",
        "Written by `python benchmarks/on_gpu.py` from the CSV files beside it.",
        "", (folder / "environment.txt").read_text().strip(), "",
    ]  # fmt: skip
    for backend in ("jax", "torch"):
        for name in NETWORKS:
            rows = [
                row
                for row in steps_of
                if (row["backend"], row["network"]) == (backend, name)
            ]
            if not rows:
                lines += [f"**Not measured**: {backend}, {name}.", ""]
                continue
            lines += [
                f"## An update on {backend}: {name}", "",
                f"{rows[0]['variables']} variables, {int(rows[0]['parameters']):,} "
                f"parameters, on: {rows[0]['device']}. Milliseconds of one of {STEPS} "
                "updates in a row, median of rounds.",
                "",
                *markdown(rows, ["optimizer", "ms", "least", "most", "to keras Adam"]),
                "",
            ]  # fmt: skip
    for title, name, columns in (
        ("Kernels of an update", "kernels.csv",
         ["optimizer", "kernels_compiled", "words_compiled", "kernels_seen",
          "ms_in_kernels", "scratch_bytes"]),
        ("The training step of ResNet-50", "training.csv",
         ["optimizer", "ms", "least", "most", "to keras Adam", "first_call_seconds",
          "peak_bytes_so_far", "loss_last"]),
    ):  # fmt: skip
        rows = read(folder, name)
        rows = with_ratio(rows) if name == "training.csv" else rows
        lines += [f"## {title}", ""]
        lines += markdown(rows, columns) if rows else ["**Not measured.**"]
        lines.append("")
    lines += ["## Checks", ""]
    outcomes = read(folder, "checks.csv")
    if not outcomes:
        lines.append("**Not run.**")
    for backend in dict.fromkeys(row["backend"] for row in outcomes):
        here = [row for row in outcomes if row["backend"] == backend]
        kit = [row for row in here if row["check"]]
        bad = [row for row in kit if row["outcome"] == "failed"]
        lines.append(
            f"- {backend}: {len(kit)} checks of "
            f"{len({row['optimizer'] for row in kit})} optimizers, "
            f"{len(bad)} failed"
            + "".join(f"; {row['optimizer']}: {row['check']}" for row in bad)
        )
        lines += [
            f"- {backend}: {row['optimizer']}: {row['outcome']}"
            for row in here
            if not row["check"]
        ]
    return "\n".join(lines) + "\n"


def environment_text() -> str:
    """Versions, commit, machine."""
    from measurements import commit, environment

    packages = ("jax", "torch", "optax", "numpy")
    return (
        f"{environment(*packages)}; {time.strftime('%Y-%m-%d')}, commit {commit()}.\n"
    )


"""
## Running
"""


def main():
    make = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    make.add_argument("--folder", type=Path, default=FOLDER)
    make.add_argument("--minutes", type=float, default=9.5)
    make.add_argument("--quick", action="store_true", help="a trial: little of each")
    make.add_argument("--page", action="store_true", help="only write the page again")
    make.add_argument("--part", help=argparse.SUPPRESS)
    make.add_argument("--until", type=float, help=argparse.SUPPRESS)
    args = make.parse_args()
    if args.part:
        globals()[args.part](args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    if not args.page:
        run_all(args)
    (args.folder / "README.md").write_text(page(args.folder))
    print(args.folder / "README.md")


def run_all(args) -> None:
    begin = time.time()
    for old in ("steps.csv", "kernels.csv", "training.csv", "checks.csv"):
        (args.folder / old).unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
    environment["PYTHONPATH"] += ":" + os.environ.get("PYTHONPATH", "")
    told = subprocess.run(
        [sys.executable, "-c", "import on_gpu; print(on_gpu.environment_text())"],
        env={**environment, "KERAS_BACKEND": "jax"}, capture_output=True, text=True,
    )  # fmt: skip
    (args.folder / "environment.txt").write_text(told.stdout.strip() + "\n")
    given = 0.0
    for part, backend, share in PARTS:
        given += share  # what an early part leaves is the next one's
        until = begin + 60 * args.minutes * given
        command = [
            sys.executable, str(Path(__file__)), "--part", part, "--until", str(until),
            "--folder", str(args.folder), *["--quick"] * args.quick,
        ]  # fmt: skip
        print(f"== {part}, {backend}: {time.time() - begin:.0f} s", flush=True)
        try:
            # the last measurement may begin just before the end
            subprocess.run(
                command, timeout=max(1.0, until + 15 - time.time()),
                env={**environment, "KERAS_BACKEND": backend},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{part}, {backend}: stopped, as its time was over")
    print(f"== {time.time() - begin:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
