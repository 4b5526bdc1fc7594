"""Images in GPU memory: batches made there are those made on the CPU, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunelab.data import Digits
from prunelab.data.augment import BatchTransform
from prunelab.data.order import Shard
from prunelab.data.sources import MemoryImages


def ready(**settings: object) -> Digits:
    data = Digits(batch_size=50, **settings)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def test_batches_are_made_on_the_gpu_and_are_those_of_the_cpu(device: torch.device) -> None:
    here, there = ready(crop_padding=1), ready(crop_padding=1)
    there.move_to(device)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        count = 0
        for ours, theirs in zip(getattr(here, loader)(), getattr(there, loader)(), strict=True):
            assert all(tensor.device == device for tensor in theirs)
            assert all(torch.equal(mine, other.cpu()) for mine, other in zip(ours, theirs, strict=True))
            count += 1
        assert count >= 1


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 3)])
def test_crops_and_flips_are_those_of_the_cpu(shard: Shard, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    transform = BatchTransform((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), crop_padding=4, flip=True)
    here, there = (MemoryImages(pixels, np.arange(40) % 10, transform) for _ in range(2))
    there.move_to(device)
    indices = np.random.default_rng(0).permutation(40)[:16]
    ours, theirs = (
        source.batch(indices, torch.Generator().manual_seed(3), shard) for source in (here, there)
    )
    assert all(tensor.device == device for tensor in theirs)
    assert all(torch.equal(mine, other.cpu()) for mine, other in zip(ours, theirs, strict=True))
