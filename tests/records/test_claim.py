"""One process at a time; the claim ends with the process that holds it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prunelab.records import claimed

HOLD = """
import sys, time
from pathlib import Path
from prunelab.records import claimed
with claimed(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_comes_second_says_so_and_waits_until_the_first_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    timer = threading.Timer(0.5, holder.kill)
    start = time.monotonic()
    timer.start()
    with caplog.at_level(logging.INFO, "prunelab"), claimed(tmp_path, "the run abc"):
        waited = time.monotonic() - start
    holder.wait()
    assert 0.4 < waited < 10
    assert "at work on the run abc: waiting" in caplog.text


def test_a_claim_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path, "it"):
            pass
