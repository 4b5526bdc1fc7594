"""prunelab: structured pruning of convolutional networks, physically, exactly, to a budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunelab.export import (
        load,
        save,
    )
    from prunelab.methods import (
        CURL,
        FPGM,
        NISP,
        PFA,
        SCSP,
        APoZ,
        BNGamma,
        Budget,
        Calibration,
        Criterion,
        Entropy,
        HRank,
        ImportanceMethod,
        ImportancePruning,
        L1Norm,
        L2Norm,
        PruningCallback,
        PruningContext,
        PruningMethod,
        Random,
        Taylor,
        load_from_checkpoint,
    )
    from prunelab.structure import ChannelGraph, ChannelGroup, CostModel, PruningPlan, analyze, apply, check

# Each public name and the package that defines it; imported when first used, so that reports start without torch.
_HOMES = {
    "prunelab.export": (
        "load",
        "save",
    ),
    "prunelab.methods": (
        "CURL",
        "NISP",
        "PFA",
        "HRank",
        "SCSP",
        "APoZ",
        "BNGamma",
        "Budget",
        "Calibration",
        "Criterion",
        "Entropy",
        "FPGM",
        "ImportanceMethod",
        "ImportancePruning",
        "PruningCallback",
        "load_from_checkpoint",
        "L1Norm",
        "L2Norm",
        "PruningContext",
        "PruningMethod",
        "Random",
        "Taylor",
    ),
    "prunelab.structure": (
        "ChannelGraph",
        "ChannelGroup",
        "CostModel",
        "PruningPlan",
        "analyze",
        "apply",
        "check",
    ),
}

__all__ = [
    "CURL",
    "FPGM",
    "NISP",
    "PFA",
    "SCSP",
    "APoZ",
    "BNGamma",
    "Budget",
    "Calibration",
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "Criterion",
    "Entropy",
    "HRank",
    "ImportanceMethod",
    "ImportancePruning",
    "L1Norm",
    "L2Norm",
    "PruningCallback",
    "PruningContext",
    "PruningMethod",
    "PruningPlan",
    "Random",
    "Taylor",
    "analyze",
    "apply",
    "check",
    "load",
    "load_from_checkpoint",
    "save",
]


def __getattr__(name: str) -> Any:
    """A public name, imported from its package."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'prunelab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
