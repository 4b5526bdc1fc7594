"""What a network is worth (accuracy) and how fast it is (latency)."""

from prunelab.evaluation.accuracy import accuracy
from prunelab.evaluation.latency import forward_milliseconds

__all__ = ["accuracy", "forward_milliseconds"]
