"""PruningContext: the input of a method that decides a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, check_levels
from prunelab.methods.calibration import Calibration
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.evaluations import Report, no_report
from prunelab.structure import ChannelGraph, ChannelGroup, ResidualBlock

if TYPE_CHECKING:
    from prunelab.training import Training

CPU = torch.device("cpu")
Loss = Callable[[Tensor, Tensor], Tensor]
BatchLoss = Callable[[Any, Any], Tensor]


class TrainCandidate(Protocol):
    """Trains a network in place: the training set, the machine and the seed are those of the run."""

    def __call__(self, network: nn.Module, epochs: int, training: Training | None, name: str) -> None: ...


@dataclass(frozen=True)
class PruningContext:
    """One network, its budget, and the data that a method may read.

    With several processes (an initialised process group) every rank builds the same context with its own
    share of the calibration images, and decides; statistics are reduced over ranks.

    Attributes:
        model: the network to prune: images (N, C, H, W) to outputs for ``loss``.
        graph: its structure, from ``prunelab.analyze``.
        budget: how much to keep, as a fraction of ``reference``.
        levels: what may be removed.
        allocation: how the budget is distributed over the groups.
        calibration: images for data-driven criteria (None: there are none).
        validation: images held out of training, for methods that compare sub-networks by accuracy; never test
            images (None: there are none).
        loss: (outputs, targets) -> mean loss over the images; for criteria that read gradients.
        batch_loss: (outputs, batch) -> mean loss, if the loss needs the original batch of the loader; used
            instead of ``loss`` if given.
        device: the device on which images are read.
        seed: of all random numbers.
        name: of the network, for messages.
        method: name of the method, for messages.
        reference: structure of the full network, if ``model`` was pruned in an earlier round; ``budget`` and
            ``min_keep`` are fractions of it.
        progress: show a progress bar while images are read.
        exclude: names of groups that are not pruned, although their level may be.
        example_input: the input of one forward pass of ``model`` (None: unknown).
        folder: folder of the run in which a search keeps its state (None: the state is not kept).
        write: writes the files in ``folder``; in a run under the claim on that folder.
        train_candidate: trains a candidate network (None: candidates cannot be trained here).
        latency: the full network on the target of a latency budget (None: another budget).
        report: receives the evaluations of a search, see ``records.evaluations``.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))
        >>> context = method.context(network, torch.zeros(1, 3, 8, 8))
        >>> [group.name for group in context.groups]
        ['0']
    """

    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    levels: tuple[str, ...] = ("filter", "stage")
    allocation: Allocation = field(default_factory=Allocation)
    calibration: Calibration | None = None
    validation: Calibration | None = None
    loss: Loss = functional.cross_entropy
    batch_loss: BatchLoss | None = None
    device: torch.device = CPU
    seed: int = 0
    name: str = "the network"
    method: str = "The method"
    reference: ChannelGraph | None = None
    progress: bool = False
    exclude: frozenset[str] = frozenset()
    example_input: Any = None
    folder: Path | None = None
    write: Write = field(default=write_atomically)
    train_candidate: TrainCandidate | None = None
    latency: LatencyModel | None = None
    report: Report = no_report

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", check_levels(self.levels))
        for name in self.exclude:
            self.graph.group(name)  # the error names the groups that exist

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The groups that may be pruned."""
        return tuple(group for group in self.graph.at(self.levels) if group.name not in self.exclude)

    @property
    def blocks(self) -> tuple[ResidualBlock, ...]:
        """The blocks that may be dropped."""
        return self.graph.blocks if "block" in self.levels else ()

    def images(self) -> Calibration:
        """The calibration images.

        Raises:
            UserError: there are none.
        """
        if self.calibration is None:
            raise UserError(
                f"{self.method} reads calibration images, but there are none: fit with a train dataloader, or give "
                "calibration=, an iterable of (images, targets) batches."
            )
        return self.calibration

    def held_out_images(self) -> Calibration:
        """The images held out of training.

        Raises:
            UserError: there are none.
        """
        if self.validation is None:
            raise UserError(
                f"{self.method} compares networks by their accuracy on images held out of training, but there are "
                "none: fit with a validation dataloader, or give validation=, an iterable of (images, targets) "
                "batches that are used neither for training nor for testing."
            )
        return self.validation

    def loss_of(self, outputs: Any, targets: Any, batch: Any) -> Tensor:
        """The mean loss of ``outputs`` over the images of one batch, a scalar.

        Raises:
            UserError: there are no targets, or the loss is not a scalar.
        """
        if self.batch_loss is not None:
            loss = self.batch_loss(outputs, batch)
        elif targets is None:
            raise UserError(f"{self.method} needs targets, but the calibration batches contain only images.")
        elif self.loss is functional.cross_entropy and not isinstance(outputs, Tensor):
            raise UserError(
                f"{self.method} needs a loss, but the network returns a {type(outputs).__name__}, not a tensor: "
                "give loss=, a function (outputs, targets) -> mean loss."
            )
        else:
            loss = self.loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"loss= must return a scalar, the mean over the images; it returned {shape}.")
        return loss

    def train(
        self, network: nn.Module, epochs: int, training: Training | None = None, name: str = "candidate"
    ) -> None:
        """Train ``network`` in place for ``epochs`` epochs, on the training images of the run, in training mode.

        Args:
            network: a candidate: the full network or one pruned from it.
            epochs: length of the training.
            training: optimizer and schedule; None: those of the recovery of the run.
            name: different for each candidate; an interrupted training of this name is resumed.

        Raises:
            UserError: candidates cannot be trained here (the method runs inside a Trainer of the user).
        """
        if self.train_candidate is None:
            raise UserError(
                f"{self.method} trains candidate networks, which a run of the prunelab command offers. In a Trainer "
                "of your own give the context train_candidate=, a function that trains a network in place."
            )
        self.train_candidate(network.train(), epochs, training, name)


def network_name(network: nn.Module) -> str:
    """The timm name from which ``network`` was built, else its class."""
    return getattr(getattr(network, "prunelab_origin", None), "name", None) or type(network).__name__
