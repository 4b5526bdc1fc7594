"""A learned choice for each of several groups: Gumbel-softmax samples of logits, which Adam updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError


class Sampler:
    """Logits (groups, choices), initially 0.

    Args:
        groups, choices: their numbers.
        lr, weight_decay: those of Adam.
        seed: seed of the samples, which are the same on every rank.
        own: the number of choices of each group, (groups,), if it is not ``choices`` for all; the probability of
            further ones is 0.
    """

    def __init__(
        self,
        groups: int,
        choices: int,
        lr: float,
        weight_decay: float,
        seed: int,
        own: Sequence[int] | None = None,
    ) -> None:
        self.logits = torch.zeros(groups, choices, requires_grad=True)
        absent = (
            torch.arange(choices) >= torch.tensor([choices] * groups if own is None else list(own))[:, None]
        )
        self._offset = torch.zeros(groups, choices).masked_fill(absent, -torch.inf)
        self.seed = seed
        self._adam = torch.optim.Adam([self.logits], lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)

    def draw(self, temperature: float, draw: int) -> Tensor:
        """p = softmax((log softmax(logits) + g) / temperature), float (groups, choices); g depends only on the seed and
        the number ``draw``."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + draw) % 2**63)
        uniform = torch.rand(self.logits.shape, generator=generator).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        chances = (self.logits + self._offset).log_softmax(dim=1)
        return torch.softmax((chances - (-uniform.log()).log()) / temperature, dim=1)

    def expected(self) -> Tensor:
        """softmax(logits), with gradients."""
        return (self.logits + self._offset).softmax(dim=1)

    def probabilities(self) -> Tensor:
        """softmax(logits), without gradients."""
        return self.expected().detach()

    def best(self) -> Tensor:
        """The most probable choice of each group (groups,); of equal ones the first."""
        return (self.logits.detach() + self._offset).argmax(dim=1)

    def descend(self, loss: Tensor | None) -> float:
        """Take one step with the gradient of the mean loss of all ranks that have one; returns this loss.

        Raises:
            UserError: no rank has one.
        """
        own = [0.0] * (self.logits.numel() + 2)
        if loss is not None:
            (gradient,) = torch.autograd.grad(loss, self.logits)
            own = [*gradient.flatten().tolist(), float(loss.detach()), 1.0]
        *total, ranks = np.sum(gather(own), axis=0)
        if ranks == 0:
            raise UserError("The loader of images held out of training is empty.")
        *mean, mean_loss = np.divide(total, ranks)
        self.logits.grad = torch.tensor(mean, dtype=self.logits.dtype).view_as(self.logits)
        self._adam.step()
        return float(mean_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self.logits.detach().clone(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self._adam.load_state_dict(state["adam"])
