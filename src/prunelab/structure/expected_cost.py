"""The cost model as a differentiable function of fractional widths."""

from __future__ import annotations

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.structure.cost import CostModel


class ExpectedCost:
    """FLOPs or parameters at expected widths, with gradients; the same polynomials as ``CostModel``.

    For independent widths the expectation of a product of the widths of two groups is the product of the expectations.
    So the value is the expected cost, except for operators that read and write the same group: for these it contains
    E[w]^2 instead of E[w^2].

    Args:
        cost: the cost model of a network with G groups.
        resource: "flops" (2 x MACs + bias additions of one image) or "params".

    Raises:
        UserError: the resource is not a polynomial of widths.
    """

    def __init__(self, cost: CostModel, resource: str) -> None:
        if resource not in ("flops", "params"):
            raise UserError(
                f"budget.{resource} has no gradient with respect to widths: use budget.flops or budget.params."
            )
        flops = resource == "flops"
        sums = [cost._operations, cost._biases] if flops else [cost._parameters]
        self._scale = 1.0 / cost._images if flops else 1.0
        self._sums = [
            (torch.from_numpy(s.coefficients), torch.from_numpy(s.factors), torch.from_numpy(s.block))
            for s in sums
        ]
        self._multiplicity = torch.from_numpy(cost._multiplicity)
        self._constant = torch.from_numpy(cost._constant)
        self._parents = [int(parent) for parent in cost._parents]
        self._shared = [list(home) for home in cost._shared]

    def __call__(self, widths: Tensor, alive: Tensor | None = None) -> Tensor:
        """``widths`` (..., G) and ``alive`` (..., blocks; 1 where a block is kept) -> (...,), float64, on the CPU."""
        widths = widths.to("cpu", torch.float64)
        dimensions = widths @ self._multiplicity.T + self._constant
        living = self._living(None if alive is None else alive.to("cpu", torch.float64))
        total = torch.zeros(widths.shape[:-1], dtype=torch.float64)
        for coefficients, factors, block in self._sums:
            product = dimensions[..., factors].prod(dim=-1)
            if living is not None:
                product = product * living[..., block]
            total = total + product @ coefficients
        return total * self._scale

    def _living(self, alive: Tensor | None) -> Tensor | None:
        """As ``CostModel._living``; with fractions the product for nested blocks, the maximum for shared ones."""
        if alive is None:
            return None
        columns: list[Tensor] = list(alive.unbind(dim=-1))
        found = []
        for block, own in enumerate(columns):
            parent = self._parents[block]
            while parent >= 0:
                own, parent = own * columns[parent], self._parents[parent]
            found.append(own)
        ones = torch.ones(alive.shape[:-1], dtype=alive.dtype)
        shared = [torch.stack([found[block] for block in home]).amax(dim=0) for home in self._shared]
        return torch.stack([*found, ones, *shared], dim=-1)
