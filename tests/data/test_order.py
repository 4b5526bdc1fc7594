from __future__ import annotations

import numpy as np
import pytest

from prunelab.data.order import BatchOrder, Shard, balanced_order, permutation
from prunelab.errors import UserError


def ranks(count: int, **options) -> list[BatchOrder]:
    return [BatchOrder(shard=Shard(rank, count), **options) for rank in range(count)]


def test_permutation_is_fixed_by_its_key():
    assert sorted(permutation(100, 3, 1)) == list(range(100))
    assert np.array_equal(permutation(100, 3, 1), permutation(100, 3, 1))
    assert not np.array_equal(permutation(100, 3, 1), permutation(100, 3, 2))
    # numpy guarantees the stream of PCG64: these values are the same on every machine.
    assert permutation(6, 0).tolist() == [3, 2, 1, 0, 4, 5]


def test_every_prefix_of_a_balanced_order_is_balanced():
    targets = np.repeat([0, 1, 2], [50, 5, 20])
    order = balanced_order(targets, seed=4)
    assert sorted(order) == list(range(75))
    for count in range(1, 16):  # until class 1 is used up
        found = np.bincount(targets[order[:count]], minlength=3)
        assert found.max() - found.min() <= 1
    assert np.bincount(targets[order[:45]]).tolist() == [20, 5, 20]


def test_a_balanced_order_depends_on_its_seed():
    targets = np.arange(60) % 3
    assert np.array_equal(balanced_order(targets, 1), balanced_order(targets, 1))
    assert not np.array_equal(balanced_order(targets, 1), balanced_order(targets, 2))


def test_training_batches_are_full_and_reshuffled():
    order = BatchOrder(np.arange(100, 123), batch_size=5, shuffle_seed=0)
    first, second = (np.concatenate(order.batches(epoch)) for epoch in (0, 1))
    assert len(order) == 4
    assert [len(batch) for batch in order.batches(0)] == [5, 5, 5, 5]
    assert len(set(first)) == 20 and set(first) <= set(range(100, 123))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.concatenate(order.batches(0)))


def test_images_that_one_epoch_leaves_out_are_in_another():
    order = BatchOrder(np.arange(23), batch_size=5, shuffle_seed=0)
    seen = {int(index) for epoch in range(8) for batch in order.batches(epoch) for index in batch}
    assert seen == set(range(23))


def test_fewer_training_images_than_a_batch_make_one_batch():
    order = BatchOrder(np.arange(3), batch_size=64, shuffle_seed=0)
    assert len(order) == 1
    assert sorted(order.batches(0)[0]) == [0, 1, 2]


def test_evaluation_batches_hold_every_image_once_in_order():
    order = BatchOrder(np.arange(10), batch_size=4)
    assert [batch.tolist() for batch in order.batches(0)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [batch.tolist() for batch in order.batches(7)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("images", [8, 9, 31, 64])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_ranks_share_a_training_epoch_fairly(images: int, batch_size: int, count: int):
    if images < batch_size * count and images % count:
        return  # an error, see below
    orders = ranks(count, indices=np.arange(images), batch_size=batch_size, shuffle_seed=1)
    batches = [order.batches(epoch=2) for order in orders]
    seen = [int(index) for part in batches for batch in part for index in batch]
    assert len(set(seen)) == len(seen)
    assert len({len(part) for part in batches}) == 1 == len({len(order) for order in orders})
    assert len({len(batch) for part in batches for batch in part}) == 1
    assert len(batches[0]) == len(orders[0])


@pytest.mark.parametrize("images", [8, 9, 31, 64])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_ranks_evaluate_every_image_once(images: int, batch_size: int, count: int):
    orders = ranks(count, indices=np.arange(images), batch_size=batch_size)
    batches = [order.batches(epoch=0) for order in orders]
    assert sorted(int(index) for part in batches for batch in part for index in batch) == list(range(images))
    assert {len(part) for part in batches} == {len(orders[0])}
    sizes = {len(batch) for part in batches for batch in part}
    assert min(sizes) >= 1 and max(sizes) <= max(batch_size, 2)


def test_more_processes_than_images_is_an_error():
    with pytest.raises(UserError, match=r"3 image\(s\) are too few for 4 processes"):
        BatchOrder(np.arange(3), batch_size=1, shard=Shard(0, 4))


def test_without_a_process_group_one_process_reads_everything():
    assert Shard.of_this_process() == Shard(rank=0, ranks=1)


def test_a_small_training_set_that_cannot_be_divided_evenly_is_an_error():
    """One process would train with all five images, two with four."""
    with pytest.raises(UserError, match=r"5 training images.*data\.batch_size=16.*2 processes"):
        BatchOrder(np.arange(5), batch_size=8, shard=Shard(0, 2), shuffle_seed=0)
    assert len(BatchOrder(np.arange(6), batch_size=8, shard=Shard(0, 2), shuffle_seed=0).batches(0)[0]) == 3
