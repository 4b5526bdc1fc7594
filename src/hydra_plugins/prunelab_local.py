"""Hydra's side of hydra/launcher=local. Hydra takes launchers from this namespace alone, and imports all of it at
each start: what does the work is imported when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LocalLauncher(Launcher):
    """Does several runs of a sweep at a time; ``settings`` are the keys of conf/hydra/launcher/local.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Wait until every run is over; one that failed is told of by its result, as in a sweep one by one."""
        from prunelab.cli.local import LocalSettings, do_runs

        load = self.context.config_loader.load_sweep_config
        configs = [load(self.config, list(overrides)) for overrides in job_overrides]
        jobs = do_runs(configs, LocalSettings.of(self.settings))
        returns = []
        for overrides, config, job in zip(job_overrides, configs, jobs, strict=True):
            returned = JobReturn(overrides=overrides, cfg=config, status=JobStatus.COMPLETED)
            returned.return_value = job
            self.context.callbacks.on_job_end(config=config, job_return=returned)
            returns.append(returned)
        return returns
