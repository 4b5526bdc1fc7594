"""Sources of the trained full network: the choices of conf/baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from torch import nn

from prunelab.errors import UserError
from prunelab.models import load_weights
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.folder import CURVES_FILE
from prunelab.steps.baseline_store import TRAINING_FOLDER
from prunelab.steps.task import Task
from prunelab.tracking import Curves, CurvesFile, EpochRow
from prunelab.training import Training, fit

Watch = Callable[[EpochRow], None]
"""A function that is called after each epoch of a training."""


def no_watch(row: EpochRow) -> None:
    """Does nothing."""


class BaselineSource(Protocol):
    """A source of trained full networks."""

    def train(
        self, task: Task, folder: Path, write: Write = write_atomically, watch: Watch = no_watch
    ) -> tuple[nn.Module, float]:
        """The network, and the seconds of its training; ``write`` writes into the ``folder``."""


@dataclass(frozen=True)
class TrainedBaseline:
    """Trains the network, starting from its published weights if the model's ``pretrained`` is true."""

    training: Training

    def train(
        self, task: Task, folder: Path, write: Write = write_atomically, watch: Watch = no_watch
    ) -> tuple[nn.Module, float]:
        pl.seed_everything(task.seed, workers=True, verbose=False)
        network = task.network(task.settings.pretrained)
        curves = CurvesFile(folder / CURVES_FILE, write)

        def write_row(row: EpochRow) -> None:
            curves.write(row)
            watch(row)

        seconds = fit(
            network,
            task.data,
            self.training,
            machine=task.machine,
            seed=task.seed,
            folder=folder / TRAINING_FOLDER,
            title="baseline",
            callbacks=[Curves("baseline", write_row, curves.restore)],
            write=write,
        )
        return network, seconds


@dataclass(frozen=True)
class FileBaseline:
    """Loads weights from a file whose names and shapes are those of the network."""

    path: str

    def train(
        self, task: Task, folder: Path, write: Write = write_atomically, watch: Watch = no_watch
    ) -> tuple[nn.Module, float]:
        network = task.network()
        load_weights(network, Path(self.path).expanduser())
        return network, 0.0


@dataclass(frozen=True)
class PretrainedBaseline:
    """Uses the weights that timm publishes, including the classifier.

    Raises:
        UserError: the published network has another number of classes.
    """

    def train(
        self, task: Task, folder: Path, write: Write = write_atomically, watch: Watch = no_watch
    ) -> tuple[nn.Module, float]:
        network = task.network(pretrained=True)
        published: Any = network.pretrained_cfg
        classes = published["num_classes"]
        if classes != task.data.num_classes:
            raise UserError(
                f"The published weights of {task.settings.name} are for {classes} classes, {task.data.name} has "
                f"{task.data.num_classes}. Use baseline=train model.pretrained=true to train from them."
            )
        return network, 0.0
