"""Heads of attention that is written in the ways of other packages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS = torch.randn(2, 5, 6)


class Apart(nn.Module):
    """Queries, keys and values come from layers of their own, as in transformers; four heads of three channels."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(6, 12) for _ in range(3))
        self.last = nn.Linear(12, 5)
        self.head_width, self.fused = 3, fused

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_width)
        q, k, v = (each(x).view(shape).transpose(1, 2) for each in (self.queries, self.keys, self.values))
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(2, 3) / 3**0.5).softmax(-1) @ v
        return self.last(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [False, True])
def test_queries_keys_and_values_of_layers_of_their_own(exact: Callable[..., Any], fused: bool) -> None:
    pruning = exact(Apart(fused), TOKENS)
    assert [(group.size, len(group.producers)) for group in pruning.graph.groups] == [(4, 3)]


class Named(nn.Module):
    """Sizes by name, in a dict and in a copy of it as pairs, as in the layers of einops."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.pairs = tuple(sizes.items())

    def forward(self, x: Tensor) -> Tensor:
        sizes = dict(self.pairs)
        return x.reshape(*x.shape[:2], sizes["parts"], sizes["heads"], -1).permute(2, 0, 3, 1, 4)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.packed, self.last = nn.Linear(6, 36), nn.Linear(12, 5)
        self.divide = Named(parts=3, heads=4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.divide(self.packed(x))
        out = torch.einsum("bhxy,bhyd->bhxd", torch.einsum("bhxd,bhyd->bhxy", q, k).softmax(-1), v)
        return self.last(out.transpose(1, 2).flatten(2))


def test_a_number_of_heads_in_a_dict_and_its_copy(exact: Callable[..., Any]) -> None:
    pruning = exact(Packed(), TOKENS)
    heads = len(pruning.plan.kept["packed"])
    assert pruning.graph.groups[0].size == 4 and heads < 4
    divide = pruning.model.divide
    assert divide.sizes == {"parts": 3, "heads": heads} and divide.pairs == (("parts", 3), ("heads", heads))
    assert pruning.original.divide.sizes["heads"] == 4
    assert copy.deepcopy(pruning.model)(TOKENS).shape == (2, 5, 5)
