"""The resources and the time limit of a job: the keys of conf/hydra/launcher/slurm.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from prunelab.errors import UserError, nearest

WHOLE_NUMBERS = {
    "gpus": 0,
    "cpus": 1,
    "minutes": 1,
    "warning_s": 1,
    "restarts": 0,
    "max_parallel": 1,
    "poll_s": 1,
}
"""Keys that are whole numbers, and the minimum of each."""


@dataclass(frozen=True)
class SlurmSettings:
    """The settings of the launcher; the file describes the keys.

    Raises:
        UserError: a number out of range.
    """

    partition: str | None = None
    account: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory_gb: float | None = None
    minutes: int = 240
    warning_s: int = 120
    restarts: int = 20
    max_parallel: int = 64
    poll_s: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SlurmSettings:
        """The settings in a mapping. Raises UserError if one is unknown."""
        known = [each.name for each in fields(cls)]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"There is no key hydra.launcher.{unknown[0]}. {nearest(unknown[0], known)}")
        return cls(**settings)

    def __post_init__(self) -> None:
        for key, least in WHOLE_NUMBERS.items():
            value = getattr(self, key)
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"hydra.launcher.{key} must be a whole number, at least {least}, not {value!r}."
                )
        if self.warning_s >= 60 * self.minutes:
            raise UserError(
                f"hydra.launcher.warning_s={self.warning_s} must be shorter than the time limit of "
                f"hydra.launcher.minutes={self.minutes}, {60 * self.minutes} s."
            )

    def parameters(self, nodes: int, processes: int) -> dict[str, Any]:
        """The parameters for submitit, for a job with these numbers of nodes and of processes on each node."""
        given = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "gpus_per_node": self.gpus or None,
            "mem_gb": self.memory_gb,
            "slurm_setup": list(self.setup) or None,
            "slurm_additional_parameters": dict(self.options) or None,
        }
        return {
            "name": "prunelab",
            "nodes": nodes,
            "tasks_per_node": processes,
            "cpus_per_task": self.cpus,
            "timeout_min": self.minutes,
            "stderr_to_stdout": True,
            "slurm_signal_delay_s": self.warning_s,
            "slurm_array_parallelism": self.max_parallel,
            "slurm_srun_args": ["--kill-on-bad-exit=1"],  # so that no process waits for one that has ended
            **{name: value for name, value in given.items() if value is not None},
        }
