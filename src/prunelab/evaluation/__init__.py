"""Accuracy and latency of a network."""

from prunelab.evaluation.accuracy import accuracy, predicted_classes
from prunelab.evaluation.agreement import Compared, compared
from prunelab.evaluation.latency import forward_times
from prunelab.evaluation.latency_table import LatencyTable
from prunelab.evaluation.latency_target import Comparison, LatencyModel
from prunelab.evaluation.load import other_load
from prunelab.evaluation.target import Target

__all__ = [
    "Compared",
    "Comparison",
    "LatencyModel",
    "LatencyTable",
    "Target",
    "accuracy",
    "compared",
    "forward_times",
    "other_load",
    "predicted_classes",
]
