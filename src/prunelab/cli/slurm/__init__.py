"""Runs the jobs of a sweep on a Slurm cluster."""

from prunelab.cli.slurm.launch import do_runs
from prunelab.cli.slurm.settings import SlurmSettings

__all__ = ["SlurmSettings", "do_runs"]
