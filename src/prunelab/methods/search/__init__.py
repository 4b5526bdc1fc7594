"""Methods that search how wide each group should be."""

from prunelab.methods.search.eagleeye import EagleEye

__all__ = ["EagleEye"]
