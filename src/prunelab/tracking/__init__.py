"""Logging of figures: curves.csv, Weights & Biases, TensorBoard, MLflow, or nothing."""

from prunelab.tracking.curves import Curves, CurvesFile, EpochRow
from prunelab.tracking.log_file import writing_log
from prunelab.tracking.mlflow_logger import MlflowLogger
from prunelab.tracking.run_logger import CsvLogger, RunLogger
from prunelab.tracking.tensorboard_logger import TensorboardLogger
from prunelab.tracking.wandb_logger import WandbLogger

__all__ = [
    "CsvLogger",
    "Curves",
    "CurvesFile",
    "EpochRow",
    "MlflowLogger",
    "RunLogger",
    "TensorboardLogger",
    "WandbLogger",
    "writing_log",
]
