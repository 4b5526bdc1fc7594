"""Weights & Biases: a run's configuration, curves, widths and final figures, at once or uploaded later."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import wandb

from prunelab.errors import UserError, nearest
from prunelab.records import Record
from prunelab.records.atomic import Write, write_atomically
from prunelab.report.measures import MEASURES
from prunelab.report.wandb_report import LONGEST_TAG, RESULT
from prunelab.tracking.curves import EpochRow
from prunelab.tracking.run_logger import CsvLogger

MODES = ("auto", "online", "offline", "disabled")
SECONDS_TO_CONNECT = 15
SECONDS_TO_UPLOAD = 300
"""After the end of a run; what has not been uploaded by then stays in the run's folder."""

TAGS = ("method", "model", "data")

log = logging.getLogger(__name__)


class WandbLogger(CsvLogger):
    """Logs to W&B, besides curves.csv (logger=wandb). Never asks for anything.

    A run becomes one W&B run for each kind of phase, its job type ("learning", "round", "recovery"), and one
    of job type "result" with the final figures, under the names of the report's CSV, and the widths. All are in
    the study's group.

    Args:
        project: the W&B project.
        mode: "online", "offline" (files in the run's folder, for ``wandb sync``), "disabled", or "auto":
            what WANDB_MODE says, else online if the user is logged in, else offline.

    Raises:
        UserError: an unknown mode, or online without being logged in.
    """

    def __init__(self, project: str = "prunelab", mode: str = "auto") -> None:
        if mode not in MODES:
            raise UserError(f"logger.mode={mode} is unknown. {nearest(str(mode), MODES)}")
        self.project = project
        self.mode = mode

    def start(self, folder: Path, config: Mapping[str, Any], write: Write = write_atomically) -> None:
        super().start(folder, config, write)
        self._folder, self._config = folder, config
        self._runs: dict[str, wandb.Run] = {}
        self._mode_now = self.resolved_mode()
        if self._mode_now == "online" and (trouble := _trouble_reaching_wandb()):
            self._go_offline(trouble)
        elif self._mode_now == "offline":
            self._go_offline("offline")

    def epoch(self, row: EpochRow) -> None:
        super().epoch(row)
        job = job_type(row.phase)
        figures = {"epoch": row.epoch, "learning_rate": row.learning_rate, **row.metrics}
        # Counted over all phases of this kind, so that a run that was interrupted goes on where it was.
        self._of(job).log(figures, step=self._epochs(job))

    def finish(self, record: Record) -> None:
        result = self._of(RESULT)
        widths = [[group, before, after] for group, (before, after) in record.plan.widths.items()]
        result.log(
            {"widths": wandb.Table(columns=["group", "channels before", "channels after"], data=widths)}
        )
        figures = {measure.name: measure.read(record) for measure in MEASURES}
        result.summary.update({name: value for name, value in figures.items() if value is not None})
        result.summary["dropped_blocks"] = list(record.plan.dropped_blocks)
        result.summary["plan"] = record.plan.digest

    def close(self) -> None:
        """Returns when everything is uploaded, or written into the run's folder."""
        for run in self._runs.values():
            run.finish()
        if self._runs:
            wandb.teardown()  # finish() returns before the files for a later upload are whole

    def _of(self, job: str) -> wandb.Run:
        """The W&B run of this job type; it starts when there is something to tell."""
        if job not in self._runs:
            self._runs[job] = self._start_run(job)
        return self._runs[job]

    def _epochs(self, job: str) -> int:
        return sum(job_type(phase) == job for phase in self._file.phases())

    def resolved_mode(self) -> str:
        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE", "")
        if mode in ("offline", "dryrun"):
            return "offline"
        if mode == "disabled":
            return "disabled"
        # Trials for a key in the environment and in the user's files; asks neither the user nor, as long as it is
        # silent, the network (for the user's name).
        wandb.setup(wandb.Settings(silent=True))
        if wandb.login(prompt=False, verify=False):
            return "online"
        if mode == "online":
            raise UserError(
                "W&B is to be online, but you are not logged in. "
                "Run `wandb login` once, or use logger.mode=offline."
            )
        return "offline"

    def _start_run(self, job: str) -> wandb.Run:
        try:
            return self._init(job)
        except wandb.errors.Error as error:
            self._runs.clear()
            wandb.teardown()  # the failed start still holds the run's name
            log.debug("W&B refused: %s", error)
            self._go_offline("not answering")
            return self._init(job)

    def _go_offline(self, why: str) -> None:
        self._mode_now = "offline"
        _announce_offline(self._folder.parent, why)

    def _init(self, job: str) -> wandb.Run:
        names = self._config["names"]
        return wandb.init(
            project=self.project,
            group=self._config["study"],
            job_type=job,
            tags=[names[name][:LONGEST_TAG] for name in TAGS],
            name=f"{names['method']} {names['model']} {names['data']} seed {self._config['seed']}",
            id=f"{self._folder.name}-{job}",
            resume="allow",
            config={"key": self._folder.name, **self._config},
            dir=self._folder,
            mode=self._mode_now,  # type: ignore[arg-type]  # one of MODES
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=SECONDS_TO_CONNECT,
                finish_timeout=SECONDS_TO_UPLOAD,
            ),
        )


def job_type(phase: str) -> str:
    """``round 3`` is of the kind ``round``."""
    return re.sub(r" \d+$", "", phase)


@cache
def _trouble_reaching_wandb() -> str:
    """Why W&B's server cannot be reached, nothing if it can; asked once, not for every run of a sweep."""
    server = urlsplit(wandb.setup().settings.base_url)
    if getproxies():
        return ""  # only the client knows its way; it gives up after SECONDS_TO_CONNECT
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        with socket.create_connection((server.hostname or "", port), timeout=SECONDS_TO_CONNECT):
            return ""
    except OSError as error:
        return f"not reachable ({server.hostname}: {error.strerror or error})"


@cache
def _announce_offline(study: Path, why: str) -> None:
    """Said once, not for every run of a sweep."""
    log.warning("W&B is %s. Upload the runs later with: wandb sync %s/*/wandb/offline-run-*", why, study)
