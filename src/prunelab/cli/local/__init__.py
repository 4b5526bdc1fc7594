"""Runs the jobs of a sweep on this machine, several at a time."""

from prunelab.cli.local.launch import do_runs
from prunelab.cli.local.settings import LocalSettings

__all__ = ["LocalSettings", "do_runs"]
