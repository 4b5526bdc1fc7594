"""Adaptive batch normalisation measures the statistics of the images and changes nothing else."""

from __future__ import annotations

import torch
from torch import nn

from prunelab.methods.search.batch_norm import adapt_batch_norm


def test_statistics_are_the_mean_over_batches_in_any_order() -> None:
    batches = [torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n)) + n for n in (8, 8, 6)]
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(100.0)  # forgotten
    adapt_batch_norm(nn.Sequential(norm), batches)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    assert torch.allclose(norm.running_mean, mean) and torch.allclose(norm.running_var, variance)
    again = nn.BatchNorm2d(3)
    adapt_batch_norm(nn.Sequential(again), batches[::-1])
    assert torch.allclose(norm.running_mean, again.running_mean)
    assert norm.momentum == 0.1 and not norm.training


def test_weights_and_other_layers_are_unchanged() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4)).train()
    images = torch.randn(8, 3, 4, 4)
    weights = [parameter.clone() for parameter in network.parameters()]
    adapt_batch_norm(network, [images])
    assert all(torch.equal(old, new) for old, new in zip(weights, network.parameters(), strict=True))
    assert torch.allclose(network[2].running_mean, network[0](images).mean(dim=(0, 2, 3)), atol=1e-6)


def test_a_network_without_running_statistics_is_unchanged() -> None:
    adapt_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), [torch.randn(2, 3, 4, 4)])
