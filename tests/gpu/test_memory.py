"""The GPU memory of scoring depends on the size of a batch, not on the number of images."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from prunelab.cli.config import configure
from prunelab.steps.setup import made

GIB = 2**30


@pytest.mark.parametrize("name", ["hrank", "taylor", "entropy", "apoz", "nisp", "pfa"])
def test_the_peak_of_scoring_does_not_grow_with_the_images(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=10).to(device)
    peaks = []
    for count in (2, 6):
        batches = [(torch.randn(8, 3, 128, 128), torch.randint(10, (8,))) for _ in range(count)]
        config = configure(["data=digits", "budget.flops=0.5", f"method={name}"])
        method: Any = made(config["method"], "method")
        context = method.context(model, batches[0][0][:1], batches, device)
        peaks.append(peak_bytes(lambda: method.decide(context), device))  # noqa: B023 - called at once
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 4 * GIB


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The largest sum of allocated tensors during ``work``; 1 in a rehearsal."""
    if device.type == "cpu":
        work()
        return 1
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)
