"""A logger with a different end for each run of the sweep in test_sweep.py; jobs import it by its name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.errors import UserError
from prunelab.tracking import CsvLogger, EpochRow

HURRY = "PRUNELAB_TEST_HURRY"
"""Environment variable: no run is slow, and none fails."""

SECONDS = 8
"""Seconds of an epoch of a slow run: too long for all epochs of a recovery in a job of one minute."""


class Paced(CsvLogger):
    """Slow with method=l2 and fpgm, and with random until its job was requeued; apoz fails."""

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.method = config["names"]["method"]

    def epoch(self, row: EpochRow) -> None:
        super().epoch(row)
        if HURRY in os.environ:
            return
        if self.method == "apoz":
            raise UserError("fails on purpose")
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        if self.method in ("l2", "fpgm") or (self.method == "random" and not requeued):
            time.sleep(SECONDS)
