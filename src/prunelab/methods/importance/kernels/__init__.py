"""Compiled kernels for criteria (the extra ``prunelab[fast]``)."""
