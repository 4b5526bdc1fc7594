"""What can be removed from a network, what it costs, and how it is removed (torch, numpy and scipy only)."""

from prunelab.structure.blocks import ResidualBlock
from prunelab.structure.candidate import candidate
from prunelab.structure.cost import CostModel
from prunelab.structure.gathers import GroupGather, change_gathered
from prunelab.structure.graph import ChannelGraph, analyze
from prunelab.structure.groups import LEVELS, ChannelGroup, Slice
from prunelab.structure.masking import check, masked_forward
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery import apply
from prunelab.structure.taps import GroupTap, Tap, channels_first, observe

__all__ = [
    "LEVELS",
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "GroupGather",
    "GroupTap",
    "PruningPlan",
    "ResidualBlock",
    "Slice",
    "Tap",
    "analyze",
    "apply",
    "candidate",
    "change_gathered",
    "channels_first",
    "check",
    "masked_forward",
    "observe",
]
