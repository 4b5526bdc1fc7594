"""ReconstructionPruning: keep the channels that a rule chooses, and adjust the layers that read them."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.methods.about import About, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.method import PruningMethod
from prunelab.methods.reconstruction.least_squares import Indices, Matrix, constants, relative_error
from prunelab.methods.reconstruction.moments import Moments, measure_moments
from prunelab.methods.reconstruction.readers import Reader, find_readers, kept_indices, read_by
from prunelab.methods.reconstruction.rule import Reading, Rule, reading_of
from prunelab.methods.reconstruction.shifts import find_shifts
from prunelab.structure import PruningPlan


class ReconstructionPruning(PruningMethod):
    """Choose channels by the error of the layers that read them, and adjust the weights of these layers.

    One pass over the calibration images measures the second moments of the inputs of every convolution (not grouped)
    and linear layer, at random positions of each image. Groups that no such layer reads are not pruned; a layer of
    another kind that reads a group loses its channels without an adjustment.

    Args:
        rule: chooses channels and adjusts weights, such as ``ThiNet()``.
        budget: how much to keep.
        positions: random positions of each image at which a layer's outputs are reconstructed.
        ridge: penalty on the change of weights, relative to the mean energy of an input; larger for few images.
        normalisation: how ``global`` allocation makes layers comparable, see ``Allocation``; None: scores are compared
            unchanged, because they are relative errors.
        settings: those of ``PruningMethod``: levels (filter and stage), allocation, min_keep, divisor, images, ...

    Raises:
        UserError: a setting out of range.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ReconstructionPruning(prunelab.ThiNet(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        rule: Rule,
        budget: Budget,
        positions: int = 10,
        ridge: float = 1e-6,
        normalisation: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(budget, normalisation=normalisation or "none", **settings)
        if positions < 1:
            raise UserError(f"positions={positions}: at least one position of each image is needed.")
        if ridge <= 0:
            raise UserError(
                f"ridge={ridge}: use a small number above 0, because inputs can be linearly dependent."
            )
        require_covered(type(rule).__name__, self.levels, self.covers)
        self.rule = rule
        self.positions = positions
        self.ridge = ridge
        self._measured: tuple[weakref.ref[nn.Module], Moments] | None = None

    @property
    def about(self) -> About:
        return About(self.rule.origin, "activations", self.covers, "one forward pass, least squares")

    @property
    def title(self) -> str:
        return type(self.rule).__name__

    @property
    def reconstructs(self) -> bool:
        return True

    def decide(self, context: PruningContext) -> PruningPlan:
        return self.scored(context)[1]

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        require_within_reach(context)
        readings = self._readings(context)
        scores = Scores(
            {name: self.rule.score(reading) for name, reading in readings.items()}, are_order=True
        )
        plan = keep_best(context, scores)
        kept = {
            name: self.rule.choose(reading, np.array(plan.kept[name])).tolist()
            for name, reading in readings.items()
        }
        return scores, context.graph.plan(kept)

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Adjust the weights of all layers that lose inputs by the rule, and their constants if the rule fits any."""
        readers = find_readers(context.model, context.graph)
        moments = self._moments(context, readers)
        self._measured = None
        shifts = find_shifts(context, readers) if self.rule.fits_constants else {}
        before, after = [], []
        for name, reader in readers.items():
            kept, outputs = kept_indices(reader, plan, dim=1), kept_indices(reader, plan, dim=0)
            if kept is None:
                continue
            weights = _weights(context.model, reader)[slice(None) if outputs is None else outputs]
            shift, inputs = shifts.get(name), moments[name]
            about = inputs.second if shift is None else inputs.covariance
            adjusted = self.rule.adjusted(weights, about, kept, self.ridge)
            _adjust(context.model.get_parameter(name), outputs, adjusted)
            if shift is not None:
                shift.add(outputs, constants(weights, adjusted, inputs.mean, kept))
            before.append(relative_error(weights, weights, inputs.second, kept))
            after.append(relative_error(weights, adjusted, inputs.second, kept, about))
        if before:
            info(
                f"{self.title} adjusted {len(before)} layers: the mean error of their outputs was "
                f"{np.mean(before):.1%} of their energy and is now {np.mean(after):.1%}."
            )

    def _readings(self, context: PruningContext) -> dict[str, Reading]:
        """The readings of all groups; groups without a reader are not pruned."""
        readers = find_readers(context.model, context.graph)
        self._measured = None
        moments = self._moments(context, readers)
        self._measured = (weakref.ref(context.model), moments)  # reconstruct uses the same images
        weights = {name: _weights(context.model, reader) for name, reader in readers.items()}
        groups = [group for group in context.groups if read_by(group, readers)]
        warn_not_pruned(
            context,
            [group.name for group in context.groups if not read_by(group, readers)],
            "are not read by an ordinary convolution or linear layer",
        )
        return {group.name: reading_of(group, readers, moments, weights, context.seed) for group in groups}

    def _moments(self, context: PruningContext, readers: dict[str, Reader]) -> Moments:
        if self._measured is not None and self._measured[0]() is context.model:
            return self._measured[1]
        return measure_moments(context, readers.values(), self.positions)


def _weights(model: nn.Module, reader: Reader) -> Matrix:
    """(outputs, inputs, kernel positions), float64."""
    parameter = model.get_parameter(reader.parameter).detach()
    return parameter.cpu().double().reshape(-1, reader.inputs, reader.kernel_size).numpy()


@torch.no_grad()
def _adjust(parameter: nn.Parameter, outputs: Indices | None, weights: Matrix) -> None:
    """Replace the weights (outputs, inputs, kernel positions) of these outputs (None: of all)."""
    rows = slice(None) if outputs is None else torch.from_numpy(outputs).to(parameter.device)
    new = torch.from_numpy(weights).to(parameter)
    parameter[rows] = new.reshape(-1, *parameter.shape[1:])
