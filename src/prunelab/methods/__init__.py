"""Pruning methods: Lightning callbacks that decide what a network keeps."""

from prunelab.methods.allocation import allocate
from prunelab.methods.base import PruningMethod
from prunelab.methods.budget import Budget
from prunelab.methods.calibration import Calibration
from prunelab.methods.context import PruningContext
from prunelab.methods.importance import (
    CURL,
    FPGM,
    NISP,
    PFA,
    SCSP,
    APoZ,
    BNGamma,
    Criterion,
    Entropy,
    HRank,
    ImportancePruning,
    L1Norm,
    L2Norm,
    Random,
    Taylor,
)
from prunelab.methods.ladders import Allocation
from prunelab.methods.learning import LearningMethod
from prunelab.methods.reconstruction import ChannelPruning, ReconstructionPruning, Subspace, ThiNet
from prunelab.methods.scores import Scores
from prunelab.methods.search import EagleEye
from prunelab.methods.training import LFPC, SSL, VCNN, AutoPruner, GroupBrainDamage, Slimming, SoftPruning

__all__ = [
    "CURL",
    "FPGM",
    "LFPC",
    "NISP",
    "PFA",
    "SCSP",
    "SSL",
    "VCNN",
    "APoZ",
    "Allocation",
    "AutoPruner",
    "BNGamma",
    "Budget",
    "Calibration",
    "ChannelPruning",
    "Criterion",
    "EagleEye",
    "Entropy",
    "GroupBrainDamage",
    "HRank",
    "ImportancePruning",
    "L1Norm",
    "L2Norm",
    "LearningMethod",
    "PruningContext",
    "PruningMethod",
    "Random",
    "ReconstructionPruning",
    "Scores",
    "Slimming",
    "SoftPruning",
    "Subspace",
    "Taylor",
    "ThiNet",
    "allocate",
]
