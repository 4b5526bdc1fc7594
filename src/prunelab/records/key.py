"""The key of a run or of a baseline: a digest of all that can change its result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from prunelab.errors import UserError

KEY_LENGTH = 12
"""Hexadecimal digits of a key; 48 bits keep ten thousand runs of a study apart."""

WITHOUT_EFFECT = (
    # what the run is called, and where it is written
    "names",
    "study",
    "outputs",
    # which runs of a sweep are tried
    "sweep",
    # acts through method.epochs alone
    "learning_epochs",
    # who watches
    "logger",
    # how fast networks are judged, and images are read
    "method.workers",
    "data.num_workers",
    "data.in_memory",
    "data.cache",
    # where it is computed
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.images_on_device",
)
"""Dotted names of the settings that are left out of every key, because they cannot change a result."""

UNSAID: Mapping[str, Any] = {
    "exclude": [],
    "method.exclude": [],
    "exact": False,
    "method.exact": False,
    "cardinality": False,
    "method.cardinality": False,
    "fast_dev_run": None,
    "model.module": None,
    "trainer.sync_batchnorm": False,
    "trainer.tf32": False,
    "trainer.fused": False,
    "data.train_fraction": 1.0,
}
"""Settings that came after the first records, and the values at which a run is what it was before there were
such settings. A key knows them at other values only."""

PUBLISHED_DATA = ("prunelab.data.Cifar10", "prunelab.data.FashionMnist", "prunelab.data.ImageNet")
"""Data sets that are the same in every folder. Of others the folder counts: it says which images."""

OF_THE_BASELINE = ("data", "model", "baseline", "seed", "trainer", "fast_dev_run")
"""The settings that a baseline depends on; all methods and budgets of a sweep share the rest of them."""


def run_key(config: Mapping[str, Any]) -> str:
    """The key of the run that the resolved ``config`` describes."""
    return digest(_identity(config))


def baseline_key(config: Mapping[str, Any]) -> str:
    """The key of the baseline that the run of the resolved ``config`` starts from."""
    identity = _identity(config)
    return digest({name: identity[name] for name in OF_THE_BASELINE if name in identity})


def unsaid(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The dotted names of the settings of ``UNSAID`` that ``config`` leaves at the values given there."""
    return tuple(name for name, value in UNSAID.items() if _value(config, name, value) == value)


def digest(values: Any) -> str:
    """A short name for plain data: equal data, equal name, on every machine."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Raises UserError if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"The baseline file {path} cannot be read: {error.strerror}. Check baseline.path."
        ) from error


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without the settings that have no effect; files and folders stand for what is in them."""
    identity = _without(config, (*WITHOUT_EFFECT, *unsaid(config)))
    baseline, data = identity["baseline"], identity["data"]
    if "path" in baseline:
        baseline["path"] = file_digest(Path(str(baseline["path"])).expanduser())
    if data["_target_"] in PUBLISHED_DATA:
        data.pop("root")
    elif "root" in data:
        data["root"] = str(Path(data["root"]).expanduser().resolve())
    return identity


def _without(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    remaining = deepcopy(dict(config))
    for name in names:
        *parents, last = name.split(".")
        node: Any = remaining
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return remaining


def _value(config: Mapping[str, Any], name: str, default: Any) -> Any:
    node: Any = config
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node
