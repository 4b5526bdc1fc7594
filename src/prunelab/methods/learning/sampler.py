"""A choice for each of several groups that is learned by gradient: Gumbel-softmax samples of logits, moved by Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError


class Sampler:
    """Logits (groups, choices), all 0 in the beginning.

    Args:
        groups, choices: how many.
        lr, weight_decay: of Adam.
        seed: of the samples; they are the same on every rank.
    """

    def __init__(self, groups: int, choices: int, lr: float, weight_decay: float, seed: int) -> None:
        self.logits = torch.zeros(groups, choices, requires_grad=True)
        self.seed = seed
        self._adam = torch.optim.Adam([self.logits], lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)

    def draw(self, temperature: float, draw: int) -> Tensor:
        """p = softmax((log softmax(logits) + g) / temperature), float (groups, choices); g is that of draw number
        ``draw``, whatever was drawn before."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + draw) % 2**63)
        uniform = torch.rand(self.logits.shape, generator=generator).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        return torch.softmax((self.logits.log_softmax(dim=1) - (-uniform.log()).log()) / temperature, dim=1)

    def probabilities(self) -> Tensor:
        """softmax(logits), without gradients."""
        return self.logits.detach().softmax(dim=1)

    def best(self) -> Tensor:
        """The likeliest choice of each group (groups,); of equals the first."""
        return self.logits.detach().argmax(dim=1)

    def descend(self, loss: Tensor | None) -> float:
        """One step along the gradient of the mean loss of all ranks that have one, which is returned.

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
