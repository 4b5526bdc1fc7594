"""Pruning methods, which decide what a network keeps, and the Lightning callback that runs them."""

from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation
from prunelab.methods.allocation.from_scores import allocate
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Calibration
from prunelab.methods.callback import PruningCallback
from prunelab.methods.checkpoint_plan import load_from_checkpoint
from prunelab.methods.context import PruningContext
from prunelab.methods.importance import (
    CHIP,
    CURL,
    FPGM,
    NISP,
    OBS,
    PFA,
    SCSP,
    APoZ,
    BNGamma,
    Criterion,
    DepGraph,
    Entropy,
    Fisher,
    HRank,
    ImportanceMethod,
    L1Norm,
    L2Norm,
    Random,
    Taylor,
)
from prunelab.methods.importance_pruning import ImportancePruning
from prunelab.methods.learning import (
    LFPC,
    SSL,
    VCNN,
    AutoPruner,
    DepGraphSparse,
    GroupBrainDamage,
    LearningMethod,
    Slimming,
    SoftPruning,
)
from prunelab.methods.method import PruningMethod
from prunelab.methods.reconstruction import ChannelPruning, ReconstructionPruning, Subspace, ThiNet
from prunelab.methods.search import (
    AMC,
    DMCP,
    TAS,
    ABCPruner,
    AutoSlim,
    Candidate,
    EagleEye,
    Judge,
    NetworkAdjustment,
    SearchMethod,
    WidthSpace,
)

__all__ = [
    "AMC",
    "CHIP",
    "CURL",
    "DMCP",
    "FPGM",
    "LFPC",
    "NISP",
    "OBS",
    "PFA",
    "SCSP",
    "SSL",
    "TAS",
    "VCNN",
    "ABCPruner",
    "APoZ",
    "Allocation",
    "AutoPruner",
    "AutoSlim",
    "BNGamma",
    "Budget",
    "Calibration",
    "Candidate",
    "ChannelPruning",
    "Criterion",
    "DepGraph",
    "DepGraphSparse",
    "EagleEye",
    "Entropy",
    "Fisher",
    "GroupBrainDamage",
    "HRank",
    "ImportanceMethod",
    "ImportancePruning",
    "Judge",
    "L1Norm",
    "L2Norm",
    "LearningMethod",
    "NetworkAdjustment",
    "PruningCallback",
    "PruningContext",
    "PruningMethod",
    "Random",
    "ReconstructionPruning",
    "Scores",
    "SearchMethod",
    "Slimming",
    "SoftPruning",
    "Subspace",
    "Taylor",
    "ThiNet",
    "WidthSpace",
    "allocate",
    "load_from_checkpoint",
]
