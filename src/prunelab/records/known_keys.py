"""The keys that a configuration can have outside the groups whose classes check their own keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prunelab.errors import UserError, nearest
from prunelab.records.defaults import parameters_of

KEYS = (
    "names", "study", "seed", "levels", "exclude", "exact", "cardinality", "outputs", "fast_dev_run", "sweep",
    "data", "model", "baseline", "method", "budget", "recipe", "lowrank", "precision", "trainer", "logger", "deploy",
    "learning_epochs", "search_evaluations", "stage_batches",
)  # fmt: skip
GROUPS = ("data", "model", "baseline", "method", "budget", "recipe", "trainer", "logger")
TEXTS = ("study", "outputs")
"""Needed in every configuration: groups of keys, and names of folders."""

OF_A_SWEEP = ("retry_failed", "redo")
OF_AN_ALLOCATION = ("allocation", "normalisation", "min_keep", "divisor")
BUDGET = "prunelab.methods.Budget"
RESOURCES = ("flops", "params", "latency")


def check_keys(config: Mapping[str, Any]) -> None:
    """Reject keys that have no effect, at the top level, in ``budget`` and in ``sweep``.

    Hydra adds any key that is written with a plus sign (``+budget.latency=0.5``). The keys of all other groups are
    compared with the parameters of their classes when these are created.

    Raises:
        UserError: names the key and the nearest known ones.
    """
    _check("", config, KEYS)
    _check("budget.", config.get("budget"), (*parameters_of(BUDGET), *OF_AN_ALLOCATION))
    _check("sweep.", config.get("sweep"), OF_A_SWEEP)
    _check_resources(config)


def check_parts(config: Mapping[str, Any]) -> None:
    """Check that the ``config`` of a record, which may have been edited, has the groups and folders of every run.

    Raises:
        UserError: names the key.
    """
    for group in GROUPS:
        if not isinstance(config.get(group), Mapping):
            raise UserError(f"{group} must be a group of keys, not {_shown(config.get(group))}.")
    for name in TEXTS:
        if not isinstance(config.get(name), str):
            raise UserError(f"{name} must be the name of a folder, not {_shown(config.get(name))}.")


def _check_resources(config: Mapping[str, Any]) -> None:
    """Check the resources. A method has its own budget, to which the files of conf/method copy the supported
    resources."""
    asked, method = config.get("budget"), config.get("method")
    given = method.get("budget") if isinstance(method, Mapping) else None
    if not isinstance(asked, Mapping) or not isinstance(given, Mapping):
        return
    for resource in RESOURCES:
        if asked.get(resource) is not None and resource not in given:
            raise UserError(
                f"budget.{resource} has no effect on this method, whose budget has {' and '.join(_plain(given))}. "
                f"Leave it out, or add it: +method.budget.{resource}={asked[resource]}"
            )


def _plain(budget: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in budget if not str(name).startswith("_")]


def _check(group: str, values: Any, known: Iterable[str]) -> None:
    if not isinstance(values, Mapping):
        return
    names = tuple(known)
    if unknown := [key for key in values if key not in names]:
        raise UserError(f"There is no key {group + str(unknown[0])!r}. {nearest(str(unknown[0]), names)}")


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
