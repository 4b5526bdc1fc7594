"""Group lasso: strength x sum of the l2 norms of groups of weights, as a subgradient or as a proximal step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunelab.errors import UserError, nearest
from prunelab.structure import Slice

Step = Literal["proximal", "subgradient"]


@dataclass(frozen=True)
class WeightGroups:
    """Disjoint groups of the weights of one parameter.

    labels: int64, broadcastable to the parameter: the index of each weight's group, or -1 for none.
    count: the number of groups.
    """

    parameter: str
    labels: Tensor
    count: int

    @classmethod
    def of_channels(cls, part: Slice, weight: Tensor) -> WeightGroups:
        """One group for each channel of ``part``: all weights along ``part.dim`` that it owns."""
        owner = torch.full((weight.shape[part.dim],), -1)
        owner[torch.from_numpy(part.index)] = torch.arange(len(part.index))[:, None]
        shape = [1] * weight.dim()
        shape[part.dim] = -1
        return cls(part.parameter, owner.view(shape), len(part.index))

    @classmethod
    def of_cells(cls, parameter: str, weight: Tensor) -> WeightGroups:
        """One group for each input channel and spatial offset: the weights W[:, i, u, v] of all filters."""
        cells = weight[:1].numel()
        return cls(parameter, torch.arange(cells).view(1, *weight.shape[1:]), cells)

    @classmethod
    def of_all(cls, parameter: str, weight: Tensor) -> WeightGroups:
        """One group of all weights."""
        return cls(parameter, torch.zeros([1] * weight.dim(), dtype=torch.int64), 1)

    def norms(self, weight: Tensor) -> Tensor:
        """The l2 norm of each group, (count,)."""
        squares = weight.detach().square().sum_to_size(self.labels.shape).flatten()
        labels = self._positions(weight).flatten()
        totals = squares.new_zeros(self.count + 1).index_add_(0, labels, squares)
        return totals[: self.count].sqrt()

    def spread(self, values: Tensor, elsewhere: float, weight: Tensor) -> Tensor:
        """The value of each weight's group, ``elsewhere`` outside of all groups; broadcastable to ``weight``."""
        return torch.cat([values, values.new_tensor([elsewhere])])[self._positions(weight)]

    def _positions(self, weight: Tensor) -> Tensor:
        """Labels on the device of ``weight``, with ``count`` in place of -1."""
        return self.labels.to(weight.device) % (self.count + 1)


@dataclass(frozen=True)
class Term:
    """strength x sum of the norms of ``groups``."""

    groups: WeightGroups
    strength: float


@dataclass(frozen=True)
class GroupLasso:
    """A sum of terms, which may overlap; proximal steps are then taken one after the other.

    step: ``proximal`` = after each optimizer step w_g <- w_g max(0, 1 - rate strength / ||w_g||), which reaches exact
        zeros; ``subgradient`` = strength w_g / ||w_g|| (0 for a zero group) is added to the gradient.
    snap: subgradients never reach 0; therefore weights with a magnitude below this are set to 0 after each step, as in
        the official code of SSL (in parameters with groups).
    """

    terms: Sequence[Term]
    step: Step = "proximal"
    snap: float = 1e-4

    def __post_init__(self) -> None:
        if self.step not in get_args(Step):
            raise UserError(f"step: {self.step!r} does not exist. {nearest(str(self.step), get_args(Step))}")
        if self.snap < 0:
            raise UserError(
                f"snap={self.snap} is below 0: it is the magnitude below which a weight counts as zero."
            )

    def before_step(self, network: nn.Module) -> None:
        """Add the subgradient to the gradients."""
        if self.step != "subgradient":
            return
        for term in self.terms:
            weight = network.get_parameter(term.groups.parameter)
            if weight.grad is not None:
                norms = term.groups.norms(weight)
                factors = torch.where(norms > 0, term.strength / norms, 0.0)
                weight.grad.add_(weight.detach() * term.groups.spread(factors, 0.0, weight))

    def after_step(self, network: nn.Module, rates: Mapping[Tensor, float]) -> None:
        """Take the proximal step with the rate of each parameter or, with subgradients, set weights below ``snap`` to
        0."""
        if self.step == "subgradient":
            for name in {term.groups.parameter for term in self.terms}:
                weight = network.get_parameter(name).data
                weight.masked_fill_(weight.abs() < self.snap, 0.0)
            return
        for term in self.terms:
            weight = network.get_parameter(term.groups.parameter)
            norms = term.groups.norms(weight)
            shrinkage = rates.get(weight, 0.0) * term.strength
            factors = torch.where(norms > shrinkage, 1 - shrinkage / norms, 0.0)
            weight.data.mul_(term.groups.spread(factors, 1.0, weight))

    def zero_fraction(self, network: nn.Module) -> float:
        """The fraction of all groups that are exactly zero."""
        norms = [term.groups.norms(network.get_parameter(term.groups.parameter)) for term in self.terms]
        return float((torch.cat(norms) == 0).float().mean()) if norms else 0.0
