"""Methods that shape the network while it trains, one per file."""

from prunelab.methods.training.autopruner import AutoPruner
from prunelab.methods.training.group_brain_damage import GroupBrainDamage
from prunelab.methods.training.lfpc import LFPC
from prunelab.methods.training.slimming import Slimming
from prunelab.methods.training.soft_pruning import SoftPruning
from prunelab.methods.training.ssl import SSL
from prunelab.methods.training.vcnn import VCNN

__all__ = ["LFPC", "SSL", "VCNN", "AutoPruner", "GroupBrainDamage", "Slimming", "SoftPruning"]
