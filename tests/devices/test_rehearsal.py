"""Tests for a GPU, run on the processor, so that renamed functions are found without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.devices

ROOT = Path(__file__).parents[2]
FAST = (
    "batches or crops or saved or regnetx or cpu and hrank or nan or least_squares or end_on or peak and apoz or "
    "two_ranks"
)
"""Some of each file; PRUNELAB_GPU_TESTS=cpu pytest -m gpu tests/gpu runs all (an hour, most of it compilations)."""


def test_tests_for_a_gpu_run_on_a_processor() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-m", "gpu", "-k", FAST, str(ROOT / "tests/gpu")),
        ],
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", "PRUNELAB_GPU_TESTS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
