"""Images in GPU memory: batches made there are those made on the CPU, to the bit."""

from __future__ import annotations

import pytest
import torch

from prunelab.data import Digits
from prunelab.errors import UserError


def ready(**settings: object) -> Digits:
    data = Digits(batch_size=50, **settings)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def test_batches_are_made_on_the_gpu_and_are_those_of_the_cpu() -> None:
    here, there = ready(crop_padding=1), ready(crop_padding=1)
    there.move_to(torch.device("cuda", 0))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        count = 0
        for ours, theirs in zip(getattr(here, loader)(), getattr(there, loader)(), strict=True):
            assert all(tensor.is_cuda for tensor in theirs)
            assert all(torch.equal(mine, other.cpu()) for mine, other in zip(ours, theirs, strict=True))
            count += 1
        assert count >= 1


def test_images_that_do_not_fit_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 80 << 30))
    with pytest.raises(UserError, match=r"trainer\.images_on_device=false"):
        ready().move_to(torch.device("cuda", 0))
