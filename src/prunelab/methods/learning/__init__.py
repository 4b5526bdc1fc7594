"""Methods that learn while the network trains, one per file."""

from prunelab.methods.learning.autopruner import AutoPruner
from prunelab.methods.learning.depgraph_sparse import DepGraphSparse
from prunelab.methods.learning.group_brain_damage import GroupBrainDamage
from prunelab.methods.learning.growing_regularisation import GReg
from prunelab.methods.learning.lfpc import LFPC
from prunelab.methods.learning.method import LearningMethod
from prunelab.methods.learning.resrep import ResRep
from prunelab.methods.learning.slimming import Slimming
from prunelab.methods.learning.soft_pruning import SoftPruning
from prunelab.methods.learning.structured_sparsity import SSL
from prunelab.methods.learning.vcnn import VCNN

__all__ = [
    "LFPC",
    "SSL",
    "VCNN",
    "AutoPruner",
    "DepGraphSparse",
    "GReg",
    "GroupBrainDamage",
    "LearningMethod",
    "ResRep",
    "Slimming",
    "SoftPruning",
]
