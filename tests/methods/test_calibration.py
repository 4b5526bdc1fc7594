from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from prunelab.errors import UserError
from prunelab.methods.calibration import Calibration, unpack_batch

CPU = torch.device("cpu")
IMAGES, TARGETS = torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10)


def read(calibration: Calibration) -> list[list[int]]:
    """The images of each batch, by number; targets must go with them."""
    read = []
    for images, targets in calibration.batches(CPU):
        assert images.flatten().tolist() == targets.tolist()
        read.append(targets.tolist())
    return read


def loader(**settings: Any) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=4, **settings)


def test_it_stops_at_the_number_of_images() -> None:
    assert read(Calibration(loader(), images=6)) == [[0, 1, 2, 3], [4, 5]]
    assert read(Calibration(loader(), images=99)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_ranks_share_the_batches_of_one_process() -> None:
    shares = [read(Calibration(loader(), images=9, rank=rank, ranks=2)) for rank in (0, 1)]
    assert shares == [[[0, 1, 2, 3], [8]], [[4, 5, 6, 7]]]


def test_a_loader_that_already_deals_out_shares_is_read_as_it_is() -> None:
    sampler = DistributedSampler(TensorDataset(IMAGES), num_replicas=2, rank=1, shuffle=False)
    dealt = Calibration(loader(sampler=sampler), images=6, rank=1, ranks=2)
    assert read(dealt) == [[1, 3, 5]]


def test_the_state_of_a_shuffling_generator_is_restored() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    read(Calibration(loader(shuffle=True, generator=generator), images=6))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("batch", "has_targets"),
    [
        (IMAGES, False),
        ((IMAGES, TARGETS), True),
        ([IMAGES, TARGETS, "names"], True),
        ([IMAGES], False),
        ({"pixel_values": IMAGES, "labels": TARGETS}, True),
        ({"image": IMAGES}, False),
    ],
)
def test_ordinary_batches_are_understood(batch: Any, has_targets: bool) -> None:
    images, targets = unpack_batch(batch)
    assert images is IMAGES
    assert (targets is TARGETS) == has_targets


@pytest.mark.parametrize("batch", [{"left": IMAGES}, "text", (), {}])
def test_other_batches_are_errors(batch: Any) -> None:
    with pytest.raises(UserError, match=r"No images found.*unpack="):
        unpack_batch(batch)


def test_other_batches_can_be_unpacked_by_the_user() -> None:
    batches = [{"left": IMAGES, "class": TARGETS}]
    calibration = Calibration(batches, unpack=lambda batch: (batch["left"], batch["class"]))
    assert read(calibration) == [list(range(10))]


def test_at_least_one_image_is_required() -> None:
    with pytest.raises(UserError, match="images=0"):
        Calibration(loader(), images=0)
