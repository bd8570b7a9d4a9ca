"""Tensors too large to keep: computed part by part, and once more in the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_parts(function: Callable[..., Tensor], *rows: Tensor, row_size: int, part_size: int) -> Tensor:
    """Apply *function* to rows, a few at a time, and concatenate what it returns.

    Where it takes more than one part, nothing within *function* is kept for the backward pass, which
    computes each part again: the peak is one part's, whatever the number of rows. Exact, at the cost of
    one more forward pass.

    Args:
        function: From rows [n, …] to [n, …], each row on its own; it must draw no random numbers and keep no
            statistics, as it runs twice.
        rows: Tensors with the same number of rows.
        row_size: Numbers that the largest tensor within *function* has per row.
        part_size: Numbers that it may have at a time, unless one row alone has more.
    """
    at_once = max(1, part_size // max(1, row_size))
    if len(rows[0]) <= at_once:
        return function(*rows)
    parts = zip(*(tensor.split(at_once) for tensor in rows), strict=True)
    return torch.cat(
        [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )
