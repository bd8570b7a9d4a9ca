"""The order of an epoch's samples: a pure function of (dataset fingerprint, seed, epoch).

It does not depend on the number of workers: the k-th global batch holds the same samples for any world size,
and each worker reads its slice of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lglm_core import seeds


def epoch_order(fingerprint: str, seed: int, epoch: int, samples: int) -> np.ndarray:
    """Return the order in which an epoch reads the samples: a permutation of range(samples), int64."""
    return seeds.rng("order", fingerprint, seed, epoch).permutation(samples)


@dataclass(frozen=True)
class BatchSlice:
    """One worker's slice of one global batch.

    ``rows``, int64 [b], index the split; ``weights``, float32 [b], are 1 for a sample and 0 for padding;
    ``total_weight`` is the number of samples in the global batch, over all workers and without padding.
    """

    rows: np.ndarray
    weights: np.ndarray
    total_weight: int


def batch_slices(
    order: np.ndarray, batch_size: int, rank: int, world_size: int, first: int = 0
) -> Iterator[BatchSlice]:
    """Divide an epoch into global batches and yield this worker's slice of each.

    Every worker gets the same number of slices, all of the same size b = ⌈batch_size / world_size⌉. Slices
    that would be shorter are padded with samples of weight 0 from the beginning of the order, so that batch
    statistics are computed from real images.

    Args:
        order: The rows of the split in the order of the epoch, int64 [N].
        batch_size: The number of samples in a global batch.
        rank: This worker's number, from 0.
        world_size: The number of workers.
        first: The position in *order* where the first batch begins; the samples before it are done.
    """
    per_worker = -(-batch_size // world_size)
    for start in range(first, len(order), batch_size):
        batch = order[start : start + batch_size]
        positions = np.arange(rank * per_worker, (rank + 1) * per_worker)
        real = positions < len(batch)
        rows = np.where(
            real, np.resize(batch, world_size * per_worker)[positions], order[positions % len(order)]
        )
        yield BatchSlice(rows, real.astype(np.float32), len(batch))


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Return the number of global batches, and thus of optimiser steps, in one epoch."""
    return -(-samples // batch_size)
