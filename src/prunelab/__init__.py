"""prunelab: structured pruning of convolutional networks, physically, exactly, to a budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunelab.structure import ChannelGraph, ChannelGroup, PruningPlan, analyze, apply, check

_HOMES = {
    "prunelab.structure": ("ChannelGraph", "ChannelGroup", "PruningPlan", "analyze", "apply", "check"),
}

__all__ = ["ChannelGraph", "ChannelGroup", "PruningPlan", "analyze", "apply", "check"]


def __getattr__(name: str) -> Any:
    """Import a public name's package when it is first used: the report starts without torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'prunelab' has no attribute {name!r}")
