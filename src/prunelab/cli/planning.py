"""What is left to do of a sweep: decided before anything is launched, so that finished runs cost a launcher nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunelab.cli.config import resolve
from prunelab.cli.run import attempt, settled
from prunelab.cli.summary import Job


@dataclass(frozen=True)
class Run:
    """A run that is left to do: its resolved configuration, and its part of the command line."""

    config: Mapping[str, Any]
    label: str


def plan(configs: Sequence[DictConfig]) -> tuple[dict[int, Job], dict[int, Run]]:
    """The runs that have ended already or cannot be, and those left to do, by their number in the sweep."""
    jobs: dict[int, Job] = {}
    runs: dict[int, Run] = {}
    for number, config in enumerate(configs):
        label = " ".join(config.hydra.overrides.task)
        known = attempt(lambda config=config, label=label: _settled_or_left(config, label), label)  # type: ignore[misc]
        if isinstance(known, Run):
            runs[number] = known
        else:
            jobs[number] = known
    return jobs, runs


def _settled_or_left(config: DictConfig, label: str) -> Any:
    """A Job if there is nothing to do, else a Run."""
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    values = resolve(own, config.hydra.runtime.choices)
    return settled(values, label) or Run(values, label)
