"""The steps of a run, and the objects that its configuration describes."""

from prunelab.steps.baseline import BaselineSource, FileBaseline, PretrainedBaseline, TrainedBaseline
from prunelab.steps.full import FullNetwork, full_network
from prunelab.steps.low_rank import Factorised, factorise_and_recover
from prunelab.steps.measure import Figures, measure
from prunelab.steps.quantisation import Quantised, quantise
from prunelab.steps.record import failure_of, record_of
from prunelab.steps.rounds import Pruned, prune_and_recover
from prunelab.steps.setup import Setup
from prunelab.steps.task import NetworkSettings, Task

__all__ = [
    "BaselineSource",
    "Factorised",
    "Figures",
    "FileBaseline",
    "FullNetwork",
    "NetworkSettings",
    "PretrainedBaseline",
    "Pruned",
    "Quantised",
    "Setup",
    "Task",
    "TrainedBaseline",
    "factorise_and_recover",
    "failure_of",
    "full_network",
    "measure",
    "prune_and_recover",
    "quantise",
    "record_of",
]
