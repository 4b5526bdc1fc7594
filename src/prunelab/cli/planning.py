"""The common part of all launchers of a sweep: selects the runs to start, and collects the result of each run.

Finished runs are found before anything is started, so they cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from prunelab.cli.config import resolve
from prunelab.cli.run import attempt, settled
from prunelab.cli.summary import Job


@dataclass(frozen=True)
class Run:
    """A run that must be started or continued: its resolved configuration, and its part of the command line."""

    config: Mapping[str, Any]
    label: str


def launch(
    context: HydraContext,
    config: DictConfig,
    command_lines: Sequence[Sequence[str]],
    do: Callable[[Mapping[int, Run]], Mapping[int, Job]],
) -> list[JobReturn]:
    """The results of the runs that the command lines describe, in their order, for Hydra's launchers.

    ``do`` executes the runs that are not settled, by number, and returns their results. It is not called without any.
    """
    configs = [context.config_loader.load_sweep_config(config, list(words)) for words in command_lines]
    image_folders: dict[Path, str] = {}
    known = [_settled_or_left(each, image_folders) for each in configs]
    runs = {number: run for number, run in enumerate(known) if isinstance(run, Run)}
    jobs = {number: job for number, job in enumerate(known) if isinstance(job, Job)}
    jobs |= do(runs) if runs else {}
    returns = []
    for number, (words, each) in enumerate(zip(command_lines, configs, strict=True)):
        returned = JobReturn(overrides=words, cfg=each, status=JobStatus.COMPLETED)
        returned.return_value = jobs[number]
        context.callbacks.on_job_end(config=each, job_return=returned)
        returns.append(returned)
    return returns


def _settled_or_left(config: DictConfig, image_folders: dict[Path, str]) -> Job | Run:
    """The earlier result of the run, or the error in its configuration; otherwise the run itself."""
    label = " ".join(config.hydra.overrides.task)

    def found() -> Job | Run:
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        values = resolve(own, config.hydra.runtime)
        job = settled(values, label, image_folders)
        values["sweep"]["redo"] = False  # the earlier run has been moved to earlier/ already
        return job or Run(values, label)

    return attempt(found, label)
