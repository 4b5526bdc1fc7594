"""Weights & Biases: configuration, learning curves, widths and final figures, online or for a later upload."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import wandb

from prunelab.errors import UserError, nearest
from prunelab.records import Record
from prunelab.records.deployment import Stage
from prunelab.report.stages import stage_table
from prunelab.report.wandb_report import LONGEST_TAG
from prunelab.tracking.jobs import JobPlace
from prunelab.tracking.run_logger import RunLogger

MODES = ("auto", "online", "offline", "disabled")
PROJECT = r"[^/\\#?%:]{1,128}"
"""The names of projects that W&B accepts."""
SECONDS_TO_CONNECT = 15
SECONDS_TO_UPLOAD = 300
"""Limit after the end of a run; files not uploaded by then remain in the folder of the run."""

TAGS = ("method", "model", "data")

log = logging.getLogger(__name__)


class WandbLogger(RunLogger):
    """Logs to W&B, besides curves.csv (logger=wandb). There are no prompts.

    A run becomes one W&B run for each kind of phase, its job type ("learning", "search", "round", "recovery"), and one
    of job type "result" with the final figures, under the column names of the report's CSV file, the widths, and the
    table of stages. The training of the baseline is one run of job type "baseline" for all runs that share the
    baseline. The group is the study.

    Args:
        project: the W&B project.
        mode: "online", "offline" (files in the folder of the run, for ``wandb sync``), "disabled", or "auto": the value
            of WANDB_MODE, else online if the user is logged in, else offline.

    Raises:
        UserError: an unknown mode, an impossible project, or online without being logged in.
    """

    writes_curves = True

    def __init__(self, project: str = "prunelab", mode: str = "auto") -> None:
        if mode not in MODES:
            raise UserError(f"logger.mode={mode} is unknown. {nearest(str(mode), MODES)}")
        if not re.fullmatch(PROJECT, str(project)):
            raise UserError(
                f"logger.project={project} is not a name of a W&B project: it has 1 to 128 characters, "
                "none of them one of / \\ # ? % :"
            )
        self.project = project
        self.mode = mode
        self.starts = 0
        """The number of starts of W&B's service; jobs of an earlier start must be started again."""

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._study = folder.parent
        self._has_jobs = False
        self._mode_now = self.resolved_mode()
        if self._mode_now == "online" and (trouble := _trouble_reaching_wandb()):
            self._go_offline(trouble)
        elif self._mode_now == "offline":
            self._go_offline("offline")

    def start_job(self, place: JobPlace) -> WandbJob:
        self._has_jobs = True
        return WandbJob(self, place)

    def end(self) -> None:
        if self._has_jobs:
            wandb.teardown()  # finish() returns before the files for a later upload are complete

    def resolved_mode(self) -> str:
        """The mode of this run: "online", "offline" or "disabled"."""
        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE", "")
        if mode in ("offline", "dryrun"):
            return "offline"
        if mode == "disabled":
            return "disabled"
        # Reads a key from the environment or the user's files. With ``silent`` there is no prompt for a key, and no
        # request to the server for the name of the user.
        wandb.setup(wandb.Settings(silent=True))
        if wandb.login(prompt=False, verify=False):
            return "online"
        if mode == "online":
            raise UserError(
                "logger.mode=online, but you are not logged in to W&B. "
                "Run `wandb login` once, or use logger.mode=offline."
            )
        return "offline"

    def start_run(self, place: JobPlace) -> wandb.Run:
        """The W&B run of a job; offline if the server does not answer."""
        try:
            return self._init(place)
        except wandb.errors.Error as error:
            wandb.teardown()  # the failed start still holds the id of the run
            self.starts += 1
            log.debug("W&B: %s", error)
            self._go_offline("not answering")
            return self._init(place)

    def _go_offline(self, why: str) -> None:
        self._mode_now = "offline"
        _announce_offline(self._study, why)

    def _init(self, place: JobPlace) -> wandb.Run:
        names = place.config["names"]
        return wandb.init(
            project=self.project,
            group=place.config["study"],
            job_type=place.job,
            tags=[names[name][:LONGEST_TAG] for name in TAGS],
            name=place.title,
            id=place.identity,
            resume="allow",
            config=place.settings,
            dir=place.folder,
            mode=self._mode_now,  # type: ignore[arg-type]  # one of MODES
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=SECONDS_TO_CONNECT,
                finish_timeout=SECONDS_TO_UPLOAD,
            ),
        )


class WandbJob:
    """A W&B run; see ``tracking.jobs.Job``."""

    def __init__(self, logger: WandbLogger, place: JobPlace) -> None:
        self._logger = logger
        self._place = place
        self._run = logger.start_run(place)
        self._start = logger.starts

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._live().log(dict(figures), step=step)

    def result(self, figures: Mapping[str, float], record: Record | None) -> None:
        run = self._live()
        if record is not None:
            widths = [[group, before, after] for group, (before, after) in record.plan.widths.items()]
            columns: list[str | int] = ["group", "channels before", "channels after"]
            run.log({"widths": wandb.Table(columns=columns, data=widths)})
            self.stages(record.stages)
            run.summary["dropped_blocks"] = list(record.plan.dropped_blocks)
            run.summary["plan"] = record.plan.digest
        run.summary.update(dict(figures))

    def stages(self, stages: Sequence[Stage]) -> None:
        if stages:
            headings, rows = stage_table(stages)
            self._live().log({"stages": wandb.Table(columns=[*headings], data=rows)})

    def close(self, finished: bool) -> None:
        self._live().finish(exit_code=0 if finished else 1)

    def _live(self) -> wandb.Run:
        """The W&B run, which is started again if W&B's service was restarted."""
        if self._start != self._logger.starts:
            self._run = self._logger.start_run(self._place)
            self._start = self._logger.starts
        return self._run


@cache
def _trouble_reaching_wandb() -> str:
    """The reason why W&B's server cannot be reached, empty if it can; tested only once in a sweep."""
    server = urlsplit(wandb.setup().settings.base_url)
    if getproxies():
        return ""  # the client uses the proxy, with a timeout of SECONDS_TO_CONNECT
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        with socket.create_connection((server.hostname or "", port), timeout=SECONDS_TO_CONNECT):
            return ""
    except OSError as error:
        return f"not reachable ({server.hostname}: {error.strerror or error})"


@cache
def _announce_offline(study: Path, why: str) -> None:
    """Log the command that uploads the runs, only once in a sweep."""
    log.warning("W&B is %s. Upload the runs later with: wandb sync %s/*/wandb/offline-run-*", why, study)
