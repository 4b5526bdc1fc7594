"""Renamed settings: configurations of earlier versions with the names of this version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunelab.records import sources
from prunelab.records.classes import TARGET, present_target

RENAMED_SETTINGS: Mapping[str, str] = {
    "whole": "exclude",
    "budget.floor": "budget.min_keep",
    "method.whole": "method.exclude",
    "method.floor": "method.min_keep",
}
"""Former dotted name of a setting -> present name. The former names are accepted on the command line, in YAML files and
in records."""


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the present names of settings and the present import paths of classes.

    Args:
        config: a resolved configuration that this or an earlier version recorded; it is not changed.
    """
    values = {str(name): _with_present_targets(each) for name, each in config.items()}
    for former, present in RENAMED_SETTINGS.items():
        group, _, name = former.rpartition(".")
        node = values.get(group) if group else values
        if isinstance(node, dict) and name in node and is_renamed_in(node):
            value = node.pop(name)
            node.setdefault(present.rpartition(".")[2], value)
    return values


def renamed_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line with present names of settings, and a warning for each former name."""
    present_words, warnings = [], []
    for word in words:
        key, equals, value = word.partition("=")
        bare = key.lstrip("+~")
        present = RENAMED_SETTINGS.get(bare)
        if present is None:
            present_words.append(word)
            continue
        present_words.append(f"{key.removesuffix(bare)}{present}{equals}{value}")
        warnings.append(deprecation(bare, present))
    return present_words, warnings


def deprecation(former: str, present: str) -> str:
    """The warning about a former name."""
    return f"The setting {former} is now called {present}. Use {present}=...; {former} will be removed."


def is_renamed_in(node: Mapping[Any, Any]) -> bool:
    """Whether former names in a group are those of prunelab; a user class may have settings of the same names."""
    return TARGET not in node or sources.is_own(str(node[TARGET]))


def _with_present_targets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: present_target(each)
            if name == TARGET and isinstance(each, str)
            else _with_present_targets(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_with_present_targets(each) for each in value]
    return value
