"""PruningMethod: decides what a network keeps. Pure: no Trainer, no Lightning, no command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from prunelab.distributed.ranks import world
from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel
from prunelab.former_arguments import accepts_former
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, check_levels
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Calibration, Unpack, unpack_batch
from prunelab.methods.context import CPU, Loss, PruningContext, network_name
from prunelab.methods.finite import reject_masks, require_finite_weights
from prunelab.structure import LEVELS, ChannelGraph, PruningPlan, analyze
from prunelab.structure.wrappers import check_network, require_weights


class PruningMethod(ABC):
    """Decides which channels and blocks of a network are kept.

    A subclass implements ``decide`` and may implement ``reconstruct``. Both are functions of a
    ``PruningContext``, so that a method works without a Trainer::

        method = ImportanceMethod(L1Norm(), Budget(flops=0.5))
        plan = method.decide(method.context(network, torch.zeros(1, 3, 32, 32)))
        prunelab.apply(network, plan)

    ``PruningCallback(method)`` runs a method inside a Lightning ``Trainer``.

    Args:
        budget: how much to keep.
        levels: what may be removed: any of "filter", "stage", "block".
        exclude: names of groups that are not pruned, as ``analyze`` and prunelab-profile name them, such as
            "conv1".
        allocation, normalisation, min_keep, divisor: how the budget is distributed over the groups, see
            ``Allocation``. Under a latency budget ``divisor=1`` means the one that suits the target.
        images: how many calibration images are read, over all ranks together.
        validation_images: how many held-out images are read, for methods that compare networks by accuracy.
        seed: of all random numbers.
        exact, cardinality, outputs: what may be removed, see ``analyze``.

    Raises:
        UserError: a setting out of range.

    Example:
        >>> class FirstHalf(prunelab.PruningMethod):
        ...     def decide(self, context):
        ...         return context.graph.plan({group.name: range(group.size // 2) for group in context.groups})
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> method = FirstHalf(prunelab.Budget(flops=0.5))
        >>> method.decide(method.context(network, torch.zeros(1, 3, 8, 8))).kept["0"]
        (0, 1, 2, 3)
    """

    origin: ClassVar[Origin] = Origin()
    """The paper and the code that define the method."""

    covers: ClassVar[tuple[str, ...]] = LEVELS
    """The levels for which the method is defined."""

    @accepts_former(whole="exclude", floor="min_keep")
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
        validation_images: int = 10_000,
        seed: int = 0,
        exact: bool = False,
        cardinality: bool = False,
        outputs: str | int | Collection[str | int] | Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(budget, Budget):
            raise UserError(
                f"budget={budget!r} is not a Budget: give for example prunelab.Budget(flops=0.5)."
            )
        self.budget = budget
        self.levels = check_levels(levels)
        self.exclude = _names(exclude)
        if budget.resource == "latency" and divisor == 1:
            divisor = budget.goal.divisor
        self.allocation = Allocation(allocation, normalisation, min_keep, divisor)  # type: ignore[arg-type]
        self.images = images
        self.validation_images = validation_images
        self.seed = seed
        self.exact, self.cardinality, self.outputs = exact, cardinality, outputs

    @abstractmethod
    def decide(self, context: PruningContext) -> PruningPlan:
        """The plan for ``context.model``, which is left unchanged.

        Raises:
            UserError: the budget cannot be reached, or the method does not support the network.
        """

    def decider(self) -> Callable[[PruningContext], PruningPlan]:
        """``decide`` for several budgets of one network: what does not depend on the budget may be computed once."""
        return self.decide

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        """The scores of all channels of ``context.model``, and the plan of ``decide`` for them.

        Raises:
            UserError: the method has no scores before it has learned; or as for ``decide``.
        """
        raise UserError(
            f"{type(self).__name__} does not score an untrained network. Choose a method with scores, such as l1 or "
            "hrank."
        )

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:  # noqa: B027 - optional
        """Adjust, in place, weights of ``context.model`` so that applying ``plan`` changes its output less.

        Called between ``decide`` and surgery, on every rank, with the context of ``decide``. It is also called
        when an earlier process decided the plan (a resumed run), so it must depend only on its two arguments.
        """

    @property
    def about(self) -> About:
        """The row of the method in the table of methods."""
        reads = "activations" if self.reads_images else "weights"
        return About(self.origin, reads, self.covers, "one forward pass" if self.reads_images else "no data")

    @property
    def title(self) -> str:
        """The name of the method in messages."""
        return type(self).__name__

    @property
    def reads_images(self) -> bool:
        """Whether ``decide`` reads calibration images."""
        return True

    @property
    def reconstructs(self) -> bool:
        """Whether ``reconstruct`` changes anything."""
        return False

    @property
    def reads_validation(self) -> bool:
        """Whether ``decide`` reads images that are held out of training."""
        return False

    def structure(self, model: nn.Module, example_input: Any) -> ChannelGraph:
        """The groups and blocks of ``model`` that this method may remove."""
        return analyze(
            model, example_input, exact=self.exact, cardinality=self.cardinality, outputs=self.outputs
        )

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
        loss: Loss = functional.cross_entropy,
        unpack: Unpack = unpack_batch,
        latency: LatencyModel | None = None,
        **more: Any,
    ) -> PruningContext:
        """The context in which this method, with its settings, decides about ``model``.

        Args:
            calibration, validation: any iterables of batches, the same on every rank.
            budget: replaces the budget of the method (one round of several).
            exclude: added to that of the method.
            unpack: batch -> (images, targets).
            latency: of the full network, for a latency budget; by default ``model`` is the full network and is
                measured.
            device, name, reference, progress, loss, more: see ``PruningContext``.

        Raises:
            UserError: a weight is NaN or infinite, or has a mask of ``torch.nn.utils.prune``.
        """
        check_network(model)
        require_weights(model)
        network = name or network_name(model)
        reject_masks(model, network)
        require_finite_weights(model, self.title, network)
        graph, budget = self.structure(model, example_input), budget or self.budget
        if budget.resource == "latency":
            latency = latency or LatencyModel.of(model, graph, example_input, budget.goal)
            graph = latency.attach(graph)
        return PruningContext(
            model=model,
            graph=graph,
            budget=budget,
            levels=self.levels,
            allocation=self.allocation,
            calibration=_shared(calibration, self.images, unpack),
            validation=_shared(validation, self.validation_images, unpack),
            loss=loss,
            device=device,
            seed=self.seed,
            name=network,
            method=self.title,
            reference=reference,
            progress=progress,
            exclude=self.exclude | frozenset(exclude),
            example_input=example_input,
            latency=latency,
            **more,
        )


def _shared(batches: Iterable[Any] | None, images: int, unpack: Unpack) -> Calibration | None:
    """The first ``images`` images of the loader, of which every rank reads its share."""
    return None if batches is None else Calibration(batches, images, unpack, *world())


def _names(exclude: Collection[str]) -> frozenset[str]:
    if isinstance(exclude, str):
        raise UserError(f"exclude={exclude!r} is a single word: write a list, such as exclude=[{exclude}].")
    return frozenset(exclude)
