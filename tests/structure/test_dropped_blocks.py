"""Blocks are offered only if the network runs without them; every residual addition is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab import PruningPlan

IMAGES = torch.randn(2, 3, 6, 6)


class Block(nn.Module):
    """x + convolutions of x."""

    def __init__(self, source: int = -1) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 1))
        self.source = source
        self.sizes = (8, [6, 8])

    def forward(self, x: Tensor) -> Any:
        return x + self.branch(x)


class Chain(nn.Module):
    """A stem, two blocks, a head; ``step`` runs one block."""

    def __init__(self, kind: type[nn.Module] = Block) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([kind(), kind()])
        self.head = nn.Conv2d(8, 4, 1)

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = self.step(block, x)
        return self.head(x)


class ReadsAttribute(Chain):
    """Plain attributes of a block steer the network, as in ultralytics' models."""

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        assert block.sizes == (8, [6, 8])
        return block(x) if block.source == -1 else x


class ReadsLayer(Chain):
    """The network reads a layer of the block."""

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x) * block.branch[0].weight.mean() if block is self.blocks[1] else block(x)


class Collects(Chain):
    """Hooks collect the outputs of the blocks, as in Hugging Face's backbones."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: list[Tensor] = []
        for block in self.blocks:
            block.register_forward_hook(lambda module, given, out: self.collected.append(out))

    def forward(self, x: Tensor) -> Tensor:
        self.collected.clear()
        super().forward(x)
        return self.head(self.collected[0] + self.collected[1])


class WritesInPlace(Chain):
    """The output of a block is changed in place, and its input is used again."""

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x).mul_(2.0) + x if block is self.blocks[1] else block(x)


class ByKeyword(Chain):
    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x=x)


class InTuple(Block):
    """Returns a tuple of one tensor, as the layers of Hugging Face's models."""

    def forward(self, x: Tensor) -> Any:
        return (x + self.branch(x),)


class OfTuples(Chain):
    def __init__(self) -> None:
        super().__init__(InTuple)

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        (x,) = block(x)
        return x


class Tokens(Block):
    """Adds tokens (N, H W, C) and returns images, as Swin's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6))

    def forward(self, x: Tensor) -> Any:
        rows = x.reshape(len(x), -1, x.shape[-1])
        return (rows + self.mlp(rows)).view(x.shape)


class OfTokens(Chain):
    def __init__(self) -> None:
        super().__init__(Tokens)


class Attends(Block):
    """x + attention, whose width is written as that of x, so that pruning its heads rewrites the method."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.project = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        rows = x.flatten(2).transpose(1, 2)
        batch, count, width = rows.shape
        q, k, v = self.qkv(rows).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        rows = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        return x + self.project(rows).transpose(1, 2).reshape(x.shape)


def test_a_block_whose_method_would_be_rewritten(prune: Callable[..., Any]) -> None:
    pruning = prune(Chain(Attends), IMAGES, kept={"blocks.1.qkv": [0, 2]}, dropped=["blocks.0"])
    assert pruning.error < 1e-9
    assert set(pruning.plan.rewritten) == {"blocks.1"}


@pytest.mark.parametrize("maker", [ReadsAttribute, ByKeyword, OfTuples, OfTokens])
def test_dropped_blocks_leave_what_the_masked_network_computes(
    maker: type[nn.Module], prune: Callable[..., Any]
) -> None:
    for dropped in (["blocks.0"], ["blocks.0", "blocks.1"]):
        kept = {} if maker is OfTokens else {"blocks": [0, 2, 5]}
        pruning = prune(maker(), IMAGES, kept=kept, dropped=dropped)
        assert [block.name for block in pruning.graph.blocks] == ["blocks.0", "blocks.1"]
        assert pruning.error < 1e-9
        assert PruningPlan.from_json(pruning.plan.to_json()) == pruning.plan
        assert {addition.block for addition in pruning.graph.additions} == {"blocks.0", "blocks.1"}
        assert all(addition.reason is None for addition in pruning.graph.additions)


@pytest.mark.parametrize(
    ("maker", "failing", "reason"),
    [
        (
            ReadsLayer,
            ["blocks.1"],
            "the network fails without it: AttributeError: 'Dropped' object has no attribute",
        ),
        (Collects, ["blocks.0", "blocks.1"], "the network fails without it: IndexError"),
        (WritesInPlace, ["blocks.1"], "its output is changed in place while its input is still in use"),
    ],
)
def test_a_block_without_which_the_network_fails_is_not_offered(
    maker: type[nn.Module], failing: list[str], reason: str
) -> None:
    graph = prunelab.analyze(maker(), IMAGES)
    assert [block.name for block in graph.blocks] == [
        f"blocks.{n}" for n in (0, 1) if f"blocks.{n}" not in failing
    ]
    reasons = {addition.module: addition.reason for addition in graph.additions if addition.module in failing}
    assert list(reasons) == failing
    assert all(str(found).startswith(reason) for found in reasons.values())


class OnlyInTraining(Chain):
    """Training mode reads a layer of the block."""

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        x = block(x)
        return x + block.branch[0].bias.sum() if self.training else x


def test_training_mode_is_tried_too() -> None:
    graph = prunelab.analyze(OnlyInTraining(), IMAGES)
    assert not graph.blocks
    assert all("AttributeError" in str(addition.reason) for addition in graph.additions)


class Undroppable(nn.Module):
    """Sums that no block can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(width, 8, 1) for width in (3, 8, 8))
        self.twice, self.more = Block(), More()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.left(x) + self.right(x)
        x = self.twice(self.twice(x))
        x = x + self.left(x)
        return self.more(x)


class More(Block):
    def forward(self, x: Tensor) -> Any:
        return (x + self.branch(x)).sin()


def test_every_addition_has_a_block_or_a_reason() -> None:
    additions = prunelab.analyze(Undroppable(), IMAGES).additions
    assert all(addition.block is None for addition in additions)
    assert [addition.module for addition in additions] == ["", "twice", "twice", "", "more"]
    starts = (
        "no identity shortcut",
        "twice runs 2 times",
        "twice runs 2 times",
        "the network itself adds",
        "more does",
    )
    for addition, start in zip(additions, starts, strict=True):
        assert str(addition.reason).startswith(start)


class ReturnsAll(Chain):
    """All hidden states are outputs, as in MONAI's ViT: without a block, two of them are the same tensor."""

    def forward(self, x: Tensor) -> Any:
        states = [F.relu(self.stem(x))]
        for block in self.blocks:
            states.append(block(states[-1]))
        return self.head(states[-1]), states


def test_an_output_that_is_returned_twice(prune: Callable[..., Any]) -> None:
    pruning = prune(ReturnsAll(), IMAGES, kept={"blocks.1.branch.0": [0, 2]}, dropped=["blocks.0"])
    assert prunelab.check(pruning.original, pruning.model, pruning.plan, IMAGES) < 1e-9


class Samples(Chain):
    """Draws random numbers in evaluation mode, as variational autoencoders do."""

    def step(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x) + torch.randn_like(x)


def test_both_runs_of_a_check_draw_the_same_random_numbers(prune: Callable[..., Any]) -> None:
    pruning = prune(Samples(), IMAGES, kept={"blocks.1.branch.0": [0, 2]})
    torch.manual_seed(0)
    assert prunelab.check(pruning.original, pruning.model, pruning.plan, IMAGES) < 1e-9
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
