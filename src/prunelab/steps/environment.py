"""The environment of a run: versions, hardware, and the revision of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from prunelab.evaluation.target import processor
from prunelab.records.parts import GitState
from prunelab.version import __version__

PACKAGES = ("torch", "pytorch-lightning", "torchvision", "torchmetrics", "timm", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    return {
        "python": platform.python_version(),
        "prunelab": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def hardware() -> dict[str, str | int | list[str]]:
    """The processor, the number of threads of this process, and the visible GPUs."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def git_state() -> GitState:
    """The revision of the checkout that this package runs from; none if it was installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    root = _git(package, "rev-parse", "--show-toplevel")
    # A wheel may be installed inside the checkout of another project, whose revision would be wrong here.
    if root is None or Path(root) / "src" / "prunelab" != package:
        return GitState(revision=None, dirty=False)
    changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", root)
    return GitState(revision=_git(package, "rev-parse", "HEAD"), dirty=bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None if it fails or git is not installed."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
