"""The order of an epoch: a pure function of (dataset fingerprint, seed, epoch).

How many workers read it does not enter: the k-th global batch is the same samples on any world
size, and each worker takes its share of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lglm_core import seeds


def epoch_order(fingerprint: str, seed: int, epoch: int, samples: int) -> np.ndarray:
    """Return a permutation of range(samples), int64."""
    return seeds.rng("order", fingerprint, seed, epoch).permutation(samples)


@dataclass(frozen=True)
class BatchSlice:
    """One worker's part of one global batch.

    ``rows`` index the split; ``weights`` are 1, or 0 for padding; ``total_weight`` counts the real
    samples of the global batch, over all workers.
    """

    rows: np.ndarray
    weights: np.ndarray
    total_weight: int


def batch_slices(
    order: np.ndarray, batch_size: int, rank: int, world_size: int, first: int = 0
) -> Iterator[BatchSlice]:
    """Divide an epoch into global batches of *batch_size*, and yield this worker's part of each.

    The first batch begins at the position *first*, in samples of the epoch; those before it are done. Every
    worker gets the same number of equally large parts: the tail is filled up with samples from the order's
    beginning, at weight zero, so that batch statistics see real pictures.
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
    """How many optimiser steps one epoch takes."""
    return -(-samples // batch_size)
