"""What scoring takes of the GPU's memory is bounded by the batch, not by the number of images."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import timm
import torch

from prunelab.cli.config import configure
from prunelab.steps.setup import made

GIB = 2**30


@pytest.mark.parametrize("name", ["hrank", "taylor", "entropy", "apoz", "nisp", "pfa"])
def test_the_peak_of_scoring_does_not_grow_with_the_images(name: str) -> None:
    peaks = []
    for count in (2, 6):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        method: Any = made(
            configure(["data=digits", "budget.flops=0.5", f"method={name}"])["method"], "method"
        )
        torch.manual_seed(0)
        model = timm.create_model("resnet50", num_classes=10).cuda()
        batches = [(torch.randn(8, 3, 128, 128), torch.randint(10, (8,))) for _ in range(count)]
        context = method.context(model, batches[0][0][:1], batches, torch.device("cuda", 0))
        method.decide(context)
        peaks.append(torch.cuda.max_memory_allocated())
        del model, context
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 4 * GIB
