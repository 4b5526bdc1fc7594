"""Pruned networks on disk."""

from prunelab.export.checkpoint import load, save

__all__ = ["load", "save"]
