"""Checks which Python objects the configuration of a record may create: records are files that users share.

Hydra creates any object that a ``_target_`` names, and ``model.module`` is imported, so that a configuration can run
any code. On the command line it is written by the user; a record may come from another person.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from prunelab.cli.config import conf_folder
from prunelab.errors import UserError

TARGET = "_target_"
INSTRUCTIONS = ("_args_", "_partial_", "_recursive_")
"""Keys of Hydra that change the call of a target. prunelab's configuration uses none of them."""

TRUST_FLAG = "--trust"
HINT = f"If you trust that module, repeat the command with {TRUST_FLAG} MODULE."


def require_trusted(config: Mapping[str, Any], modules: Collection[str] = ()) -> None:
    """Check that ``config`` can run no code except that of prunelab and of the user's own ``modules``.

    Allowed as a ``_target_`` are the classes that prunelab's configuration files name, and classes defined in one of
    ``modules``. ``model.module`` and ``method.module`` must be among ``modules``. A reference (``${...}``) is not
    allowed: a record holds resolved values, and a reference could read environment variables. A module is imported only
    after its name was found to be allowed.

    Raises:
        UserError: names the key and the value that are not allowed.
    """
    for name in ("model", "method"):
        group = config.get(name)
        module = group.get("module") if isinstance(group, Mapping) else None
        if module is not None and not _is_inside(str(module), modules):
            raise UserError(f"{name}.module={module} would be imported, which runs its code. {HINT}")
    for key, value in _values(config):
        name = key.rpartition(".")[2]
        if name in INSTRUCTIONS:
            raise UserError(f"{key} is not allowed in a record: no configuration of prunelab has it.")
        if name == TARGET:
            _require_target(key, value, modules)
        elif isinstance(value, str) and "${" in value:
            raise UserError(f"{key}={value!r} is not allowed in a record: it refers to another value.")


def _require_target(key: str, target: Any, modules: Collection[str]) -> None:
    if isinstance(target, str) and target in own_targets():
        return
    if not isinstance(target, str) or not _is_inside(target, modules):
        raise UserError(f"{key}={target} is not a class that prunelab's configuration names. {HINT}")
    # These import Hydra and torch.
    from hydra.utils import get_object

    from prunelab.models.user_models import import_user_module

    import_user_module(next(module for module in modules if _is_inside(target, [module])))
    try:
        found = get_object(target)
    except Exception as error:
        raise UserError(f"{key}={target} cannot be imported: {error}") from error
    # A trusted module may import others: nets.os.system is not defined in nets.
    if not inspect.isclass(found) or not _is_inside(found.__module__, modules):
        raise UserError(f"{key}={target} is not a class that is defined in {' or '.join(sorted(modules))}.")


def _is_inside(name: str, modules: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _values(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of nested mappings and lists with its value, outermost first."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key, value
        if isinstance(value, Mapping | list | tuple):
            yield from _values(value, key)


@cache
def own_targets() -> frozenset[str]:
    """Every ``_target_`` inside prunelab that the files in conf/ name for a run (those of Hydra's own are in cli)."""
    return frozenset(
        value
        for file in _files(conf_folder())
        for key, value in _values(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
        if key.rpartition(".")[2] == TARGET
        and isinstance(value, str)
        and value.startswith("prunelab.")
        and not value.startswith("prunelab.cli.")
    )


def _files(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry)
        elif entry.name.endswith(".yaml"):
            yield entry
