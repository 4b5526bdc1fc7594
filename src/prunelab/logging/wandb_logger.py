"""Weights & Biases: a run's configuration, curves, widths and final figures, at once or uploaded later."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import wandb

from prunelab.errors import UserError, nearest
from prunelab.logging.curves import EpochRow
from prunelab.logging.run_logger import CsvLogger
from prunelab.records import Record

MODES = ("auto", "online", "offline", "disabled")
SECONDS_TO_CONNECT = 30

log = logging.getLogger(__name__)


class WandbLogger(CsvLogger):
    """Logs to W&B, besides curves.csv (logger=wandb). Never asks for anything.

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

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().start(folder, config)
        mode = self.resolved_mode()
        self._run = self._start_run(folder, config, mode)
        if mode == "offline":
            _announce_offline(folder.parent)

    def epoch(self, row: EpochRow) -> None:
        super().epoch(row)
        figures = {"epoch": row.epoch, "learning_rate": row.learning_rate, **row.metrics}
        self._run.log({f"{row.phase}/{name}": value for name, value in figures.items()})

    def finish(self, record: Record) -> None:
        widths = [[group, before, after] for group, (before, after) in record.plan.widths.items()]
        self._run.log(
            {"widths": wandb.Table(columns=["group", "channels before", "channels after"], data=widths)}
        )
        plain = record.to_dict()
        for part in ("baseline", "after_pruning", "pruned", "budget", "timings"):
            self._run.summary[part] = plain[part]
        self._run.summary["dropped_blocks"] = list(record.plan.dropped_blocks)

    def close(self) -> None:
        self._run.finish()

    def resolved_mode(self) -> str:
        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE", "")
        if mode in ("offline", "dryrun"):
            return "offline"
        if mode == "disabled":
            return "disabled"
        # Looks for a key in the environment and in the user's files; asks neither the user nor, as long as it is
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

    def _start_run(self, folder: Path, config: Mapping[str, Any], mode: str) -> wandb.Run:
        try:
            return self._init(folder, config, mode)
        except wandb.errors.Error as error:
            log.warning("W&B cannot be reached (%s): this run is logged offline.", error)
            return self._init(folder, config, "offline")

    def _init(self, folder: Path, config: Mapping[str, Any], mode: str) -> wandb.Run:
        names = config["names"]
        return wandb.init(
            project=self.project,
            group=config["study"],
            name=f"{names['method']} {names['model']} {names['data']} seed {config['seed']}",
            id=folder.name,
            resume="allow",
            config=dict(config),
            dir=folder,
            mode=mode,  # type: ignore[arg-type]  # one of MODES
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS_TO_CONNECT),
        )


@cache
def _announce_offline(study: Path) -> None:
    """Said once, not for every run of a sweep."""
    log.warning("W&B is offline. Upload the runs later with: wandb sync %s/*/wandb/offline-run-*", study)
