"""Structure of a network: removable parts, their costs, and their removal (torch, numpy and scipy only)."""

from prunelab.structure.additions import ResidualAddition
from prunelab.structure.analysis import analyze
from prunelab.structure.blocks import ResidualBlock
from prunelab.structure.cost import CostModel
from prunelab.structure.expected_cost import ExpectedCost
from prunelab.structure.gathers import GroupGather, change_gathered
from prunelab.structure.graph import ChannelGraph
from prunelab.structure.groups import LEVELS, ChannelGroup, Slice
from prunelab.structure.hook_points import GroupHookPoint, HookPoint, channels_first, observe
from prunelab.structure.layers import Layer, LayerWidths, ModuleCost
from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery.apply import apply
from prunelab.structure.surgery.candidate import candidate
from prunelab.structure.surgery.checking import check
from prunelab.structure.surgery.masking import masked_forward
from prunelab.structure.surgery.sliced import SlicedNetwork

__all__ = [
    "LEVELS",
    "ChannelGraph",
    "ChannelGroup",
    "CostModel",
    "ExpectedCost",
    "GroupGather",
    "GroupHookPoint",
    "HookPoint",
    "Layer",
    "LayerWidths",
    "ModuleCost",
    "PruningPlan",
    "ResidualAddition",
    "ResidualBlock",
    "Slice",
    "SlicedNetwork",
    "analyze",
    "apply",
    "candidate",
    "change_gathered",
    "channels_first",
    "check",
    "masked_forward",
    "observe",
]
