"""Accuracy and latency of a network."""

from prunelab.evaluation.accuracy import accuracy, predicted_classes
from prunelab.evaluation.latency import forward_milliseconds
from prunelab.evaluation.latency_table import LatencyTable
from prunelab.evaluation.latency_target import Comparison, LatencyModel
from prunelab.evaluation.load import other_load
from prunelab.evaluation.target import Target

__all__ = [
    "Comparison",
    "LatencyModel",
    "LatencyTable",
    "Target",
    "accuracy",
    "forward_milliseconds",
    "other_load",
    "predicted_classes",
]
