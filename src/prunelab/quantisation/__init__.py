"""Fewer bits for weights and activations: settings, and training with rounded numbers."""

from prunelab.quantisation.settings import Precision

__all__ = ["Precision"]
