"""Runs the configuration in a JSON file, and dies at a named point: python killed_run.py CONFIG POINT

Not a test by itself: test_experiment.py starts it and reads the remaining files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunelab.experiment import run
from prunelab.records import RunFolder
from prunelab.steps.decision import RoundFolder
from prunelab.training.checkpoints import CheckedCheckpoints


def die_after(owner: type, name: str) -> None:
    """The process kills itself with SIGKILL when ``owner.name`` has returned once."""
    original: Callable[..., Any] = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)


def die_before(owner: type, name: str) -> None:
    """The process kills itself when ``owner.name`` is called."""
    setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


POINTS: dict[str, Callable[[], None]] = {
    "after the first epoch of a training": lambda: die_after(CheckedCheckpoints, "save_checkpoint"),
    "after a decision": lambda: die_after(RoundFolder, "decide"),
    "before the record": lambda: die_before(RunFolder, "finish"),
}

if __name__ == "__main__":
    POINTS[sys.argv[2]]()
    run(json.loads(Path(sys.argv[1]).read_text()))
