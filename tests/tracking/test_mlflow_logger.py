"""MLflow with its real client and a store of files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.tracking import EpochRow, MlflowLogger

if TYPE_CHECKING:
    from mlflow.entities import Run  # the import of mlflow takes a second

pytestmark = pytest.mark.slow

Configure = Callable[..., dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store. Files are quick to create; a database has fifty migrations."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return (tmp_path / "mlruns").as_uri()


def runs(store: str, experiment: str = "tests") -> dict[tuple[str, str], Run]:
    """The runs in a store, by method and job."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {
        (each.data.tags["method"], each.data.tags["job"]): each
        for each in client.search_runs([found.experiment_id])
    }


def test_whole_runs_and_the_baseline_that_they_share(smallest: Configure, store: str) -> None:
    outcomes = {
        method: run(smallest("logger=mlflow", f'logger.tracking_uri="{store}"', f"method={method}"))
        for method in ("l1", "l2")
    }

    found = runs(store)
    assert set(found) == {("l1", "baseline"), *((m, job) for m in outcomes for job in ("recovery", "result"))}
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    assert found["l1", "baseline"].info.run_name == "baseline resnet20 digits seed 0"
    assert found["l2", "recovery"].info.run_name == "l2 flops=0.5 resnet20 digits seed 0"
    result = found["l2", "result"]
    assert result.data.metrics["top1"] == pytest.approx(outcomes["l2"].record.pruned.top1)
    assert result.data.params["budget.flops"] == "0.5"
    assert result.data.tags["plan"] == outcomes["l2"].record.plan.digest
    assert found["l1", "baseline"].data.metrics["top1"] == pytest.approx(outcomes["l1"].record.baseline.top1)
    assert "val/top1" in found["l1", "recovery"].data.metrics


def test_a_resumed_run_continues_the_same_run(smallest: Configure, tmp_path: Path, store: str) -> None:
    folder = tmp_path / "outputs" / "tests" / "abc"
    folder.mkdir(parents=True)
    for epochs in ((1, 2), (3,)):
        logger = MlflowLogger(store)
        logger.start(folder, smallest())
        for epoch in epochs:
            logger.epoch(EpochRow("recovery", epoch, 0.1, {"val/top1": epoch / 4}))
        logger.close()

    ((job, each),) = runs(store).items()
    from mlflow.tracking import MlflowClient

    history = MlflowClient(tracking_uri=store).get_metric_history(each.info.run_id, "val/top1")
    assert job == ("l1", "recovery")
    assert sorted((point.step, point.value) for point in history) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert each.info.status == "FAILED"  # closed without a record


def test_without_a_server_there_is_a_local_database(
    smallest: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "outputs" / "tests" / "abc"
    folder.mkdir(parents=True)
    logger = MlflowLogger()
    logger.start(folder, smallest())
    logger.epoch(EpochRow("recovery", 1, 0.1, {"val/top1": 0.5}))
    logger.close()

    found = runs(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    assert found["l1", "recovery"].data.metrics["val/top1"] == 0.5


def test_an_error_of_the_store_does_not_end_the_run(
    smallest: Configure,
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def fail(*arguments: object, **more: object) -> None:
        raise MlflowException("the store is full\nand more")

    folder = tmp_path / "outputs" / "tests" / "abc"
    folder.mkdir(parents=True)
    logger = MlflowLogger(store)
    with caplog.at_level(logging.WARNING, logger="prunelab"):
        logger.start(folder, smallest())
        monkeypatch.setattr(MlflowClient, "log_batch", fail)
        for epoch in (1, 2):
            logger.epoch(EpochRow("recovery", epoch, 0.1, {"val/top1": 0.5}))
        logger.close()

    said = [record.getMessage() for record in caplog.records if record.name.startswith("prunelab")]
    assert said == ["MLflow: l1 flops=0.5 resnet20 digits seed 0 is not logged further: the store is full."]
    assert (folder / "curves.csv").read_text().count("recovery") == 2


def test_a_server_that_does_not_answer_is_a_users_mistake(
    smallest: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "outputs" / "tests" / "abc"
    folder.mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"MLflow at http://127.0.0.1:9 cannot be used: .*logger.tracking_uri"
    ):
        MlflowLogger("http://127.0.0.1:9").start(folder, smallest())


def test_without_mlflow_the_extra_is_named(
    smallest: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outputs" / "tests" / "abc"
    folder.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    with pytest.raises(UserError, match=r"pip install 'prunelab\[mlflow\]'"):
        MlflowLogger().start(folder, smallest())
