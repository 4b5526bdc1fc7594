"""Two Lightning DDP processes share the digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from prunelab.data import Digits
from prunelab.data.order import BatchOrder, Shard

pytestmark = pytest.mark.ddp

SCRIPT = """
import json, sys
import pytorch_lightning as pl, torch
from prunelab.data import Digits

def sums(images):  # as good as a name for an image
    return images.double().sum((1, 2, 3)).tolist()

class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen = {"train": [], "val": [], "calibration": []}

    def training_step(self, batch, index):
        self.seen["train"].append(sums(batch[0]))
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, index):
        self.seen["val"].append(sums(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    module, data = Recorder(), Digits(batch_size=100, eval_batch_size=64, crop_padding=0)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=2, enable_checkpointing=False, enable_progress_bar=False,
    )
    trainer.fit(module, data)
    module.seen["calibration"] = [sums(images) for images, _ in data.calibration_dataloader(50)]
    with open(f"{sys.argv[1]}/rank{trainer.global_rank}.json", "w") as file:
        json.dump(module.seen, file)
    torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter
"""

Seen = dict[str, list[list[float]]]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """The sum of the pixels of each image that each of two processes read, batch by batch."""
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "two_ranks.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(crop_padding=0)
    data.setup()
    return data


def sums_of(data: Digits, indices: np.ndarray) -> list[float]:
    images, _ = data.train.source.batch(indices, None)
    return images.double().sum((1, 2, 3)).tolist()


def test_each_rank_trains_on_its_own_part_of_each_epoch(two_ranks: list[Seen], digits: Digits):
    for rank, seen in enumerate(two_ranks):
        order = BatchOrder(digits.train.indices, 100, Shard(rank, 2), shuffle_seed=0)
        expected = [sums_of(digits, batch) for epoch in range(2) for batch in order.batches(epoch)]
        assert len(expected) == 2 * 6  # 1,293 images, 2 processes, 100 a batch
        assert seen["train"] == expected


def test_both_ranks_together_validate_every_image_once(two_ranks: list[Seen], digits: Digits):
    found = [total for seen in two_ranks for batch in seen["val"] for total in batch]
    assert sorted(found) == sorted(sums_of(digits, digits.val.indices))
    assert [len(seen["val"]) for seen in two_ranks] == [2, 2]  # 144 images, 2 processes, up to 64 a batch


def test_both_ranks_calibrate_on_the_same_images(two_ranks: list[Seen]):
    assert two_ranks[0]["calibration"] == two_ranks[1]["calibration"]
    assert sum(map(len, two_ranks[0]["calibration"])) == 50
