"""Networks on disk: pruned networks that prunelab loads again, and files for other runtimes."""

from prunelab.export.checkpoint import load, save
from prunelab.export.deploy import Deploy

__all__ = ["Deploy", "load", "save"]
