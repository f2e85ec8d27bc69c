import math
import sys
from dataclasses import dataclass, field

import pytest
from tests.report import sample

from hanse.errors import ConfigError
from hanse.report.callbacks import MLflow, TensorBoard, scalars

SPEC = sample.spec("heart", sample.HOSPITALS, 3, 7)


@dataclass
class Result:
    model_digest: str = "d1g35t"
    history: list = field(default_factory=lambda: sample.heart_history(7, 3))


def see(callback):
    result = Result()
    callback.on_start(None, SPEC)
    for row in result.history:
        callback.on_round(row)
    callback.on_end(result)
    return result.history


def test_a_row_is_told_in_numbers_without_those_that_are_none():
    row = sample.heart_history(7, 1)[0] | {"train": {"loss": math.nan}}
    told = dict(scalars(row))
    assert told["pooled/auc"] == row["evaluation"]["pooled"]["auc"]
    assert told["reports/counted"] == 4
    assert "train/loss" not in told
    assert "sites/switzerland/auc" not in told
    assert "sites/switzerland/accuracy" in told


def test_a_board_gets_names_in_plain_characters():
    row = sample.row(1, [], evaluation={"sites": {"<b>é/": {"auc": 0.5}}})
    assert ("sites/_b___/auc", 0.5) in list(scalars(row))


def test_tensorboard_reads_what_was_written(tmp_path):
    history = see(TensorBoard(tmp_path / "logs"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs" / "seed-7"))
    events.Reload()
    tensors = events.Tensors("pooled/auc")
    assert [e.step for e in tensors] == [1, 2, 3]
    written = [e.tensor_proto.float_val[0] for e in tensors]
    told = [row["evaluation"]["pooled"]["auc"] for row in history]
    assert written == pytest.approx(told, abs=1e-6)


def test_mlflow_reads_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = (tmp_path / "mlruns").as_uri()
    history = see(MLflow("hospitals", uri=uri))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("hospitals")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["pipeline.clip.norm"] == "1"
    assert run.data.params["strategy.correction.proximal"] == "0.1"
    assert run.data.tags["hanse.model_digest"] == "d1g35t"
    assert run.data.tags["hanse.spec_hash"] == SPEC.hash
    logged = client.get_metric_history(run.info.run_id, "pooled/auc")
    assert [m.step for m in logged] == [1, 2, 3]
    assert [m.value for m in logged] == [r["evaluation"]["pooled"]["auc"] for r in history]


def test_mlflow_finds_its_experiment_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = (tmp_path / "mlruns").as_uri()
    for _ in range(2):
        see(MLflow("hospitals", uri=uri))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name("hospitals").experiment_id])) == 2


def test_a_store_that_mlflow_cannot_use_is_a_config_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with pytest.raises(ConfigError, match="MLflow cannot use the store odd://store"):
        MLflow(uri="odd://store")


@pytest.mark.parametrize(("package", "make"), [("tensorboard", TensorBoard), ("mlflow", MLflow)])
def test_a_missing_package_is_named_with_its_extra(package, make, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"{package} is not installed") as caught:
        make(str(tmp_path))
    assert caught.value.hint == f'pip install "hanse[{package}]"'
