"""The objects that a configuration describes."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from prunelab.distributed import is_rank_zero
from prunelab.errors import UserError
from prunelab.evaluation import Target
from prunelab.export.deploy import PACKAGES, PACKAGES_OF_OPENVINO, missing_packages
from prunelab.factorisation import LowRank
from prunelab.factorisation.decomposition import require_tensorly
from prunelab.methods import Budget, PruningContext, PruningMethod
from prunelab.methods.allocation.budget import Resource
from prunelab.models.user_models import import_user_module
from prunelab.quantisation import Precision
from prunelab.recipes import Recipe
from prunelab.records import BASELINES, baseline_key
from prunelab.records.key import search_key
from prunelab.records.known_keys import check_keys
from prunelab.records.quantisation import used_settings
from prunelab.steps.baseline import BaselineSource
from prunelab.steps.baseline_store import BaselineStore
from prunelab.steps.fast_dev_run import shortened
from prunelab.steps.task import NetworkSettings, Task
from prunelab.steps.value_types import check_common, check_kinds
from prunelab.tracking import RunLogger
from prunelab.training import Machine

log = logging.getLogger(__name__)

GROUPS = ("data", "baseline", "method", "recipe", "trainer", "logger")
"""The groups whose choices have a ``_target_``, the class of the object."""

STAGE_BATCHES = (1, 64)
"""The batch sizes at which the stages of a run are timed on the target."""


@dataclass(frozen=True)
class Setup:
    """The objects of a run. Constructing them does no input or output."""

    study: str
    names: Mapping[str, str]
    task: Task
    store: BaselineStore
    baseline_key: str
    search_key: str
    baseline: BaselineSource
    method: PruningMethod
    recipe: Recipe
    logger: RunLogger
    lowrank: LowRank
    target: Target
    precision: Precision
    stage_batches: tuple[int, ...] = STAGE_BATCHES
    stages_on_target: bool = False
    """Whether every stage is timed on ``target``, besides PyTorch on the machine of the run."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Setup:
        """The objects that the resolved ``config`` describes.

        Raises:
            UserError: an invalid value.
        """
        check_keys(config)
        Budget(
            **{name: config["budget"].get(name) for name in get_args(Resource)}
        )  # raises for invalid values
        check_common(config)
        check_kinds(config["model"], "model", NetworkSettings)
        config = {**config, "method": _with_its_module(config["method"])}
        for group in GROUPS:
            check_kinds(config[group], group)
        config = shortened(config)
        machine: Machine = replace(_made(config["trainer"], "trainer"), batches=config.get("fast_dev_run"))
        task = Task(
            settings=NetworkSettings(**config["model"]),
            data=_made(_for_each_process(config["data"], machine), "data"),
            machine=machine,
            seed=config["seed"],
        )
        lowrank = _low_rank(config)
        target = (
            _made(config["budget"]["target"], "budget.target") if "target" in config["budget"] else Target()
        )
        precision = _precision(config)
        return cls(
            study=config["study"],
            names=config["names"],
            task=task,
            store=BaselineStore(Path(config["outputs"]).expanduser() / BASELINES),
            baseline_key=baseline_key(config),
            search_key=search_key(config),
            baseline=_made(config["baseline"], "baseline"),
            method=_made(config["method"], "method"),
            recipe=_made(config["recipe"], "recipe"),
            logger=_made(config["logger"], "logger"),
            lowrank=lowrank,
            target=target,
            stage_batches=tuple(config.get("stage_batches", STAGE_BATCHES)),
            precision=precision,
            stages_on_target=(
                config["budget"].get("latency") is not None
                or lowrank.decomposition != "none"
                or precision.name != "fp32"
                or (config.get("deploy") or {}).get("format") == "onnx"
                or target.settings() != Target().settings()
            ),
        )

    def require_target(self) -> None:
        """Check, before any training, that this machine has the devices on which times are measured.

        Raises:
            UserError: names the device that is missing.
        """
        if self.stages_on_target:
            self.target.require_device()
        if self.lowrank.decomposition != "none" and self.lowrank.latency is not None:
            self.lowrank.goal.require_device()

    @property
    def budget(self) -> Budget:
        """The budget after the last round."""
        return self.method.budget

    def context(self, network: nn.Module, **more: Any) -> PruningContext:
        """The input of the method's decision for ``network``; ``more`` as for ``PruningMethod.context``."""
        task, method = self.task, self.method
        data = task.data
        return method.context(
            network,
            task.example_input(),
            data.calibration_dataloader(method.images) if method.reads_images else None,
            device=task.machine.device,
            name=self.names["model"],
            progress=is_rank_zero(),
            validation=data.validation_dataloader(method.validation_images)
            if method.reads_validation
            else None,
            **more,
        )

    def __str__(self) -> str:
        names = self.names
        return f"{names['method']} on {names['model']}, {names['data']}, {self.budget}, seed {self.task.seed}"


def _for_each_process(data: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The data settings of one process: each batch is divided evenly among the processes.

    Raises:
        UserError: this machine does not have the devices of ``machine``, or a batch cannot be divided evenly.
    """
    processes = machine.trainer(logger=False).world_size
    batch = data.get("batch_size")
    if processes == 1 or not isinstance(batch, int):
        return dict(data)
    if batch % processes:
        raise UserError(
            f"data.batch_size={batch} cannot be divided evenly among {processes} processes: "
            f"use a multiple of {processes}."
        )
    return {**data, "batch_size": batch // processes}


def made(settings: Mapping[str, Any], group: str) -> Any:
    """The object that the ``settings`` of a ``group`` of the configuration describe.

    Raises:
        UserError: an invalid value.
    """
    settings = _with_its_module(settings) if group == "method" else settings
    check_kinds(settings, group)
    return _made(settings, group)


def _with_its_module(method: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method without ``module``; that module, which defines classes of the user, is imported."""
    settings = dict(method)
    if (module := settings.pop("module", None)) is not None:
        if not isinstance(module, str):
            raise UserError(
                f"method.module={module!r} is not the name of a Python module. Give text, such as mine."
            )
        import_user_module(module, "method.module")
    return settings


def _made(settings: Mapping[str, Any], group: str) -> Any:
    """The object that ``settings`` with a ``_target_`` describe. A UserError of its constructor is raised unchanged."""
    try:
        return instantiate(OmegaConf.create(dict(settings)), _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:  # the error may come from a nested object
            if isinstance(cause, UserError):
                raise UserError(_placed(str(cause), group, str(error))) from None
            cause = cause.__cause__
        raise UserError(
            f"{group}: {settings['_target_']} cannot be constructed: {error.__cause__ or error}"
        ) from error


def _low_rank(config: Mapping[str, Any]) -> LowRank:
    """The settings of the factorisation; none in configurations of earlier versions.

    Raises:
        UserError: an invalid value, or tensorly is not installed.
    """
    if "lowrank" not in config:
        return LowRank()
    settings: LowRank = made(config["lowrank"], "lowrank")
    if settings.decomposition != "none":
        require_tensorly()
    return settings


def _precision(config: Mapping[str, Any]) -> Precision:
    """The number format of the final network; float32 in configurations of earlier versions.

    Raises:
        UserError: an invalid value, or the runtime that judges the network is not installed.
    """
    if "precision" not in config:
        return Precision()
    given = config["precision"]
    check_kinds(given, "precision")
    used = used_settings(given)
    for name in ("epochs", "exclude"):
        if name not in used and given.get(name):
            log.info("precision.%s=%s is not used with precision=%s.", name, given[name], given.get("name"))
    settings: Precision = made(used, "precision")
    extra, packages = {
        "onnxruntime": ("deploy", PACKAGES), "openvino": ("openvino", PACKAGES_OF_OPENVINO),
    }.get(settings.runs_in, ("", ()))  # fmt: skip
    if missing := missing_packages(packages):
        raise UserError(
            f"precision={settings.name} in {settings.runs_in} needs {', '.join(missing)}: "
            f"pip install 'prunelab[{extra}]'."
        )
    return settings


def _placed(message: str, group: str, hydra_message: str) -> str:
    """``message``; if it starts with "training:", then with the full key instead, as there may be several trainings."""
    place = re.search(r"full_key: ([\w.]+)", hydra_message)
    name, colon, rest = message.partition(":")
    return f"{group}.{place[1]}:{rest}" if place and colon and name == "training" else message
