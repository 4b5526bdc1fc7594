"""``nn.MultiheadAttention``: heads, inner widths and the residual width can be removed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.structure import SlicedNetwork, candidate
from prunelab.structure.attention import SlimAttention, restore, slim

IMAGES = torch.randn(2, 3, 8, 8)


class Encoder(nn.Module):
    """A small vision transformer of PyTorch's layers."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        layer = nn.TransformerEncoderLayer(16, 4, 12, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute((0, 2, 1) if self.batch_first else (2, 0, 1))
        return self.head(self.encoder(x).mean(1 if self.batch_first else 0))


class Cross(nn.Module):
    """Queries of one width attend to keys and values of others, with a mask; the weights are an output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 12), nn.Linear(5, 8), nn.Linear(5, 10)
        self.attention = nn.MultiheadAttention(12, 3, kdim=8, vdim=10, batch_first=True)
        self.last = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        out, weights = self.attention(self.first(x), self.second(x), self.third(x), attn_mask=mask)
        return self.last(out), weights


@pytest.mark.parametrize("settings", [{}, {"batch_first": True}, {"kdim": 6, "vdim": 10}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", ["no", "numbers", "each head", "padding"])
def test_the_same_results_as_pytorch(settings: dict[str, Any], need_weights: bool, masked: str) -> None:
    module = nn.MultiheadAttention(16, 4, **settings).eval().double()
    widths = (16, settings.get("kdim", 16), settings.get("vdim", 16))
    given = [torch.randn(3, 5, width, dtype=torch.float64) for width in widths]
    images, tokens = (3, 5) if settings.get("batch_first") else (5, 3)
    masks: dict[str, dict[str, Tensor]] = {
        "no": {},
        "numbers": {"attn_mask": torch.randn(tokens, tokens, dtype=torch.float64)},
        "each head": {
            "attn_mask": torch.eye(tokens).expand(images * 4, -1, -1) < torch.rand(images * 4, tokens, 1)
        },
        "padding": {"key_padding_mask": torch.arange(tokens).expand(images, -1) > 1},
    }
    expected = module(*given, need_weights=need_weights, **masks[masked])
    assert slim(module) and type(module) is SlimAttention
    torch.testing.assert_close(module(*given, need_weights=need_weights, **masks[masked]), expected)
    restore(module)
    assert type(module) is nn.MultiheadAttention


@pytest.mark.parametrize("batch_first", [False, True])
def test_heads_and_hidden_widths_are_removed_exactly(batch_first: bool, prune: Callable[..., Any]) -> None:
    model = Encoder(batch_first)
    assert {group.name: group.size for group in prunelab.analyze(model, IMAGES, exact=True).groups} == {
        "encoder.layers.0.self_attn": 4, "encoder.layers.0.linear1": 12,
        "encoder.layers.1.self_attn": 4, "encoder.layers.1.linear1": 12,
    }  # fmt: skip
    assert type(model.encoder.layers[0].self_attn) is nn.MultiheadAttention
    kept = {
        "encoder.layers.0.self_attn": [1, 3],
        "encoder.layers.1.self_attn": [0],
        "encoder.layers.1.linear1": [2, 5],
    }
    pruning = prune(model, IMAGES, kept=kept, exact=True)
    assert pruning.error < 1e-9
    assert [layer.self_attn.num_heads for layer in pruning.model.encoder.layers] == [2, 1]


def test_the_residual_width_is_removed(prune: Callable[..., Any]) -> None:
    pruning = prune(Encoder(), IMAGES, seed=1)
    stage = next(group for group in pruning.graph.groups if group.level == "stage")
    assert stage.size == 16 and not stage.exact
    attention = pruning.model.encoder.layers[0].self_attn
    assert attention.embed_dim == attention.in_proj_weight.shape[1] == len(pruning.plan.kept[stage.name]) < 16
    with torch.no_grad():  # PyTorch would run a fused operator here
        fused = pruning.model.eval()(IMAGES)
    torch.testing.assert_close(fused, pruning.model(IMAGES))
    pruning.model.train()(IMAGES).sum().backward()
    assert attention.in_proj_weight.grad is not None


def test_attention_between_several_inputs(exact: Callable[..., Any]) -> None:
    pruning = exact(Cross(), torch.randn(2, 4, 5))
    sizes = {name: size for name, (_, size) in pruning.groups.items()}
    assert {sizes[name] for name in ("first", "second", "third")} == {12, 8, 10}


def test_searches_and_checkpoints(tmp_path: Any) -> None:
    model = Encoder().eval()
    graph = prunelab.analyze(model, IMAGES)
    widths = {group.name: group.size // 2 for group in graph.groups}
    plan = graph.plan({name: list(range(width)) for name, width in widths.items()})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    torch.testing.assert_close(candidate(model, plan)(IMAGES), pruned(IMAGES))
    with SlicedNetwork(model, graph).at(widths):
        sliced = model(IMAGES)
    torch.testing.assert_close(sliced, pruned(IMAGES))
    assert type(model.encoder.layers[0].self_attn) is nn.MultiheadAttention
    again = prunelab.analyze(pruned, IMAGES)
    assert {group.name: group.size for group in again.groups if group.size > 1} == widths
    copied = copy.deepcopy(pruned)
    torch.testing.assert_close(copied(IMAGES), pruned(IMAGES))
