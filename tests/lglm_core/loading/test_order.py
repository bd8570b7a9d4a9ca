import numpy as np
import pytest

from lglm_core import seeds
from lglm_core.loading.order import batch_slices, epoch_order, steps_per_epoch

CASES = [(n, b) for n in (1, 2, 7, 23, 64) for b in (1, 2, 3, 4, 7, 8, 32, 100)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_sample_is_read_exactly_once(world_size: int):
    for samples, batch_size in CASES:
        order = epoch_order("f", 0, 0, samples)
        read = [
            row
            for rank in range(world_size)
            for batch_slice in batch_slices(order, batch_size, rank, world_size)
            for row in batch_slice.rows[batch_slice.weights == 1]
        ]
        assert sorted(read) == list(range(samples)), (samples, batch_size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_rank_takes_the_same_number_of_equally_large_steps(world_size: int):
    for samples, batch_size in CASES:
        order = np.arange(samples)
        sizes = {
            tuple(len(batch_slice.rows) for batch_slice in batch_slices(order, batch_size, rank, world_size))
            for rank in range(world_size)
        }
        assert len(sizes) == 1 and len(set(sizes.pop())) == 1, (samples, batch_size)
        assert len(list(batch_slices(order, batch_size, 0, world_size))) == steps_per_epoch(
            samples, batch_size
        )


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_kth_global_batch_is_the_same_on_any_number_of_workers(world_size: int):
    for samples, batch_size in CASES:
        order = epoch_order("f", 0, 0, samples)
        alone = [
            batch_slice.rows[batch_slice.weights == 1].tolist()
            for batch_slice in batch_slices(order, batch_size, 0, 1)
        ]
        ranks = [batch_slices(order, batch_size, rank, world_size) for rank in range(world_size)]
        together = [
            [row for batch_slice in parts for row in batch_slice.rows[batch_slice.weights == 1].tolist()]
            for parts in zip(*ranks, strict=True)
        ]
        assert together == alone, (samples, batch_size)


def test_the_total_weight_counts_the_real_samples_of_all_ranks():
    for world_size in (1, 2, 3, 4):
        for samples, batch_size in CASES:
            ranks = [
                batch_slices(np.arange(samples), batch_size, rank, world_size) for rank in range(world_size)
            ]
            for parts in zip(*ranks, strict=True):
                assert {part.total_weight for part in parts} == {sum(part.weights.sum() for part in parts)}


def test_padding_points_at_real_samples():
    for samples, batch_size in CASES:
        for rank in range(4):
            for batch_slice in batch_slices(epoch_order("f", 0, 0, samples), batch_size, rank, 4):
                assert ((batch_slice.rows >= 0) & (batch_slice.rows < samples)).all()


def test_the_order_is_a_permutation():
    assert sorted(epoch_order("f", 1, 2, 1000)) == list(range(1000))


def test_the_order_is_pure():
    np.testing.assert_array_equal(epoch_order("f", 1, 2, 100), epoch_order("f", 1, 2, 100))


def test_the_order_changes_with_fingerprint_seed_and_epoch():
    orders = {
        tuple(epoch_order(*names, 50)) for names in (("f", 1, 2), ("g", 1, 2), ("f", 2, 2), ("f", 1, 3))
    }
    assert len(orders) == 4


def test_the_order_stays_what_it_was():
    """A run that a later version resumes must continue in the same order."""
    assert epoch_order("fingerprint", 0, 0, 100)[:10].tolist() == [99, 18, 45, 11, 70, 48, 51, 64, 69, 78]


def test_every_position_is_equally_likely():
    """Over 400 epochs sample 0 is 100 times in each quarter, within 4 deviations of 8.7."""
    places = [int(np.flatnonzero(epoch_order("f", 0, epoch, 40) == 0)[0]) for epoch in range(400)]
    assert np.abs(np.histogram(places, 4, (0, 40))[0] - 100).max() < 35


def test_generators_of_other_names_are_independent():
    drawn = np.stack([seeds.rng("view", 0, 0, row).random(500) for row in range(6)])
    assert np.abs(np.corrcoef(drawn) - np.eye(6)).max() < 0.2


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_give_the_same_order_as_plain_ones(kind: type[np.integer]):
    ours = epoch_order(np.str_("f"), kind(0), kind(3), 50)
    np.testing.assert_array_equal(ours, epoch_order("f", 0, 3, 50))
