"""Where the trained full network comes from: the choices of conf/baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from torch import nn

from prunelab.errors import UserError
from prunelab.models import load_weights
from prunelab.records.folder import CURVES_FILE
from prunelab.steps.baseline_store import TRAINING_FOLDER
from prunelab.steps.task import Task
from prunelab.tracking import Curves, CurvesFile
from prunelab.training import Training, fit


class BaselineSource(Protocol):
    """Makes a trained full network."""

    def train(self, task: Task, folder: Path) -> tuple[nn.Module, float]:
        """The network, and the seconds that training it took. ``folder`` is the baseline's."""


@dataclass(frozen=True)
class TrainedBaseline:
    """Trains the network, from its published weights if the model's ``pretrained`` is true, else afresh."""

    training: Training

    def train(self, task: Task, folder: Path) -> tuple[nn.Module, float]:
        pl.seed_everything(task.seed, workers=True, verbose=False)
        network = task.network(task.settings.pretrained)
        seconds = fit(
            network,
            task.data,
            self.training,
            machine=task.machine,
            seed=task.seed,
            folder=folder / TRAINING_FOLDER,
            title="baseline",
            callbacks=[Curves("baseline", CurvesFile(folder / CURVES_FILE).write)],
        )
        return network, seconds


@dataclass(frozen=True)
class FileBaseline:
    """Loads weights from a file; its names and shapes must be the network's."""

    path: str

    def train(self, task: Task, folder: Path) -> tuple[nn.Module, float]:
        network = task.network()
        load_weights(network, Path(self.path).expanduser())
        return network, 0.0


@dataclass(frozen=True)
class PretrainedBaseline:
    """Takes the weights that timm publishes, classifier included.

    Raises:
        UserError: they are of a network with another number of classes.
    """

    def train(self, task: Task, folder: Path) -> tuple[nn.Module, float]:
        network = task.network(pretrained=True)
        published: Any = network.pretrained_cfg
        classes = published["num_classes"]
        if classes != task.data.num_classes:
            raise UserError(
                f"The published weights of {task.settings.name} know {classes} classes, {task.data.name} has "
                f"{task.data.num_classes}. Use baseline=train model.pretrained=true to train on from them."
            )
        return network, 0.0
