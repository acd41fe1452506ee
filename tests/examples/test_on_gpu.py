"""benchmarks/on_gpu.py without a GPU: its page, its traces, a part that runs here."""

import gzip
import json
import types

import keras
import on_gpu
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="what it measures first is JAX"
)


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path):
    (tmp_path / "environment.txt").write_text("a machine\n")
    facts = {
        "backend": "jax", "device": "H100", "network": "ResNet50", "variables": 162,
        "parameters": 25_600_000,
    }  # fmt: skip
    for name, ms in (("keras Adam", "0.5000"), ("AngularGrad", "0.8000")):
        times = {"ms": ms, "least": ms, "most": ms, "compile_seconds": "1.00"}
        on_gpu.add(tmp_path, "steps.csv", [facts | {"optimizer": name} | times])
    checks = {"backend": "jax", "device": "H100", "optimizer": "AdaL"}
    for check, outcome in (("moves", "passed"), ("resumes", "failed")):
        row = {**checks, "check": check, "outcome": outcome}
        on_gpu.add(tmp_path, "checks.csv", [row])
    page = on_gpu.page(tmp_path)
    assert "| AngularGrad | 0.8000 | 0.8000 | 0.8000 | 1.60 |" in page
    assert "162 variables, 25,600,000 parameters, on: H100" in page
    assert "**Not measured**: torch, DenseNet121." in page
    assert "2 checks of 1 optimizers, 1 failed; AdaL: resumes" in page
    assert page.count("**Not measured.**") == 2  # kernels, training


def test_what_ran_on_the_device_is_read_from_a_trace(tmp_path):
    def named(tid, name):
        args = {"name": name}
        return {"pid": 1, "tid": tid, "name": "thread_name", "args": args}

    trace = [
        named(7, "Stream #7(Compute)"), named(8, "python"),
        {"pid": 1, "tid": 7, "name": "fusion", "dur": 3.0},
        {"pid": 1, "tid": 8, "name": "call", "dur": 9.0},
        {"pid": 2, "tid": 7, "name": "another process'", "dur": 9.0},
    ]  # fmt: skip
    assert on_gpu.events(tmp_path) == []
    with gzip.open(tmp_path / "here.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": trace}, file)
    assert [e["name"] for e in on_gpu.events(tmp_path)] == ["fusion"]


def test_an_update_is_timed_and_counted(tmp_path, monkeypatch):
    """The parts `steps` and `kernels`, on a small network."""
    monkeypatch.setattr(on_gpu, "NETWORKS", ["a small one"])
    monkeypatch.setattr(on_gpu, "PROFILED", ["keras Adam", "AngularGrad"])
    variables = [keras.Variable([[1.0, 2.0]]), keras.Variable([3.0])]
    arrays = [v.value.__array__().copy() for v in variables]
    monkeypatch.setattr(on_gpu, "variables_of", lambda *given: (variables, arrays))
    args = types.SimpleNamespace(folder=tmp_path, quick=True, until=float("inf"))
    on_gpu.steps(args)
    on_gpu.kernels(args)
    steps = on_gpu.read(tmp_path, "steps.csv")
    assert {row["optimizer"] for row in steps} >= {"keras Adam", "AngularGrad"}
    assert all(float(row["ms"]) > 0 for row in steps)
    kernels = on_gpu.read(tmp_path, "kernels.csv")
    assert all(int(row["kernels_compiled"]) > 0 for row in kernels)


def test_nothing_begins_when_time_is_over(tmp_path, capsys):
    args = types.SimpleNamespace(folder=tmp_path, quick=True, until=0.0)
    on_gpu.checks(args)
    assert "out of time" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
