"""Is each value of a configuration of the kind that is meant: a number, a word, true or false, a list?"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object

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
    "learning_epochs": int | None,
    "search_evaluations": int | None,
    "sweep.redo": bool,
    "sweep.retry_failed": bool,
    "budget.normalisation": str | None,
    "budget.min_keep": float,
    "budget.divisor": int,
    "recipe.calibration_images": int,
}
"""Settings that others refer to: they are looked at first, so that a message names what was typed."""


def check_common(config: Mapping[str, Any]) -> None:
    """Refuse a value of ``COMMON`` in the resolved ``config`` that is of another kind. Raises UserError."""
    for name, hint in COMMON.items():
        group, _, key = name.rpartition(".")
        values = config.get(group, {}) if group else config
        if key in values:
            _check_value(name, values[key], hint)
    if config.get("seed", 0) < 0:
        raise UserError(f"seed must be 0 or more, not {config['seed']}.")


def check_kinds(settings: Mapping[str, Any], where: str, made: Any = None) -> None:
    """Refuse what ``made`` would not understand: a key that it does not have, or a value of another kind.

    Args:
        settings: what is given to a class or function, and to others inside, each with its ``_target_``.
        where: the name of ``settings`` in the configuration, such as "method".
        made: what takes the settings; by default their ``_target_``. Its annotations say which kinds there are.

    Raises:
        UserError: names the key and says what it should be.
    """
    hints, takes_any = _parameters(made or get_object(settings[TARGET]))
    for key, value in settings.items():
        if key.startswith("_"):
            continue  # Hydra's own
        if key not in hints and not takes_any:
            raise UserError(f"There is no key {where}.{key}. {nearest(key, hints)}")
        _check(f"{where}.{key}", value, hints.get(key, Any))


def _check(name: str, value: Any, hint: Any) -> None:
    """Check a value, or what makes it, or each of a list of such."""
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


def _parameters(made: Any) -> tuple[dict[str, Any], bool]:
    """The annotations of what ``made`` takes, by name, and whether it takes any other name too.

    A class that hands ``**settings`` on to its base takes what the base does.
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
    """``get_type_hints``, with Any for what is imported for type checkers alone."""
    missing: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(made, localns=missing)
        except NameError as unknown:
            missing[str(unknown.name)] = Any


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str)  # who takes one of several words knows the nearest
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
    """The kinds that ``hint`` allows, in words; null last."""
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
    """``value`` as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
