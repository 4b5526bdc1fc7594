"""Checks the types of the values of a configuration against the annotations of the classes that receive them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

from prunelab.data.checks import LARGEST_SEED
from prunelab.errors import UserError, nearest

TARGET = "_target_"
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
PLURALS = {int: "whole numbers", float: "numbers", str: "names"}

COMMON: Mapping[str, Any] = {
    "seed": int,
    "levels": Collection[str],
    "exclude": Collection[str],
    "exact": bool,
    "cardinality": bool,
    "stage_batches": Collection[int],
    "learning_epochs": int | None,
    "search_evaluations": int | None,
    "sweep.redo": bool,
    "sweep.retry_failed": bool,
    "budget.normalisation": str | None,
    "budget.min_keep": float,
    "budget.divisor": int,
    "recipe.calibration_images": int,
}
"""Settings to which other settings refer. They are checked first, so that a message names the key that the user
wrote."""


def check_common(config: Mapping[str, Any]) -> None:
    """Check the types of the values of ``COMMON`` in the resolved ``config``. Raises UserError."""
    for name, hint in COMMON.items():
        group, _, key = name.rpartition(".")
        values = config.get(group, {}) if group else config
        if key in values:
            _check_value(name, values[key], hint)
    if not 0 <= config.get("seed", 0) <= LARGEST_SEED:
        raise UserError(f"seed must be a number from 0 to {LARGEST_SEED}, not {config['seed']}.")
    if any(isinstance(each, bool) or each < 1 for each in config.get("stage_batches", ())):
        raise UserError(
            f"stage_batches={config['stage_batches']}: batch sizes are whole numbers of at least 1."
        )


def check_kinds(settings: Mapping[str, Any], where: str, made: Any = None) -> None:
    """Check that each key is a parameter of ``made``, and each value has the annotated type.

    Args:
        settings: the arguments of a class or function; nested settings have a ``_target_`` of their own.
        where: the name of ``settings`` in the configuration, such as "method".
        made: the class or function; by default their ``_target_``.

    Raises:
        UserError: an unknown key, a missing key without a default, or a value of another type; the message names the
            key and the types that it takes.
    """
    made = made or get_object(settings[TARGET])
    if missing := [name for name in _required(made) if name not in settings]:
        raise UserError(
            f"{where}.{missing[0]} is missing, and it has no default: set {where}.{missing[0]}=VALUE. If "
            f"'~{where}.{missing[0]}' on the command line removed it, leave that word out."
        )
    hints, takes_any = _parameters(made)
    for key, value in settings.items():
        if key.startswith("_"):
            continue  # Hydra's own
        if key not in hints and not takes_any:
            raise UserError(f"There is no key {where}.{key}. {nearest(key, hints)}")
        _check(f"{where}.{key}", value, hints.get(key, Any))


def _check(name: str, value: Any, hint: Any) -> None:
    """Check a value, nested settings, or a list of nested settings."""
    if isinstance(value, Mapping) and TARGET in value:
        check_kinds(value, name)
    elif isinstance(value, list) and any(isinstance(each, Mapping) and TARGET in each for each in value):
        for number, each in enumerate(value):
            _check(f"{name}[{number}]", each, Any)
    else:
        _check_value(name, value, hint)


def _check_value(name: str, value: Any, hint: Any) -> None:
    if _fits(value, hint):
        return
    if isinstance(value, str) and any(_is_list(each) for each in _choices(hint)):
        raise UserError(f"{name}={value!r} is one word: write a list, such as {name}=[{value}].")
    raise UserError(f"{name} must be {_described(hint)}, not {_typed(value)}.")


def _required(made: Any) -> list[str]:
    """The names of the parameters of a class or function that have no default."""
    return [
        each.name
        for each in inspect.signature(made).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]


def _parameters(made: Any) -> tuple[dict[str, Any], bool]:
    """The annotations of the parameters of ``made``, by name, and whether it takes any other name too.

    A class with a parameter ``**settings`` also takes the parameters of its base class.
    """
    hints: dict[str, Any] = {}
    for each in made.__mro__ if inspect.isclass(made) else [made]:
        constructor = each.__dict__.get("__init__") if inspect.isclass(each) else each
        if constructor is None:
            continue
        known = _hints(each if is_dataclass(each) else constructor)
        parameters = inspect.signature(constructor).parameters.values()
        for parameter in list(parameters)[inspect.isclass(each) :]:  # without self
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                hints.setdefault(parameter.name, known.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return hints, False
    return hints, True


def _hints(made: Any) -> dict[str, Any]:
    """``get_type_hints``, with Any for names that are imported for type checkers only."""
    missing: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(made, localns=missing)
        except NameError as unknown:
            missing[str(unknown.name)] = Any


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(
            value, str
        )  # the class itself checks the word, and its message offers the nearest one
    return any(_fits_one(value, each) for each in _choices(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if _is_list(hint):
        element = (*get_args(hint), Any)[0]
        return isinstance(value, list) and all(_fits(each, element) for each in value)
    if inspect.isclass(get_origin(hint)):  # a mapping
        return isinstance(value, get_origin(hint))
    if hint in (int, float):
        wanted = int if hint is int else (int, float)
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, str) if hint is Path else inspect.isclass(hint) and isinstance(value, hint)


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    return inspect.isclass(origin) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


def _described(hint: Any) -> str:
    """The types that ``hint`` allows, in words; null last."""
    choices = sorted(_choices(hint), key=lambda each: each is NoneType)
    return " or ".join(dict.fromkeys(_word(each) for each in choices))


def _word(hint: Any) -> str:
    if hint is NoneType:
        return "null"
    if get_origin(hint) is Literal:
        return " or ".join(_typed(each) for each in get_args(hint))
    if _is_list(hint):
        element = (*get_args(hint), Any)[0]
        return f"a list of {PLURALS.get(element, 'values')}"
    return WORDS.get(hint, "a group of keys")


def _typed(value: Any) -> str:
    """``value`` as on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
