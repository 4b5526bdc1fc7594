"""Low rank: layers become sequences of smaller plain layers."""

from prunelab.factorisation.factorise import factorise
from prunelab.factorisation.settings import LowRank

__all__ = ["LowRank", "factorise"]
