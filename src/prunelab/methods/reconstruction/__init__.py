"""Methods that choose channels by the outputs of the next layer and adjust its weights; one rule per file."""

from prunelab.methods.reconstruction.channel_pruning import ChannelPruning
from prunelab.methods.reconstruction.reconstruction_pruning import ReconstructionPruning
from prunelab.methods.reconstruction.rule import Reading, Rule
from prunelab.methods.reconstruction.subspace import Subspace
from prunelab.methods.reconstruction.thinet import ThiNet

__all__ = ["ChannelPruning", "Reading", "ReconstructionPruning", "Rule", "Subspace", "ThiNet"]
