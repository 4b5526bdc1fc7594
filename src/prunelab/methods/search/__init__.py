"""Methods that search for the width of each group."""

from prunelab.methods.search.abcpruner import ABCPruner
from prunelab.methods.search.amc import AMC
from prunelab.methods.search.autoslim import AutoSlim
from prunelab.methods.search.ddpg import AgentSettings
from prunelab.methods.search.dmcp import DMCP
from prunelab.methods.search.eagleeye import EagleEye
from prunelab.methods.search.judge import Judge
from prunelab.methods.search.metapruning import MetaPruning
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.network_adjustment import NetworkAdjustment
from prunelab.methods.search.tas import TAS
from prunelab.methods.search.widths import Candidate, WidthSpace

__all__ = [
    "AMC",
    "DMCP",
    "TAS",
    "ABCPruner",
    "AgentSettings",
    "AutoSlim",
    "Candidate",
    "EagleEye",
    "Judge",
    "MetaPruning",
    "NetworkAdjustment",
    "SearchMethod",
    "WidthSpace",
]
