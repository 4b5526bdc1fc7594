"""Where the figures of a run are logged: a CSV file, Weights & Biases, or nowhere."""

from prunelab.tracking.curves import Curves, CurvesFile, EpochRow
from prunelab.tracking.log_file import writing_log
from prunelab.tracking.run_logger import CsvLogger, RunLogger
from prunelab.tracking.wandb_logger import WandbLogger

__all__ = ["CsvLogger", "Curves", "CurvesFile", "EpochRow", "RunLogger", "WandbLogger", "writing_log"]
