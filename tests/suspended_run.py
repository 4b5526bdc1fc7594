"""Runs the configuration in a JSON file, and suspends itself before it writes the pruned network.

    python suspended_run.py CONFIG LEASE_SECONDS

Not a test by itself: test_experiment.py starts it as a process of another machine, on a file system that does not share
locks between machines, and continues it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from prunelab import experiment
from prunelab.records import claim

write_network = experiment.write_network


def suspended(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    write_network(*args)


if __name__ == "__main__":
    fcntl.flock = lambda *_: None  # type: ignore[assignment]
    claim.LEASE_S = float(sys.argv[2])
    experiment.write_network = suspended
    experiment.run(json.loads(Path(sys.argv[1]).read_text()))
