"""Indexing: no effect along places; along channels only the map of the zero-padded shortcut may be pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.models import ZeroPadShortcut

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: torch.roll(x, (1, 2), (2, 3)),
        lambda x: x.flip(3),
        lambda x: x[..., ::2, 1:],
        lambda x: x[:, :, torch.tensor([3, 1, 0])],
        lambda x: x.index_select(2, torch.tensor([3, 1, 0], device=x.device)),
        lambda x: x[..., 4:5],
        lambda x: x.topk(3, dim=3)[0],
        lambda x: x.sort(dim=2)[0],
        lambda x: x.gather(3, x.argsort(dim=3)),
        lambda x: x.gather(2, x.topk(3, dim=2)[1]),
        lambda x: x.gather(3, torch.tensor([3, 1, 0]).repeat(2, x.shape[1], 8, 1)),
    ],
    ids=[
        "roll",
        "flip",
        "slices",
        "index",
        "index_select",
        "one column",
        "topk",
        "sort",
        "gather argsort",
        "gather own places",
        "gather places of all channels",
    ],
)
def test_along_places(exact: Callable[..., Any], network: Any, pick: Callable[[Tensor], Tensor]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(pick(F.relu(net.conv(x))))

    assert exact(network(forward, conv=conv(3, 8), out=conv(8, 3)), IMAGES).groups == {"conv": ("filter", 8)}


@pytest.mark.parametrize(
    ("pick", "reason"),
    [
        (lambda x: torch.roll(x, 1, 1), "roll selects along the channels"),
        (lambda x: x.flip(1), "flip selects along the channels"),
        (lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]], "index selects along the channels"),
        (
            lambda x: x.index_select(1, torch.arange(7, -1, -1, device=x.device)),
            "index_select selects along the channels",
        ),
        (lambda x: x.topk(8, dim=1)[0], "topk compares the channels with each other"),
        (lambda x: x.gather(1, x.argsort(dim=1)), "sort compares the channels with each other"),
        (lambda x: x.gather(1, x.new_zeros(x.shape, dtype=torch.int64)), "gather selects along the channels"),
        (
            lambda x: x.gather(3, torch.tensor([[[[3, 1, 0]] * 8] * 8] * 2)),
            "gather has an input without known channels",
        ),
    ],
    ids=["roll", "flip", "index", "index_select", "topk", "argsort", "gather", "index without channels"],
)
def test_along_channels_freezes(
    exact: Callable[..., Any], network: Any, pick: Callable[[Tensor], Tensor], reason: str
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(pick(F.relu(net.conv(F.relu(net.stem(x))))))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), out=conv(8, 3)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert pruning.frozen == {"conv": reason}


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: x[x[:, :, 0, 0] > 0],
        lambda x: x[:, :, x.mean((0, 1)) > 0],
        lambda x: x[:, :, torch.ones(8, 8, dtype=torch.bool)],
        lambda x: x[x > 0],
        lambda x: x[x > 1e9],
    ],
    ids=["images and channels", "places", "constant", "all", "nothing"],
)
def test_a_mask_stands_for_as_many_dimensions_as_it_has(
    network: Any, pick: Callable[[Tensor], Tensor]
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return pick(net.out(F.relu(net.conv(x))))

    model = network(forward, conv=conv(3, 8), out=conv(8, 3))
    graph = prunelab.analyze(model, IMAGES)
    assert [group.name for group in graph.groups] == ["conv"]
    plan = graph.plan({"conv": [0, 3, 4]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9


def test_the_zero_padded_shortcut_renumbers_its_sources(prune: Callable[..., Any], network: Any) -> None:
    """Sources 4 4 0 1 2 3 4 4 (4: zeros). Kept in: 1 3; kept out: 0 2 3 5 -> sources zeros, (0 gone), 1, 3."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.out(F.relu(net.shortcut(x) + net.conv(x)))

    parts = {"stem": conv(3, 4), "shortcut": ZeroPadShortcut(4, 8, 1), "conv": conv(4, 8), "out": conv(8, 3)}
    pruning = prune(network(forward, **parts), IMAGES, kept={"stem": [1, 3], "conv": [0, 2, 3, 5]})
    assert pruning.groups == {"stem": ("filter", 4), "conv": ("filter", 8)}
    assert pruning.model.shortcut.source.tolist() == [2, 2, 0, 1]
    assert pruning.error < 1e-9


def test_the_zero_padded_shortcut_by_hand(network: Any, prune: Callable[..., Any]) -> None:
    """The reference zeroes the shortcut's own input channels, which no weight reads."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.out(F.relu(net.shortcut(x) + net.conv(x)))

    parts = {"stem": conv(3, 4), "shortcut": ZeroPadShortcut(4, 8, 2), "conv": nn.Conv2d(4, 8, 1, stride=2)}
    pruning = prune(
        network(forward, **parts, out=conv(8, 3)), IMAGES, kept={"stem": [0, 2], "conv": [1, 2, 3, 4]}
    )
    net = pruning.original
    with torch.no_grad():
        x = F.relu(net.stem(IMAGES)) * torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1)
        x = F.relu(net.shortcut(x) + net.conv(x)) * torch.tensor([0.0, 1, 1, 1, 1, 0, 0, 0]).view(8, 1, 1)
        torch.testing.assert_close(pruning.model(IMAGES), net.out(x))


def test_a_stored_permutation_and_selection_of_channels(exact: Callable[..., Any], network: Any) -> None:
    """CondenseNet's index: channel 3 is taken twice, channel 5 never."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(F.relu(net.conv(x)).index_select(1, net.index))

    model = network(forward, conv=conv(3, 8), out=conv(8, 3))
    model.register_buffer("index", torch.tensor([4, 3, 0, 7, 3, 1, 6, 2]))
    pruning = exact(model, IMAGES)
    sizes = sorted(size for _, size in pruning.groups.values())
    assert sizes == [1, 6] or sizes == [6]
    graph = prunelab.analyze(model, IMAGES)
    largest = max(graph.groups, key=lambda group: group.size)
    pruned = prunelab.apply(copy.deepcopy(model), graph.plan({largest.name: [0, 2]}))
    assert pruned.index.tolist() != model.index.tolist() and len(pruned.index) == pruned.out.in_channels


def test_a_temporal_shift_moves_equal_parts(exact: Callable[..., Any], network: Any) -> None:
    """TSM: a quarter of the channels comes from the next frame, a quarter from the one before."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(x))
        frames = x.view(-1, 2, *x.shape[1:])
        part, shifted = x.shape[1] // 4, torch.zeros_like(frames)
        shifted[:, :-1, :part] = frames[:, 1:, :part]
        shifted[:, 1:, part : 2 * part] = frames[:, :-1, part : 2 * part]
        shifted[:, :, 2 * part :] = frames[:, :, 2 * part :]
        return net.out(shifted.view(x.shape))

    assert exact(network(forward, conv=conv(3, 12), out=conv(12, 3)), IMAGES).groups == {
        "conv": ("filter", 3)
    }
