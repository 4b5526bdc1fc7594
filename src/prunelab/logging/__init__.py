"""Who is told what happens in a run: nobody, a CSV file, or Weights & Biases."""

from prunelab.logging.curves import Curves, CurvesFile, EpochRow
from prunelab.logging.log_file import writing_log
from prunelab.logging.run_logger import CsvLogger, RunLogger
from prunelab.logging.wandb_logger import WandbLogger

__all__ = [
    "CsvLogger",
    "Curves",
    "CurvesFile",
    "EpochRow",
    "RunLogger",
    "WandbLogger",
    "writing_log",
]
