"""Methods that shape the network while it trains, one per file."""

from prunelab.methods.training.slimming import Slimming

__all__ = ["Slimming"]
