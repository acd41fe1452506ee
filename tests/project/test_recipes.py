"""docs/api/monitoring.md: its recipes run, and what they logged can be read again."""

import importlib.util
import json
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.backend_independent, pytest.mark.slow]

PAGE = (Path(__file__).parents[2] / "docs" / "api" / "monitoring.md").read_text()
SECTION = PAGE.partition("## Where the records go")[2].partition("\n## ")[0]
RECIPES = ["TensorBoard", "Weights & Biases", "MLflow"]


def blocks(text):
    return re.findall(r"(?ms)^```python\n(.*?)^```$", text)


def run(heading):
    """The first example, and the one under a heading; the monitor of it."""
    (code,) = blocks(SECTION.partition(f"### {heading}\n")[2].partition("\n### ")[0])
    namespace = {}
    for part in (blocks(SECTION)[0], code):
        exec(compile(part, heading, "exec"), namespace)
    records = namespace["monitor"].records
    assert {row["step"] for row in records} == {1, 5, 9, 13}
    return records, namespace["monitor"].histograms


def needs(library):
    """Skips without it; what else fails is a failure."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def test_these_are_all():
    assert len(blocks(SECTION)) == 1 + len(RECIPES)


def test_tensorboard(tmp_path, monkeypatch):
    needs("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    monkeypatch.chdir(tmp_path)
    records, histograms = run("TensorBoard")
    events = event_accumulator.EventAccumulator("logs", {"tensors": 0}).Reload()
    assert {"momentum.angle", "unclipped_l2", "clipped"} < records[0].keys()
    for row in records:
        for name in row.keys() - {"step", "group"}:
            found = {
                event.step: event.tensor_proto.float_val[0]
                for event in events.Tensors(f"{row['group']}/{name}")
            }
            expected = pytest.approx(row[name], rel=1e-6, nan_ok=True)
            assert found[row["step"]] == expected
    assert len(histograms) == 4 * 2 * 4
    for row in histograms:
        tag = f"{row['variable']}/{row['histogram']}"
        assert {event.step for event in events.Tensors(tag)} == {1, 5, 9, 13}


def test_wandb(tmp_path, monkeypatch):
    needs("wandb")
    import wandb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    records, histograms = run("Weights & Biases")
    assert wandb.run is None
    wandb.teardown()  # waits for the process that writes the file
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = list(history(path))
    assert len(logged) == len(records) + len(histograms)
    for row in records:
        name = f"monitor/{row['group']}/gradient_l2"
        found = {item["monitor/step"]: item[name] for item in logged if name in item}
        assert found[row["step"]] == pytest.approx(row["gradient_l2"])
    for row in histograms:
        name = f"monitor/{row['variable']}/{row['histogram']}"
        (found,) = (
            item
            for item in logged
            if f"{name}.values" in item and item["monitor/step"] == row["step"]
        )
        assert found[f"{name}.values"] == row["counts"].tolist()
        np.testing.assert_allclose(found[f"{name}.bins"], row["edges"], rtol=1e-6)


def history(path):
    """What was logged, from the file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    for data in log_records(path.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            yield {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }


def log_records(data, block=32768):
    """Those of a file in LevelDB's log format, whose first 7 bytes were taken off."""
    at, whole = 7, b""
    while at + 7 <= len(data) + 7:
        if block - at % block < 7:  # filled up with zeros
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at - 7)
        whole += data[at : at + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def test_mlflow(tmp_path, monkeypatch):
    needs("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

    monkeypatch.chdir(tmp_path)
    records, _ = run("MLflow")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["0"])
    for row in records:
        for name in row.keys() - {"step", "group"}:
            values = client.get_metric_history(
                found.info.run_id, f"{row['group']}/{name}"
            )
            values = {metric.step: metric.value for metric in values}
            expected = pytest.approx(row[name], nan_ok=True)
            assert values[row["step"]] == expected
