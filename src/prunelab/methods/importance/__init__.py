"""Criteria that score channels, one per file, and the method that prunes by them."""

from prunelab.methods.importance.apoz import APoZ
from prunelab.methods.importance.bn_gamma import BNGamma
from prunelab.methods.importance.chip import CHIP
from prunelab.methods.importance.criterion import Criterion
from prunelab.methods.importance.curl import CURL
from prunelab.methods.importance.depgraph import DepGraph
from prunelab.methods.importance.entropy import Entropy
from prunelab.methods.importance.fisher import Fisher
from prunelab.methods.importance.fpgm import FPGM
from prunelab.methods.importance.hrank import HRank
from prunelab.methods.importance.importance_method import ImportanceMethod
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.l2 import L2Norm
from prunelab.methods.importance.nisp import NISP
from prunelab.methods.importance.obs import OBS
from prunelab.methods.importance.pfa import PFA
from prunelab.methods.importance.random_scores import Random
from prunelab.methods.importance.scsp import SCSP
from prunelab.methods.importance.taylor import Taylor

__all__ = [
    "CHIP",
    "CURL",
    "FPGM",
    "NISP",
    "OBS",
    "PFA",
    "SCSP",
    "APoZ",
    "BNGamma",
    "Criterion",
    "DepGraph",
    "Entropy",
    "Fisher",
    "HRank",
    "ImportanceMethod",
    "L1Norm",
    "L2Norm",
    "Random",
    "Taylor",
]
