"""The Hydra plugin of hydra/launcher=slurm. Hydra finds plugins only in this namespace, and imports all of it at each
start; therefore the implementation is imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SlurmLauncher(Launcher):
    """Does the runs of a sweep as Slurm jobs; ``settings`` are the keys of conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Wait for all jobs. The error of a failed job is part of its result, as in a local sweep."""
        from prunelab.cli.planning import launch
        from prunelab.cli.slurm import SlurmSettings, do_runs

        settings = SlurmSettings.of(self.settings)
        return launch(self.context, self.config, job_overrides, lambda runs: do_runs(runs, settings))
