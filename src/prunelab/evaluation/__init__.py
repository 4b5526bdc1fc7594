"""Accuracy and latency of a network."""

from prunelab.evaluation.accuracy import accuracy, predicted_classes
from prunelab.evaluation.latency import forward_milliseconds
from prunelab.evaluation.load import other_load

__all__ = ["accuracy", "forward_milliseconds", "other_load", "predicted_classes"]
