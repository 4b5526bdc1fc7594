"""Forward times: measured in turns, in limited time."""

from __future__ import annotations

import re
import statistics
import time

import torch
from torch import Tensor, nn

from prunelab.evaluation import forward_times

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """A network that takes a known time and records its calls."""

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        super().__init__()
        self.name = name
        self.seconds = seconds
        self.calls = calls

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return images


def test_medians_of_passes_in_turns() -> None:
    calls: list[str] = []
    slow, fast = Sleeper("slow", 0.006, calls), Sleeper("fast", 0.002, calls)
    passes = forward_times([slow, fast], (1, 2, 2), 3, CPU, seconds=0.08)
    times = [statistics.median(each) for each in passes]
    assert times[0] >= 6
    assert 2 <= times[1] < times[0]
    turns = "".join(name[0] for name in calls)
    assert re.fullmatch("s+f+(sf){3,}", turns)
    assert slow.training


def test_slow_networks_are_timed_three_times_and_fast_ones_a_hundred_times() -> None:
    calls: list[str] = []
    forward_times([Sleeper("slow", 0.02, calls)], (1, 1, 1), 1, CPU, seconds=0.01)
    assert len(calls) == 1 + 3
    calls.clear()
    forward_times([Sleeper("fast", 0, calls)], (1, 1, 1), 1, CPU, seconds=5)
    assert len(calls) == 100 + 100


def test_a_layer_in_another_mode_than_its_network_keeps_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    network[1].eval()  # frozen statistics
    forward_times([network], (3, 2, 2), 1, CPU, seconds=0.01)
    assert network.training and network[0].training and not network[1].training
