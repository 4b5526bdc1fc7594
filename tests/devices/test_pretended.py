"""No step of a run leaves a tensor on the wrong device: simulated, because most test machines have no GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.devices

TESTS = Path(__file__).with_name("on_pretended_device.py")


def test_every_step_of_a_run_on_a_pretended_device() -> None:
    """In a separate process, because torch registers a device for the lifetime of a process."""
    backends = importlib.import_module("torch.utils.backend_registration")
    if not hasattr(backends, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} has no devices written in Python (2.9 has)")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS)],
        cwd=TESTS.parents[2],
        env={**inherited, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
