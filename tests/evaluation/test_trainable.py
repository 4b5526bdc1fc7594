"""A network can be trained after a measurement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunelab.evaluation.accuracy import accuracy
from prunelab.evaluation.latency import forward_times


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_measured_network_can_be_trained(memory_format: torch.memory_format) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    batches = [(torch.rand(6, 3, 8, 8), torch.arange(6) % 5)]
    accuracy(network, batches, 5, torch.device("cpu"), memory_format)
    forward_times([network], (3, 8, 8), 2, torch.device("cpu"), memory_format, seconds=0.01)
    network(batches[0][0]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
