"""MLflow: settings, learning curves and final figures on a tracking server or in a local database."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from filelock import FileLock

from prunelab.errors import UserError
from prunelab.records import Record
from prunelab.records.deployment import Stage
from prunelab.tracking.jobs import JobPlace, flattened
from prunelab.tracking.run_logger import RunLogger

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

IDENTITY_TAG = "prunelab.job"
LONGEST_VALUE = 500
"""Largest number of characters of a setting; longer ones are cut (the record contains all)."""
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
PARAMS_IN_A_BATCH = 100
"""The limit of MLflow's REST interface."""
SECONDS_TO_CONNECT = 15

log = logging.getLogger(__name__)


class MlflowLogger(RunLogger):
    """Logs to MLflow, besides curves.csv (logger=mlflow). The experiment is the study.

    A run becomes one MLflow run for each kind of phase (its tag ``job``: learning, search, round, recovery) and one
    with the final figures (``result``); the training of a baseline is one run (``baseline``) for all runs that share
    it.

    Args:
        tracking_uri: the tracking server or store; None: MLFLOW_TRACKING_URI, else the SQLite database mlflow.db in the
            folder of the outputs.

    Raises:
        UserError: when a run starts without the package mlflow, or the store cannot be reached.
    """

    writes_curves = True

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.tracking_uri = tracking_uri

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        outputs = folder.parent.parent
        uri = (
            self.tracking_uri
            or os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{outputs.absolute() / DATABASE}"
        )
        with FileLock(outputs / f".{DATABASE}.lock"):  # only one process may create the tables
            self._client, self._experiment = _connected(uri, config["study"], outputs)

    def start_job(self, place: JobPlace) -> MlflowJob:
        return MlflowJob(self._client, self._experiment, place)


class MlflowJob:
    """An MLflow run; see ``tracking.jobs.Job``. After an error of the store the rest of the job is not logged."""

    def __init__(self, client: MlflowClient, experiment: str, place: JobPlace) -> None:
        self._client = client
        self._title = place.title
        self._works = True
        self._run_id = ""
        self._attempt(lambda: self._start(experiment, place))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._attempt(lambda: self._log(figures, step))

    def result(self, figures: Mapping[str, float], record: Record | None) -> None:
        self._attempt(lambda: self._log(figures, 0))
        if record is not None:
            plan = record.plan
            self._attempt(lambda: self._client.set_tag(self._run_id, "plan", plan.digest))

    def stages(self, stages: Sequence[Stage]) -> None:
        """Nothing is logged: W&B alone has tables of stages."""

    def close(self, finished: bool) -> None:
        status = "FINISHED" if finished else "FAILED"
        self._attempt(lambda: self._client.set_terminated(self._run_id, status))

    def _start(self, experiment: str, place: JobPlace) -> None:
        """Create the MLflow run, or continue the one with the same identity."""
        same = f"tags.`{IDENTITY_TAG}` = '{place.identity}'"
        if found := self._client.search_runs([experiment], same, max_results=1):
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        from mlflow.entities import Param

        tags = {IDENTITY_TAG: place.identity, "job": place.job, **place.config["names"]}
        self._run_id = self._client.create_run(experiment, tags=tags, run_name=place.title).info.run_id
        settings = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in flattened(place.settings)]
        for batch in range(0, len(settings), PARAMS_IN_A_BATCH):
            self._client.log_batch(self._run_id, params=settings[batch : batch + PARAMS_IN_A_BATCH])

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _attempt(self, work: Callable[[], Any]) -> None:
        from mlflow.exceptions import MlflowException

        if not self._works:
            return
        try:
            work()
        except MlflowException as error:
            self._works = False
            log.warning("MLflow: %s is not logged further: %s", self._title, _first_line(error))


def _connected(uri: str, study: str, outputs: Path) -> tuple[MlflowClient, str]:
    """The client, and the id of the experiment ``study``, which is created if it does not exist.

    Raises:
        UserError: MLflow is not installed, or the store cannot be used.
    """
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UserError("logger=mlflow needs MLflow: pip install 'prunelab[mlflow]'") from error
    for name in ("mlflow", "alembic"):  # these log the creation of tables
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        _require_server(uri)
        client = MlflowClient(tracking_uri=uri)
        if (experiment := client.get_experiment_by_name(study)) is not None:
            return client, experiment.experiment_id
        artifacts = (outputs.absolute() / ARTIFACTS).as_uri() if uri.startswith("sqlite:") else None
        return client, client.create_experiment(study, artifact_location=artifacts)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"MLflow at {uri} cannot be used: {_first_line(error)} Check logger.tracking_uri or MLFLOW_TRACKING_URI."
        ) from error


def _require_server(uri: str) -> None:
    """Raise OSError if the server does not answer: the client would repeat its request for minutes."""
    server = urlsplit(uri)
    if server.scheme in ("http", "https") and not getproxies():
        port = server.port or (443 if server.scheme == "https" else 80)
        socket.create_connection((server.hostname or "", port), timeout=SECONDS_TO_CONNECT).close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") + "."
