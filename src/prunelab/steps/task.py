"""The task of a run, shared by a full network and all networks pruned from it: images, architecture, machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from prunelab.data import ImageData
from prunelab.data.loader import BatchLoader
from prunelab.distributed import is_rank_zero
from prunelab.errors import UserError
from prunelab.evaluation import accuracy, forward_times, predicted_classes
from prunelab.models import build
from prunelab.models.user_models import import_user_module
from prunelab.records import Accuracy, TestSet
from prunelab.records.deployment import Percentiles
from prunelab.steps.baseline_store import Sample
from prunelab.training import Machine

LATENCY_BATCHES = (1, 64)
LATENCY_SECONDS = 2.0


_SET_ELSEWHERE = {
    "name": "model.name sets it",
    "pretrained": "model.pretrained sets it",
    "image_size": "the images of the data set it (networks that need it call it img_size)",
    "in_chans": "the images of the data set it",
    "output": "model.output sets it",
    "num_classes": "the classes of the data set it",
}


@dataclass(frozen=True)
class NetworkSettings:
    """The settings of conf/model: a name of timm's registry, whether to use published weights, other arguments.

    ``output``: the name or index of the class scores among several outputs.

    ``module`` is imported first: it registers the network. Raises UserError if the import fails, or if the data or
    another setting determines an argument.
    """

    name: str
    pretrained: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    module: str | None = None
    output: str | int | None = None

    def __post_init__(self) -> None:
        if self.module is not None:
            import_user_module(self.module)
        for name, reason in _SET_ELSEWHERE.items():
            if name in self.arguments:
                raise UserError(f"model.arguments.{name}: {reason}; leave it out.")


@dataclass(frozen=True)
class Task:
    """The parts of a run that are independent of pruning."""

    settings: NetworkSettings
    data: ImageData
    machine: Machine
    seed: int

    def network(self, pretrained: bool = False) -> nn.Module:
        """A full network for the images of the task. Raises UserError if it cannot be built."""
        channels, height, width = self.data.image_shape
        return build(
            self.settings.name,
            num_classes=self.data.num_classes,
            in_chans=channels,
            image_size=(height, width),
            pretrained=pretrained,
            output=self.settings.output,
            **self.settings.arguments,
        )

    def prepare_data(self) -> None:
        """Download data if needed, read images that fit into memory, and move them to the GPU if
        ``images_on_device``."""
        self.data.prepare_data()
        self.data.setup()
        if self.machine.images_on_device:
            self.data.move_to(self.machine.device)

    def example_input(self) -> Tensor:
        """One image, (1, C, H, W)."""
        return torch.zeros(1, *self.data.image_shape)

    def test_set(self) -> TestSet:
        """The size of the test set, and the fraction of its most frequent class."""
        targets = self.data.test.targets
        return TestSet(len(targets), float(np.bincount(targets).max() / len(targets)))

    def test_accuracy(self, network: nn.Module) -> Accuracy:
        """The accuracy on the test images. They are used only for final results."""
        return self._accuracy(network, self.data.test_dataloader(), "testing")

    def validation_accuracy(self, network: nn.Module) -> Accuracy:
        """The accuracy on the held-out images, by which runs can be selected."""
        return self._accuracy(network, self.data.val_dataloader(), "validating")

    def _accuracy(self, network: nn.Module, batches: BatchLoader, title: str) -> Accuracy:
        number = min(len(batches), self.machine.batches or len(batches))
        console = Console(stderr=True)
        shown = track(
            islice(batches, number),
            f"{title:<10}",
            total=number,
            console=console,
            transient=True,
            disable=not (console.is_terminal and is_rank_zero()),
        )
        return accuracy(network, shown, self.data.num_classes, self.machine.device, self._memory_format)

    def sample(self, network: nn.Module, images: int) -> Sample:
        """The predictions of ``network`` for up to ``images`` validation images, the same ones in every process."""
        batches = self.data.validation_dataloader(images)
        predicted, true = predicted_classes(network, batches, self.machine.device, self._memory_format)
        right = sum(one == two for one, two in zip(predicted, true, strict=True))
        return Sample(tuple(predicted), right / len(true))

    def latencies(self, *networks: nn.Module) -> list[dict[int, Percentiles]]:
        """For each network the milliseconds of a forward pass, by batch size; the networks are measured in turns."""
        seconds = LATENCY_SECONDS if self.machine.batches is None else 0.0
        by_batch = {
            batch: forward_times(
                networks, self.data.image_shape, batch, self.machine.device, self._memory_format, seconds
            )
            for batch in LATENCY_BATCHES
        }
        return [
            {batch: Percentiles.of(times[index]) for batch, times in by_batch.items()}
            for index in range(len(networks))
        ]

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.machine.channels_last else torch.contiguous_format
