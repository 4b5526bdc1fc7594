"""PruningMethod: a Lightning callback that decides a plan and applies it before training starts."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.nn import functional

from prunelab.distributed.ranks import from_rank_zero, on_all_ranks, require_same, world
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, check_levels
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Calibration, Unpack, unpack_batch
from prunelab.methods.context import CPU, Loss, PruningContext
from prunelab.methods.finite import require_finite_weights
from prunelab.methods.lightning_adapter import (
    calibration_loader,
    find_network,
    network_name,
    refuse_spawn,
    scoring_device,
    shows_progress,
    validation_loader,
)
from prunelab.methods.plan_file import read_plan, require_fit, write_plan
from prunelab.methods.untouched import kept_randomness
from prunelab.structure import LEVELS, ChannelGraph, PruningPlan, analyze, apply


class PruningMethod(pl.Callback, ABC):
    """Prunes a network once, in ``setup`` of the first fit.

    That is before DDP wraps the network and before optimizers are made. A subclass says in ``decide`` what to
    keep, and may adjust the weights that stay in ``reconstruct``. Works with any LightningModule::

        trainer = pl.Trainer(callbacks=[ImportancePruning(L1Norm(), Budget(flops=0.5))])
        trainer.fit(module, datamodule)  # pruned before the first step, then trained on

    Args:
        budget: how much to keep.
        levels: what may be removed: any of "filter", "stage", "block".
        whole: names of groups that stay whole, as ``analyze`` and prunelab-profile call them, such as "conv1".
        allocation, normalisation, min_keep, divisor: how the budget is spread, see ``Allocation``.
        images: how many calibration images to look at, on all ranks together.
        network: name of the submodule to prune. By default the LightningModule itself if it has a ``forward``
            of its own, else its only child with parameters.
        plan_file: if this file exists the plan is read from it (a run is resumed), else it is written there.
        example_input: what one forward pass of the network takes. By default the module's
            ``example_input_array``, else an image of the calibration loader.
        calibration: batches to look at, the same on every rank. By default those of the data module's
            ``calibration_dataloader(images)`` if it has one, else of the train dataloader.
        validation: batches held out of training, the same on every rank, for methods that judge networks by
            their accuracy. By default those of the data module's ``validation_dataloader(images)`` if it has
            one, else of the val dataloader.
        validation_images: how many of them to look at.
        unpack: batch -> (images, targets); by default understands tensors, tuples, lists and dicts.
        loss: (outputs, targets) -> mean loss; by default cross entropy.
        seed: of everything random.
        exact, cardinality: what may be removed, see ``analyze``.

    Attributes:
        plan: what was decided; None before ``setup``.
    """

    origin: ClassVar[Origin] = Origin()
    """Where the method comes from."""

    covers: ClassVar[tuple[str, ...]] = LEVELS
    """The levels for which the method is defined."""

    plan: PruningPlan | None

    def __init__(
        self,
        budget: Budget,
        levels: Collection[str] = ("filter", "stage"),
        exclude: Collection[str] = (),
        allocation: str = "global",
        normalisation: str = "mean",
        min_keep: float = 0.1,
        divisor: int = 1,
        images: int = 512,
        network: str | None = None,
        plan_file: str | Path | None = None,
        example_input: Any = None,
        calibration: Iterable[Any] | None = None,
        validation: Iterable[Any] | None = None,
        validation_images: int = 10_000,
        unpack: Unpack = unpack_batch,
        loss: Loss = functional.cross_entropy,
        seed: int = 0,
        exact: bool = False,
        cardinality: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(budget, Budget):
            raise UserError(f"budget={budget!r} is no budget: give one such as prunelab.Budget(flops=0.5).")
        self.budget = budget
        self.levels = check_levels(levels)
        self.exclude = _names(exclude)
        self.allocation = Allocation(allocation, normalisation, min_keep, divisor)  # type: ignore[arg-type]
        self.images = images
        self.network = network
        self.plan_file = None if plan_file is None else Path(plan_file)
        self.example_input = example_input
        self.calibration = calibration
        self.validation = validation
        self.validation_images = validation_images
        self.unpack = unpack
        self.loss = loss
        self.seed = seed
        self.exact, self.cardinality = exact, cardinality
        self.plan = None
        self._pruned: weakref.ref[nn.Module] | None = None

    @abstractmethod
    def decide(self, context: PruningContext) -> PruningPlan:
        """What to keep of ``context.model``; leaves no trace in it.

        Raises:
            UserError: the budget cannot be reached, or the network does not suit the method.
        """

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        """The scores of all channels of ``context.model``, and what ``decide`` keeps by them.

        Raises:
            UserError: the method has none before it has learned; or as for ``decide``.
        """
        raise UserError(
            f"{type(self).__name__} does not score a network as it is. Choose a method that does, such as l1 or hrank."
        )

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Adjust, in place, weights of ``context.model`` so that it suffers less when ``plan`` is applied.

        Called between ``decide`` and surgery, on every rank, with the context of ``decide``; also when the plan
        was decided by an earlier process (a run is resumed), so it depends on these two arguments alone.
        """

    @property
    def about(self) -> About:
        """The method's row in the table of methods."""
        reads = "activations" if self.reads_images else "weights"
        return About(self.origin, reads, self.covers, "one forward pass" if self.reads_images else "no data")

    @property
    def title(self) -> str:
        """What messages call the method."""
        return type(self).__name__

    @property
    def reads_images(self) -> bool:
        """Whether ``decide`` looks at calibration images."""
        return True

    @property
    def reconstructs(self) -> bool:
        """Whether ``reconstruct`` changes anything."""
        return False

    @property
    def reads_validation(self) -> bool:
        """Whether ``decide`` looks at images held out of training."""
        return False

    def structure(self, model: nn.Module, example_input: Any) -> ChannelGraph:
        """What this method may remove of ``model``."""
        return analyze(model, example_input, exact=self.exact, cardinality=self.cardinality)

    def context(
        self,
        model: nn.Module,
        example_input: Any,
        calibration: Iterable[Any] | None = None,
        device: torch.device = CPU,
        name: str | None = None,
        budget: Budget | None = None,
        reference: ChannelGraph | None = None,
        progress: bool = False,
        validation: Iterable[Any] | None = None,
        exclude: Collection[str] = (),
    ) -> PruningContext:
        """The context in which this method, with its settings, decides about ``model``; needs no Trainer.

        ``calibration`` and ``validation`` are any iterables of batches, the same on every rank; ``budget``
        takes the place of the method's own (one round of several), and ``exclude`` is added to it. The rest is
        described in ``PruningContext``.

        Raises:
            UserError: a weight is NaN or infinite.
        """
        network = name or network_name(model)
        require_finite_weights(model, self.title, network)
        return PruningContext(
            model=model,
            graph=self.structure(model, example_input),
            budget=budget or self.budget,
            levels=self.levels,
            allocation=self.allocation,
            calibration=self._shared(calibration, self.images),
            validation=self._shared(validation, self.validation_images),
            loss=self.loss,
            device=device,
            seed=self.seed,
            name=network,
            method=self.title,
            reference=reference,
            progress=progress,
            exclude=self.exclude | frozenset(exclude),
            example_input=example_input,
        )

    def _shared(self, batches: Iterable[Any] | None, images: int) -> Calibration | None:
        """So many images of the loader, of which every rank sees its share."""
        return None if batches is None else Calibration(batches, images, self.unpack, *world())

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Decide on every rank, make sure that all decided alike, and prune. Does so once for a network.

        Raises:
            UserError: on every rank, if any rank fails or the ranks disagree.
        """
        if stage != "fit":
            return
        network = find_network(pl_module, self.network)
        if self._pruned is not None and self._pruned() is network:
            return
        refuse_spawn(trainer)
        with kept_randomness():
            self._prune(trainer, pl_module, network)
        self._pruned = weakref.ref(network)

    def _prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
        path = self.plan_file
        stored = None if path is None else from_rank_zero(lambda: read_plan(path))
        already = getattr(network, "prunelab_plan", None)
        if stored is not None and already is not None and stored.digest() == already.digest():
            self.plan = stored
            return
        context = on_all_ranks(lambda: self._context(trainer, pl_module, network))
        plan = self._agreed_plan(context, stored)
        self.plan = plan
        if already is None or already.digest() != plan.digest():
            on_all_ranks(lambda: self.reconstruct(context, plan))
            apply(network, plan)
            rank_zero_info(_effect(context, plan))

    def _agreed_plan(self, context: PruningContext, stored: PruningPlan | None) -> PruningPlan:
        path = self.plan_file
        plan = on_all_ranks(lambda: self._plan(context, stored))
        require_same(
            plan.digest(),
            "The ranks decided different plans. They must start from the same weights and see the same "
            "calibration loader: load one checkpoint, or call seed_everything before the network is made.",
        )
        if path is not None and stored is None:
            from_rank_zero(lambda: write_plan(plan, path))
        return plan

    def _plan(self, context: PruningContext, stored: PruningPlan | None) -> PruningPlan:
        if stored is None:
            return self.decide(context)
        assert self.plan_file is not None
        require_fit(stored, self.plan_file, context.graph, self.budget)
        rank_zero_info(f"The pruning plan is read from {self.plan_file}; delete the file to decide again.")
        return stored

    def _context(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module
    ) -> PruningContext:
        example = self.example_input if self.example_input is not None else pl_module.example_input_array
        loader = self.calibration
        if loader is None and (self.reads_images or example is None):
            loader = calibration_loader(trainer, self.images)
        if example is None:
            example = self._first_image(loader)
        return self.context(
            network,
            example,
            loader,
            device=scoring_device(trainer),
            progress=shows_progress(trainer),
            validation=self._validation(trainer),
        )

    def _validation(self, trainer: pl.Trainer) -> Iterable[Any] | None:
        if self.validation is None and self.reads_validation:
            return validation_loader(trainer, self.validation_images)
        return self.validation

    def _first_image(self, loader: Iterable[Any] | None) -> torch.Tensor:
        assert loader is not None
        for images, _ in Calibration(loader, 1, self.unpack).batches(CPU):
            return images
        raise UserError(
            "The calibration loader is empty: the network's input shape cannot be known. Give example_input=."
        )


def _effect(context: PruningContext, plan: PruningPlan) -> str:
    """What pruning by ``plan`` changed, in a line."""
    cost = context.graph.cost
    pairs = ((cost.flops(), cost.flops(plan), "FLOPs"), (cost.params(), cost.params(plan), "parameters"))
    said = [f"{before:,.0f} -> {after:,.0f} {what} ({after / before:.1%})" for before, after, what in pairs]
    dropped = f", without {', '.join(plan.dropped_blocks)}" if plan.dropped_blocks else ""
    return f"Pruned {context.name}: {', '.join(said)}{dropped}."


def _names(exclude: Collection[str]) -> frozenset[str]:
    if isinstance(exclude, str):
        raise UserError(f"exclude={exclude!r} is one word: write a list, such as exclude=[{exclude}].")
    return frozenset(exclude)
