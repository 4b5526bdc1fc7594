from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from prunelab.data import Digits
from prunelab.data.augment import BatchTransform
from prunelab.data.loader import Batch, BatchLoader
from prunelab.data.order import BatchOrder, Shard
from prunelab.data.sources import MemoryImages
from prunelab.errors import UserError


class Numbers:
    """A source whose images are their own indices, plus a random number when augmented."""

    def __init__(self, count: int, num_workers: int = 0, broken: int | None = None) -> None:
        self.targets = np.arange(count)
        self.num_workers = num_workers
        self.broken = broken

    def batch(self, indices: np.ndarray, augment: torch.Generator | None, shard: Shard) -> Batch:
        if self.broken in indices:
            raise UserError(f"Cannot read the image {self.broken}.png")
        images = torch.from_numpy(indices).float()
        if augment is not None:
            images = images + torch.rand(len(indices), generator=augment)
        return images, torch.from_numpy(indices)


def numbers_loader(num_workers: int = 0, seed: int = 0, broken: int | None = None) -> BatchLoader:
    order = BatchOrder(np.arange(20), batch_size=5, shuffle_seed=seed)
    return BatchLoader(Numbers(20, num_workers, broken), order, augment_seed=seed)


def images_of(loader: BatchLoader) -> list[float]:
    return torch.cat([images for images, _ in loader]).tolist()


def test_epochs_advance_by_themselves():
    loader = numbers_loader()
    first, second = images_of(loader), images_of(loader)
    assert first != second
    again = numbers_loader()
    assert [images_of(again), images_of(again)] == [first, second]


def test_set_epoch_chooses_the_epoch():
    loader = numbers_loader()
    epochs = [images_of(loader) for _ in range(3)]
    loader.sampler.set_epoch(1)
    assert images_of(loader) == epochs[1]
    assert images_of(loader) == epochs[2]


def test_set_epoch_counts_even_after_the_iterator_was_made():
    loader = numbers_loader()
    epochs = [images_of(loader) for _ in range(3)]
    batches = iter(loader)
    loader.set_epoch(2)
    assert torch.cat([images for images, _ in batches]).tolist() == epochs[2]


def test_seeds_give_different_orders_and_augmentations():
    assert images_of(numbers_loader(seed=0)) != images_of(numbers_loader(seed=1))


def test_neither_workers_nor_global_random_numbers_change_a_batch():
    torch.manual_seed(1)
    expected = images_of(numbers_loader(num_workers=0))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert images_of(numbers_loader(num_workers=2)) == expected
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_message_about_an_unreadable_image_arrives_as_it_was_written(num_workers: int):
    with pytest.raises(UserError) as caught:
        images_of(numbers_loader(num_workers, broken=7))
    assert str(caught.value) == "Cannot read the image 7.png"


def test_images_in_memory_keep_their_classes():
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    source = MemoryImages(images, np.array([5, 4, 3, 2, 1, 0]), BatchTransform((0.0,), (1 / 255,)))
    pixels, targets = source.batch(np.array([4, 0]), None)
    assert pixels.flatten().tolist() == pytest.approx([4.0, 0.0])
    assert targets.tolist() == [1, 5] and targets.dtype == torch.int64


class Watcher(pl.LightningModule):
    """Trains one weight and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: list[tuple[int, float]] = []
        self.evaluated = {"val": 0, "test": 0}

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        images, targets = batch
        self.seen.append((self.current_epoch, images.double().sum().item()))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), targets)

    def validation_step(self, batch: Batch, index: int) -> None:
        self.evaluated["val"] += len(batch[0])

    def test_step(self, batch: Batch, index: int) -> None:
        self.evaluated["test"] += len(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, epochs: int) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet
    )


def test_a_lightning_trainer_runs_and_resumes_the_same_epochs(tmp_path: Path):
    whole = Watcher()
    trainer(tmp_path, 3).fit(whole, Digits(batch_size=256))
    data = Digits(batch_size=256)
    data.setup()
    loader = data.train_dataloader()
    expected = [(epoch, images.double().sum().item()) for epoch in range(3) for images, _ in loader]
    assert whole.seen == expected

    first_part = trainer(tmp_path, 2)
    first_part.fit(Watcher(), Digits(batch_size=256))
    first_part.save_checkpoint(tmp_path / "two.ckpt")
    resumed = Watcher()
    trainer(tmp_path, 3).fit(resumed, Digits(batch_size=256), ckpt_path=tmp_path / "two.ckpt")
    assert resumed.seen == [entry for entry in expected if entry[0] == 2]


def test_lightning_evaluates_every_image(tmp_path: Path):
    watcher, data = Watcher(), Digits()
    trainer(tmp_path, 1).validate(watcher, data, verbose=False)
    trainer(tmp_path, 1).test(watcher, data, verbose=False)
    assert watcher.evaluated == {"val": len(data.val), "test": 360}


def test_images_that_do_not_fit_into_the_memory_of_a_gpu_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than half of what is free: 3000 of 5000 bytes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5000, 80 << 30))
    images = torch.zeros(30, 1, 10, 10, dtype=torch.uint8)
    source = MemoryImages(images, np.zeros(30, dtype=np.int64), BatchTransform((0.5,), (0.5,)))
    with pytest.raises(UserError, match=r"trainer\.images_on_device=false"):
        source.move_to(torch.device("cuda", 0))
