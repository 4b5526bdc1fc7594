"""Each reason why channels are frozen names a module, and says what would have to hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import prunelab

FORM = re.compile(
    r"(not exact: .{15,}"  # another option of analyze removes them
    r"|[^:]{15,}: .+ would (have to|need) .{5,}) \(in [^()]+\)(; .+)?"
)
IMAGES = torch.zeros(2, 3, 64, 64)


def malformed(graph: prunelab.ChannelGraph) -> list[str]:
    """The reasons of other groups than the outputs that do not have the form."""
    reasons = [group.frozen or "" for group in graph.frozen]
    return [reason for reason in reasons if reason != "output of the network" and not FORM.fullmatch(reason)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnext26ts", "coatnet_pico_rw_224", "levit_128s", "cait_xxs24_224", "poolformer_s12", "edgenext_xx_small",
        "ghostnet_050", "hrnet_w18_small", "mixer_s32_224", "nest_tiny", "pit_ti_224", "xcit_nano_12_p16_224",
    ],
)  # fmt: skip
def test_the_reasons_of_networks(name: str) -> None:
    network = timm.create_model(name)
    size = network.default_cfg["input_size"] if network.default_cfg.get("fixed_input_size") else (3, 64, 64)
    graph = prunelab.analyze(network, torch.zeros(2, *size))
    assert graph.frozen
    assert malformed(graph) == []


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.cumsum(1),
        lambda x: x.view(2, 8, -1).view(2, 8, 8, 8),
        lambda x: x[:, [1, 0, 3, 2, 4, 5, 6, 7]],
        lambda x: x[:, ::2].repeat(1, 2, 1, 1),
        lambda x: x[:, 0:1].expand(2, 8, 8, 8),
        lambda x: x[:, :3].repeat(1, 3, 1, 1)[:, :8],
        lambda x: x + torch.arange(8, device=x.device).view(1, 8, 1, 1),
        lambda x: x.transpose(1, 3) if x.shape[1] == 8 else x,
        lambda x: torch.nn.functional.max_pool2d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2),
        lambda x: x.prod(1, keepdim=True).expand(2, 8, 8, 8),
    ],
)
def test_the_reasons_of_single_operators(
    network: Callable[..., Any], change: Callable[[Tensor], Tensor]
) -> None:
    made = network(lambda net, x: net.last(change(net.first(x).relu())), first=conv(3, 8), last=conv(8, 2))
    graph = prunelab.analyze(made, IMAGES[..., :8, :8])
    assert "first" in {group.name for group in graph.frozen}
    assert malformed(graph) == []


def test_the_reasons_of_unused_and_single_channels(network: Callable[..., Any]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.unread(x)
        return net.last(net.narrow(x).relu())

    layers = {"unread": conv(3, 8), "narrow": conv(3, 1), "last": conv(1, 2)}
    assert malformed(prunelab.analyze(network(forward, **layers), IMAGES)) == []


def test_inexact_groups_that_stay(network: Callable[..., Any]) -> None:
    made = nn.Sequential(conv(3, 8), nn.GroupNorm(1, 8), conv(8, 2))
    graph = prunelab.analyze(made, IMAGES, exact=True)
    assert [group.frozen for group in graph.frozen if group.name == "0"] == [
        "not exact: native_group_norm over channels (in 1)"
    ]
    assert malformed(graph) == []


class Checks(nn.Module):
    """The program checks its width, as Hugging Face's patch embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[1] != 8:
            raise ValueError("Make sure that there are 8 channels.")
        return self.head(x)


def test_an_error_that_the_program_raises_is_a_reason() -> None:
    graph = prunelab.analyze(Checks(), IMAGES)
    (reason,) = (group.frozen for group in graph.frozen if group.name == "stem")
    assert reason is not None
    assert "raises ValueError" in reason
    assert "Make sure that there are 8 channels." in reason
    assert malformed(graph) == []
