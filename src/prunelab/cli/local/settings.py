"""The number of runs at a time, and the share of the machine for each of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prunelab.errors import UserError, nearest

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
THREADS_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class LocalSettings:
    """The keys of conf/hydra/launcher/local.yaml, which describes them.

    Raises:
        UserError: a number out of range.
    """

    jobs: int | None = None
    gpus: str | Sequence[int | str] = "auto"
    gpus_per_job: int = 1
    threads: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LocalSettings:
        """The settings in a mapping. Raises UserError if one is unknown."""
        known = [each.name for each in fields(cls)]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"There is no key hydra.launcher.{unknown[0]}. {nearest(unknown[0], known)}")
        return cls(**settings)

    def __post_init__(self) -> None:
        for key in ("jobs", "gpus_per_job", "threads"):
            value = getattr(self, key)
            if value is None and key != "gpus_per_job":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"hydra.launcher.{key} must be a whole number, at least 1, not {value!r}.")
        if isinstance(self.gpus, str) and self.gpus != "auto":
            raise UserError(f"hydra.launcher.gpus must be auto or a list such as [0,1], not {self.gpus!r}.")

    def shares(self, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
        """The share of each of the concurrent runs, as environment variables of its process.

        Args:
            gpus: the names of the available GPUs, for "auto".
            cores: number of available processor cores.

        Raises:
            UserError: there are fewer GPUs than one run needs.
        """
        devices = list(gpus) if self.gpus == "auto" else [str(gpu) for gpu in self.gpus]
        size = self.gpus_per_job
        if devices and len(devices) < size:
            raise UserError(
                f"hydra.launcher.gpus_per_job={size} is more than the {len(devices)} available GPU(s)."
            )
        groups = [devices[start : start + size] for start in range(0, len(devices) - size + 1, size)]
        jobs = self.jobs or len(groups) or max(1, cores // (self.threads or 1))
        threads = str(self.threads or max(1, cores // jobs))
        shares = [dict.fromkeys(THREADS_VARIABLES, threads) for _ in range(jobs)]
        for number, share in enumerate(shares):
            if groups:
                share[GPUS_VARIABLE] = ",".join(groups[number % len(groups)])
            elif self.gpus != "auto":
                share[GPUS_VARIABLE] = ""  # [] means none, even if there are GPUs
        return shares


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get(GPUS_VARIABLE)
    names = listed.split(",") if listed else [str(number) for number in range(count)]
    return names[:count]


def usable_cores() -> int:
    """The number of cores that this process may use; a container or a scheduler may have restricted it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
