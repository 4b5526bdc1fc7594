"""With gates of 0 and 1 the network computes the same as the pruned one, for any readers of the channels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.methods.learning.gates import Gates
from prunelab.models import build


class Concatenated(nn.Module):
    """Two groups read by one convolution, one of them by a depthwise one first, and by a matrix after flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.both = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        left, right = torch.relu(self.left(images)), self.depthwise(torch.relu(self.right(images)))
        return self.head(torch.relu(self.both(torch.cat([left, right], dim=1))).flatten(1))


def zero_padded() -> nn.Module:
    return build("cifar_resnet20", num_classes=10, in_chans=3)


def mobile() -> nn.Module:
    return build("mobilenetv2_050", num_classes=10, in_chans=3)


@pytest.mark.parametrize("make", [Concatenated, zero_padded, mobile])
def test_closed_gates_compute_what_the_pruned_network_computes(make: Any) -> None:
    torch.manual_seed(0)
    network, images = make().eval(), torch.randn(2, 3, 4, 4)
    if make is not Concatenated:
        images = torch.randn(2, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-0.5, 0.5)  # removed channels would have an effect
    graph = prunelab.analyze(network, images)
    kept = {group.name: range(0, group.size, 2) for group in graph.groups}
    pruned = prunelab.apply(copy.deepcopy(network), graph.plan(kept))
    before, names = network(images).detach(), list(dict(network.named_parameters()))

    gates = Gates(network, graph.groups)

    def close_every_other_channel(*_: Any) -> None:
        for group in graph.groups:
            gates.set(group.name, (torch.arange(group.size) % 2 == 0).float())

    handle = network.register_forward_pre_hook(close_every_other_channel)
    found = network(images)
    scale = float(before.abs().max())
    assert torch.allclose(found, pruned(images), atol=1e-4 * scale)
    assert not torch.allclose(found, before, atol=1e-2 * scale)
    assert all(
        network.get_parameter(name) is not None for name in names
    )  # between passes weights are themselves
    handle.remove()
    gates.remove()
    assert torch.equal(network(images), before)
