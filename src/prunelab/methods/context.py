"""Everything that a method may look at when it decides a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, check_levels
from prunelab.methods.calibration import Calibration
from prunelab.structure import ChannelGraph, ChannelGroup, ResidualBlock

CPU = torch.device("cpu")
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PruningContext:
    """One network and what is asked of it.

    With several processes (an initialised process group) every rank builds the same context with its own
    share of the calibration images, and decides; statistics are reduced over ranks.

    model: the network that is pruned, as a module that takes images (N, C, H, W) and gives outputs for
        ``loss``.
    graph: its structure, from ``prunelab.analyze``.
    budget: how much to keep, as a fraction of ``reference``.
    levels: what may be removed.
    allocation: how the budget is spread over the groups.
    calibration: the images that data-driven criteria look at (None: none are at hand).
    validation: images held out of training, for methods that judge sub-networks by their accuracy; never test
        images (None: none are at hand).
    loss: (outputs, targets) -> mean loss over the images; for criteria that read gradients.
    device: where images are looked at.
    seed: of everything random.
    name: of the network, for messages.
    method: what decides, for messages.
    reference: structure of the full network, if this one was pruned in an earlier round; budget and floor
        refer to it.
    progress: show a progress bar while images are looked at.
    whole: names of groups that lose nothing, although their level may.
    example_input: what one forward pass of the network takes (None: unknown).
    """

    model: nn.Module
    graph: ChannelGraph
    budget: Budget
    levels: tuple[str, ...] = ("filter", "stage")
    allocation: Allocation = field(default_factory=Allocation)
    calibration: Calibration | None = None
    validation: Calibration | None = None
    loss: Loss = functional.cross_entropy
    device: torch.device = CPU
    seed: int = 0
    name: str = "the network"
    method: str = "The method"
    reference: ChannelGraph | None = None
    progress: bool = False
    exclude: frozenset[str] = frozenset()
    example_input: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", check_levels(self.levels))
        for name in self.exclude:
            self.graph.group(name)  # says which names there are

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
                "This criterion looks at images, but none were given: fit with a train dataloader, or give "
                "the method calibration=, an iterable of (images, targets) batches."
            )
        return self.calibration

    def held_out_images(self) -> Calibration:
        """The images held out of training.

        Raises:
            UserError: there are none.
        """
        if self.validation is None:
            raise UserError(
                "This method judges networks by their accuracy on images held out of training, but none were "
                "given: fit with a validation dataloader, or give the method validation=, an iterable of "
                "(images, targets) batches that are neither trained nor tested on."
            )
        return self.validation
