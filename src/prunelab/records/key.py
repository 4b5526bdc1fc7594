"""Keys of runs and of baselines.

A key is a digest of the settings that differ from the defaults of their classes. A key therefore stays the same when an
option is added whose default changes nothing, when a class moves to another module, and when settings are written in
another order or form; it changes with every setting that changes a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from prunelab.records.classes import TARGET, key_word, present_target
from prunelab.records.contents import BY_CONTENT, content_digests
from prunelab.records.defaults import UNKNOWN, defaults_of, defaults_of_network
from prunelab.records.quantisation import used_settings

KEY_SCHEMA = 2
"""Version of the definition of keys. With another version stored runs are not found until prunelab-migrate renames
them."""

KEY_LENGTH = 12
"""Hexadecimal digits of a key; 48 bits distinguish ten thousand runs of a study."""

WITHOUT_EFFECT = frozenset(
    {
        # identified by the classes that it defines
        "method.module",
        # the folder of latency tables
        "method.budget.target.tables",
        "lowrank.target.tables",
        # speed of judging networks and reading images
        "method.workers",
        "method.save_every",
        "data.num_workers",
        "data.in_memory",
        "data.cache",
        # the machine of a run, see also _of_trainer
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.sync_batchnorm",
        "trainer.threads",
        "trainer.images_on_device",
    }
)
"""Dotted names of settings that are left out of every key, because they cannot change a result beyond rounding
(experiments/benchmarks/README.md). Groups and keys outside
``OF_A_RUN`` are left out as well: names, folders and loggers, and those that act only through ``method`` (budget,
levels, ...)."""

OF_THE_BASELINE = ("data", "model", "baseline", "seed", "trainer", "fast_dev_run")
"""The settings on which a baseline depends; runs of a sweep with the same ones share it."""

OF_A_RUN = (*OF_THE_BASELINE, "method", "recipe", "lowrank", "precision")

TOP_LEVEL_DEFAULTS: Mapping[str, Any] = {"seed": 0, "fast_dev_run": None, "lowrank": None, "precision": None}
NETWORK_SETTINGS = "prunelab.steps.NetworkSettings"
"""The class that takes the settings of conf/model."""

SETS = ("levels", "exclude")
"""Lists whose order and repetitions have no effect; a single name is a list of one, null an empty one."""

PRECISIONS: Mapping[str, str] = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Short forms that Lightning accepts for ``trainer.precision``."""

NOT_SETTINGS = (TARGET, "_convert_", "_recursive_")
"""Keys of Hydra that are not arguments of a class."""


def run_key(config: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> str:
    """The key of the run that the resolved ``config`` describes.

    Args:
        contents: the result of ``content_digests`` for it, if it is known already (from a record).

    Raises:
        UserError: the baseline file cannot be read.
    """
    return digest(identity(config, contents))


def baseline_key(config: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> str:
    """The key of the baseline that the run of the resolved ``config`` starts from; arguments as for ``run_key``."""
    whole = identity(config, contents)
    return digest({name: whole[name] for name in ("schema", *OF_THE_BASELINE, "contents") if name in whole})


def search_key(config: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> str:
    """The key of a search that gives the networks of all budgets: of the baseline, and of the method without its
    budget. Arguments as for ``run_key``."""
    whole = identity(config, contents)
    method = {name: value for name, value in whole["method"].items() if name != "budget"}
    of_the_baseline = {
        name: whole[name] for name in ("schema", *OF_THE_BASELINE, "contents") if name in whole
    }
    return digest({**of_the_baseline, "method": method})


def identity(config: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The identity of a run as plain data: settings that differ from defaults, stable names of classes, digests of
    contents.

    The source of a user's method or recipe is not part of it: with an edited one, finished runs of a study are still
    found, and the change is reported (``records.reuse``).
    """
    contents = content_digests(config) if contents is None else contents
    found: dict[str, Any] = {"schema": KEY_SCHEMA}
    for name in OF_A_RUN:
        form = SPECIAL_FORMS.get(name)
        value = form(config) if form is not None else canonical(name, config.get(name))
        if value != TOP_LEVEL_DEFAULTS.get(name, UNKNOWN):
            found[name] = value
    of_the_baseline = {
        place: value for place, value in contents.items() if place.partition(".")[0] in OF_THE_BASELINE
    }
    return {**found, **({"contents": of_the_baseline} if of_the_baseline else {})}


def canonical(name: str, value: Any) -> Any:
    """The canonical form of a setting, the same for all equal ones.

    Args:
        name: its dotted name, such as ``method.levels``.
        value: numbers, text, lists and mappings; one with a ``_target_`` loses the settings at their defaults.
    """
    last = name.rpartition(".")[2]
    if isinstance(value, Mapping):
        return _of_group(name, value)
    if last in SETS and (value is None or isinstance(value, str)):
        value = [] if value is None else [value]
    if isinstance(value, list | tuple):
        values = [canonical(f"{name}[{number}]", each) for number, each in enumerate(value)]
        is_set = last in SETS and all(isinstance(each, str) for each in values)
        return sorted(set(values)) if is_set else values
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return PRECISIONS.get(str(value), value) if last == "precision" else value


def digest(values: Any) -> str:
    """A short name for plain data: equal data, equal name, on every machine."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def _of_group(
    place: str, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a group without those at their defaults, by default those of its class."""
    target = values.get(TARGET)
    if defaults is None:
        defaults = {} if target is None else defaults_of(present_target(str(target)))
    found = {} if target is None else {"class": key_word(str(target))}
    for key, value in values.items():
        name = f"{place}.{key}"
        if key in NOT_SETTINGS or name in WITHOUT_EFFECT or name in BY_CONTENT:
            continue
        settled = canonical(name, value)
        if not _same(settled, canonical(name, defaults.get(key, UNKNOWN))):
            found[key] = settled
    return found


def _of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the network; its arguments are compared with the defaults of the function that registers it."""
    model = config["model"]
    network = defaults_of_network(str(model.get("name")), model.get("module"))
    given = model.get("arguments") or {}
    if isinstance(given, Mapping):  # else it is an error, which is reported when the network is made
        given = _of_group("model.arguments", given, network)
    return _of_group("model", {**model, "arguments": given}, defaults_of(NETWORK_SETTINGS))


def _of_trainer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the trainer, and the number of processes where it changes the result."""
    trainer = config["trainer"]
    found = _of_group("trainer", trainer)
    processes = {name: _number(trainer.get(name, 1)) for name in ("devices", "num_nodes")}
    if all(number in (1, "1") for number in processes.values()):
        return found
    if trainer.get("sync_batchnorm") is False:
        return found | {"sync_batchnorm": False} | processes
    return found | (processes if _depends_on_processes(config["model"]) else {})


def _of_lowrank(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the factorisation; None without one. ``forms`` are those of "svd"."""
    if not factorises(config):
        return None
    settings = config["lowrank"]
    is_svd = settings["decomposition"] == "svd"
    return _of_group("lowrank", {name: settings[name] for name in settings if is_svd or name != "forms"})


def factorises(config: Mapping[str, Any]) -> bool:
    """Whether the resolved ``config``, which may be of an earlier version, factorises layers."""
    settings = config.get("lowrank")
    return isinstance(settings, Mapping) and settings.get("decomposition", "none") != "none"


def _of_precision(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that the number format uses; None for float32."""
    return _of_group("precision", used_settings(config["precision"])) if quantises(config) else None


def quantises(config: Mapping[str, Any]) -> bool:
    """Whether the resolved ``config``, which may be of an earlier version, asks for another format than float32."""
    settings = config.get("precision")
    return isinstance(settings, Mapping) and settings.get("name", "fp32") != "fp32"


def _depends_on_processes(model: Mapping[str, Any]) -> bool:
    """Whether training steps of several processes may differ from those of one (``training/whole_batch.py``).

    A network of a user may draw random numbers of its own or look at several images; VOLO mixes the images of a batch.
    """
    return bool(model.get("module")) or str(model.get("name")).startswith("volo_")


def _number(devices: Any) -> Any:
    """The number of devices that a list of their indices or ``trainer.devices="0,1"`` selects; else the value
    itself."""
    if isinstance(devices, str) and "," in devices:
        devices = [each for each in devices.split(",") if each.strip()]
    if isinstance(devices, list | tuple):
        return len(devices)
    return int(devices) if isinstance(devices, str) and devices.isdigit() else devices


SPECIAL_FORMS: Mapping[str, Any] = {
    "model": _of_model, "trainer": _of_trainer, "lowrank": _of_lowrank, "precision": _of_precision,
}  # fmt: skip
"""The groups with settings that count only together with others, and their form in the configuration."""


def _same(value: Any, default: Any) -> bool:
    """Equal as JSON, where true is not 1."""
    return default is not UNKNOWN and json.dumps(value, sort_keys=True) == json.dumps(default, sort_keys=True)
