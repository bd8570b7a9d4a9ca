"""Recomputation of tensors that are too large to keep: in chunks, and again in the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(function: Callable[..., Tensor], *rows: Tensor, row_size: int, chunk_size: int) -> Tensor:
    """Apply *function* to chunks of rows and concatenate the results.

    With more than one chunk, nothing within *function* is kept for the backward pass, which computes each
    chunk again. So the peak memory is that of one chunk, whatever the number of rows, at the cost of one more
    forward pass; the result is exact.

    Args:
        function: Maps rows [n, …] to rows [n, …], each independently of the others. It must draw no random
            numbers and keep no statistics, because it runs twice.
        rows: Tensors with the same number of rows.
        row_size: How many numbers the largest tensor within *function* holds per row.
        chunk_size: The most numbers that this tensor may hold at a time, unless a single row holds more.
    """
    chunk_rows = max(1, chunk_size // max(1, row_size))
    if len(rows[0]) <= chunk_rows:
        return function(*rows)
    chunks = zip(*(tensor.split(chunk_rows) for tensor in rows), strict=True)
    return torch.cat(
        [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )
