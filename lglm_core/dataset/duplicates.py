"""Images with the same bytes under two keys."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lglm_core.dataset.layout import DUPLICATES_SCHEMA
from lglm_core.dataset.receipt import Receipt


def find_duplicates(receipts: Sequence[Receipt], existing: Mapping[str, pa.Table] | None = None) -> pa.Table:
    """Return the samples of *receipts* whose bytes another sample has too, as a DUPLICATES_SCHEMA table.

    Of several, the first is one that the dataset has already, else one that is not in ``train``, so that what
    a model is measured on stays whole, else the one of the earliest shard. The first is not in the table.

    Args:
        existing: The index of each split of the dataset that the receipts are appended to.
    """
    tables = [_described(index, split, 0) for split, index in (existing or {}).items()]
    tables += [_described(r.index, r.split, 2 if r.split == "train" else 1) for r in receipts]
    if not tables:
        return DUPLICATES_SCHEMA.empty_table()
    everything = pa.concat_tables(tables)
    digests = everything.column("sha256").to_numpy().astype("S64")
    ranks = everything.column("rank").to_numpy()
    order = np.lexsort((np.arange(len(ranks)), ranks, digests))
    repeats = np.flatnonzero(digests[order][1:] == digests[order][:-1]) + 1
    starts = np.flatnonzero(np.r_[True, digests[order][1:] != digests[order][:-1]])
    first = order[starts[np.searchsorted(starts, repeats, side="right") - 1]]
    new = ranks[order[repeats]] > 0
    later, first = order[repeats][new], first[new]
    in_order = np.argsort(later, kind="stable")
    return _table(everything, later[in_order], first[in_order])


def twins_by_shard(duplicates: pa.Table) -> dict[str, dict[str, str]]:
    """Return what each duplicate is a duplicate of, by shard and key."""
    found: dict[str, dict[str, str]] = {}
    for row in duplicates.to_pylist():
        found.setdefault(row["shard"], {})[row["key"]] = _same_as(row["first_split"], row["first_key"])
    return found


def without_orphans(
    receipts: Sequence[Receipt], existing: Mapping[str, pa.Table]
) -> dict[str, dict[str, str]]:
    """Find shards that leave out a duplicate of a sample that is gone; return what they shall leave out.

    Args:
        existing: The index of each split of the dataset that the receipts are appended to.
    """
    leaving_out = [receipt for receipt in receipts if receipt.duplicates]
    if not leaving_out:
        return {}
    indexes = [*existing.items(), *((receipt.split, receipt.index) for receipt in receipts)]
    there = {_same_as(split, key) for split, index in indexes for key in index.column("key").to_pylist()}
    still = {r.shard: {k: same for k, same in r.duplicates.items() if same in there} for r in leaving_out}
    return {r.shard: still[r.shard] for r in leaving_out if len(still[r.shard]) < len(r.duplicates)}


def _same_as(split: str, key: str) -> str:
    return f"the same bytes as {split}/{key}"


def _described(index: pa.Table, split: str, rank: int) -> pa.Table:
    table = index.select(["key", "shard", "sha256"])
    splits = pa.array([split] * len(table), pa.string())
    return table.append_column("split", splits).append_column(
        "rank", pa.array([rank] * len(table), pa.int8())
    )


def _table(everything: pa.Table, later: np.ndarray, first: np.ndarray) -> pa.Table:
    found, originals = everything.take(later), everything.take(first)
    columns = [found.column(name) for name in ("key", "split", "shard", "sha256")]
    columns += [originals.column(name) for name in ("key", "split")]
    return pa.table(columns, schema=DUPLICATES_SCHEMA)
