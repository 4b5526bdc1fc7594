"""Settings under their former names, on the command line and in YAML files of users."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunelab.records.renamed import RENAMED_SETTINGS, deprecation, is_renamed_in, renamed_words

log = logging.getLogger(__name__)


def present_words(words: Sequence[str]) -> list[str]:
    """The words of a command line with present names; a former name gives a warning."""
    present, warnings = renamed_words(words)
    for warning in warnings:
        _warn(warning)
    return present


def with_former_names(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration in which former names work as well.

    A value under a former name moves to the present one, with a warning. The former name then refers to the present
    one, so that files that refer to it (``whole: ${whole}``) can be resolved.
    """
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    for former, present in RENAMED_SETTINGS.items():
        group, _, name = former.rpartition(".")
        node = copy.get(group) if group else copy
        if not isinstance(node, DictConfig) or not is_renamed_in(node):
            continue
        if name in node:
            plain = OmegaConf.to_container(node, resolve=False)
            assert isinstance(plain, dict)
            node[present.rpartition(".")[2]] = plain[name]
            _warn(deprecation(former, present))
        node[name] = f"${{{present}}}"
    return copy


def without_former_names(values: dict[str, Any]) -> dict[str, Any]:
    """Resolved settings without the references that ``with_former_names`` added."""
    for former in RENAMED_SETTINGS:
        group, _, name = former.rpartition(".")
        node = values.get(group) if group else values
        if isinstance(node, dict) and is_renamed_in(node):
            node.pop(name, None)
    return values


@cache
def _warn(text: str) -> None:
    """Once in a process, however many runs a sweep has."""
    log.warning(text)
