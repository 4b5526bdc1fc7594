"""Forward times on the GPU are times of its kernels, not of the calls that launch them."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

from prunelab.evaluation import forward_times


class Products(nn.Module):
    """``count`` products of matrices of 4096 x 4096: a known number of operations and few launches."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4096, 4096) / 64)
        self.count = count

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        product = images.flatten(1)
        for _ in range(self.count):
            product = product @ self.weight
        return product


ATTEMPTS = 5
"""Other tests use the GPU at the same time (``pytest -n 4``), so some pairs of measurements differ."""


@pytest.mark.usefixtures("measures")
def test_times_are_those_of_the_work(device: torch.device) -> None:
    one, ten = Products(1), Products(10)
    found = []
    for _ in range(ATTEMPTS):
        passes = forward_times([one, ten], (1, 64, 64), 4096, device, seconds=0.5)
        times = [statistics.median(each) for each in passes]
        expected = milliseconds_between_events(ten, device)
        found.append((*times, expected))
        if 6 < times[1] / times[0] < 14 and times[1] == pytest.approx(expected, rel=0.25):
            return
    pytest.fail(f"one product, ten products, ten by events (ms): {found}")


def milliseconds_between_events(network: nn.Module, device: torch.device, passes: int = 20) -> float:
    """The mean time of a pass, without waiting in between."""
    network.to(device)
    images = torch.rand(4096, 1, 64, 64, device=device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode():
        network(images)
        torch.cuda.synchronize(device)
        begin.record()
        for _ in range(passes):
            network(images)
        end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / passes


def test_networks_end_on_the_cpu(device: torch.device) -> None:
    network = Products(1).train()
    forward_times([network], (1, 64, 64), 1, device, torch.channels_last, seconds=0.0)
    assert not network.weight.is_cuda
    assert network.training
