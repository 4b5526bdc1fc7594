"""prunelab: structured pruning of convolutional networks, physically, exactly, to a budget."""

from prunelab.structure import ChannelGraph, ChannelGroup, PruningPlan, analyze, apply, check

__all__ = ["ChannelGraph", "ChannelGroup", "PruningPlan", "analyze", "apply", "check"]
