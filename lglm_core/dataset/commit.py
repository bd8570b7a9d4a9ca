"""From the receipts of its shards to a complete dataset room, or to one that was added to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core import rooms, storage
from lglm_core.dataset.duplicates import DUPLICATES_SCHEMA
from lglm_core.dataset.layout import Reject, earlier_manifest, in_part, receipt_name, shard_files, shard_name
from lglm_core.dataset.plan import Plan
from lglm_core.dataset.receipt import Receipt
from lglm_core.errors import DamageError, InputError
from lglm_core.rooms import lease
from lglm_core.rooms.canonical import digest, to_json
from lglm_core.rooms.manifest import Manifest, Provenance

REJECTS_SCHEMA = pa.schema(dict.fromkeys(("key", "split", "source", "status", "error"), pa.string()))


class NothingReadable(InputError):
    """Not one training picture could be read."""


def refuse_another(url: str, manifest: Manifest, plan: Plan, receipts: Sequence[Receipt]) -> None:
    """Refuse shards written anew, of a dataset that was damaged, if they are not those that it had.

    They are removed: of the same sizes, they would be taken for those that it had.

    Raises:
        DamageError: the pictures they were made from are no longer what they were.
    """
    if manifest.fingerprint == _fingerprint(plan, [(r.shard, r.sha256) for r in receipts]):
        return
    written = {shard["name"]: shard["sha256"] for shard in manifest.details["shards"]}
    others = [receipt for receipt in receipts if written.get(receipt.shard) != receipt.sha256]
    for name in (name for receipt in others for name in shard_files(receipt.split, receipt.shard)):
        storage.remove(storage.join(url, name))
    other = others[0]
    why = f"; {_commonest(list(other.unreadable))}" if other.unreadable else ""
    raise DamageError(
        f"{url}: {shard_name(other.split, other.shard)} cannot be written anew as it was, since its pictures "
        f"have changed{why}. Bring them back, or take them as they are with --retry-rejected"
    )


def commit_dataset(
    url: str,
    provenance: Provenance,
    plan: Plan,
    receipts: Sequence[Receipt],
    *,
    dropped: int = 0,
    duplicates: pa.Table | None = None,
    max_rejected: float = 1.0,
    retried: int = 0,
    base: Manifest | None = None,
) -> Manifest:
    """Write index, labels, rejects and duplicates, and last the manifest.

    Args:
        receipts: Those of all shards of the plan, in plan order.
        dropped: Unlabelled pictures that the source left out of the plan.
        duplicates: Pictures with the same bytes as another, of DUPLICATES_SCHEMA.
        max_rejected: The share of unreadable pictures above which the dataset is not completed.
        retried: How many pictures of the plan could not be read before, which was allowed, and may be again.
        base: The manifest of the complete dataset that the plan adds to.

    Raises:
        InputError: more pictures are unreadable than allowed, or all of them; or another process took over.
        DamageError: pictures are neither written nor rejected.
    """
    lease.confirm(url)  # before anything that stands is touched
    _refuse_losses(url, plan, receipts)
    _refuse_too_many_rejects(url, plan, receipts, max_rejected, retried, first=base is None)
    part = len(base.details["parts"]) if base else 0
    files = dict(base.details["files"]) if base else {}
    if base is None:
        _remove_others(url, receipts)
    files |= _write_tables(url, plan, receipts, duplicates, part)
    if base is not None:
        files |= _described(earlier_manifest(part - 1), base.to_json())
    if base is None or base.details["labels"] != plan.labels.digest:
        files |= _write(url, in_part("labels.json", part), to_json(list(plan.labels)))
    shards = [*(base.details["shards"] if base else ()), *map(_shard, receipts)]
    own = {
        "planned": plan.planned,
        "written": sum(receipt.index.num_rows for receipt in receipts),
        "rejected": sum(len(receipt.rejects) for receipt in receipts),
        "unlabelled": sum(_unlabelled(receipt.index) for receipt in receipts),
        "duplicates": (duplicates.num_rows if duplicates else 0) + sum(len(r.duplicates) for r in receipts),
        "unlabelled_dropped": dropped,
    }
    manifest = Manifest(
        kind="dataset",
        fingerprint=_fingerprint(plan, [(shard["name"], shard["sha256"]) for shard in shards]),
        inputs=base.inputs if base else provenance.inputs,
        options=base.options if base else provenance.options,
        counts=_added(base.counts, own, retried) if base else own,
        details={
            "labels": plan.labels.digest,
            "splits": _splits(base, plan, receipts),
            "shards": shards,
            "files": files,
            "parts": [*(base.details["parts"] if base else ()), _part(provenance, plan, receipts, own)],
        },
    )
    if base is None:
        return rooms.commit(url, manifest)
    return rooms.commit_addition(url, manifest, base, earlier_manifest(part - 1))


def _fingerprint(plan: Plan, shards: Sequence[tuple[str, str]]) -> str:
    """Digest what a dataset is, by its labels and the names and digests of its shards."""
    return digest([plan.labels.digest, shards])


def _remove_others(url: str, receipts: Sequence[Receipt]) -> None:
    """Remove shards and receipts of another division: readers of WebDataset go by what lies there."""
    kept = {name for receipt in receipts for name in shard_files(receipt.split, receipt.shard)}
    for file in storage.list_files(url):
        if file.name.startswith(("shards/", "receipts/")) and file.name not in kept:
            storage.remove(storage.join(url, file.name))


def _refuse_losses(url: str, plan: Plan, receipts: Sequence[Receipt]) -> None:
    written = sum(receipt.index.num_rows for receipt in receipts)
    rejected = sum(len(receipt.rejects) for receipt in receipts)
    if plan.planned != written + rejected:
        raise DamageError(
            f"{url}: {plan.planned} pictures planned, but {written} written and {rejected} rejected"
        )


def _refuse_too_many_rejects(
    url: str, plan: Plan, receipts: Sequence[Receipt], max_rejected: float, retried: int, *, first: bool
) -> None:
    unreadable = [reject for receipt in receipts for reject in receipt.unreadable]
    if first and not any(receipt.index.num_rows for receipt in receipts if receipt.split == "train"):
        why = _commonest(unreadable)
        raise NothingReadable(f"{url}: no picture of the split 'train' could be read; {why}")
    if len(unreadable) > retried + max_rejected * (plan.planned - retried):
        raise InputError(
            f"{url}: {len(unreadable)} of {plan.planned} pictures could not be read, more than "
            f"--max-rejected {max_rejected:g} allows: {_commonest(unreadable)}. Mend them and run the "
            "same with --retry-rejected, or allow more; what was written is kept"
        )


def _commonest(rejects: list[Reject]) -> str:
    """Say which statuses there are, the commonest first, each with its first picture."""
    if not rejects:
        return "none was planned"
    first = {reject.status: reject for reject in reversed(rejects)}
    return "; ".join(
        f"{status} {count}, such as {first[status].source}: {first[status].error}"
        for status, count in Counter(reject.status for reject in rejects).most_common()
    )


def _write_tables(
    url: str, plan: Plan, receipts: Sequence[Receipt], duplicates: pa.Table | None, part: int
) -> dict[str, Any]:
    """Write this part's tables; return what the manifest says of each file."""
    files: dict[str, Any] = {}
    for split in sorted({receipt.split for receipt in receipts}):
        index = pa.concat_tables([receipt.index for receipt in receipts if receipt.split == split])
        files |= _write_table(url, in_part(f"index/{split}.parquet", part), index.combine_chunks())
    rejects = [asdict(reject) for receipt in receipts for reject in receipt.rejects]
    table = pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA)
    files |= _write_table(url, in_part("rejects.parquet", part), table)
    twins = DUPLICATES_SCHEMA.empty_table() if duplicates is None else duplicates
    return files | _write_table(url, in_part("duplicates.parquet", part), twins)


def _write_table(url: str, name: str, table: pa.Table) -> dict[str, Any]:
    return _write(url, name, storage.to_parquet(table))


def _write(url: str, name: str, data: bytes) -> dict[str, Any]:
    storage.write_bytes(storage.join(url, name), data)
    return _described(name, data)


def _described(name: str, data: bytes) -> dict[str, Any]:
    return {name: {"bytes": len(data), "sha256": digest(data)}}


def _shard(receipt: Receipt) -> dict[str, Any]:
    file = receipt.to_json()
    return {
        "name": receipt.shard,
        "split": receipt.split,
        "samples": receipt.index.num_rows,
        "bytes": receipt.bytes,
        "sha256": receipt.sha256,
        "receipt": {"name": receipt_name(receipt.shard), "bytes": len(file), "sha256": digest(file)},
    }


def _part(
    provenance: Provenance, plan: Plan, receipts: Sequence[Receipt], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What one run wrote: the first one, or one that added to the dataset."""
    samples: Counter[str] = Counter()
    for receipt in receipts:
        samples[receipt.split] += receipt.index.num_rows
    return {
        "inputs": provenance.inputs,
        "options": provenance.options,
        "plan": plan.fingerprint,
        "labels": len(plan.labels),
        "samples": dict(samples),
        "shards": [receipt.shard for receipt in receipts],
        "counts": counts,
    }


def _splits(base: Manifest | None, plan: Plan, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Samples and label counts of each split, over all parts."""
    splits: dict[str, Any] = dict(base.details["splits"]) if base else {}
    for receipt in receipts:
        before = splits.get(receipt.split, {"samples": 0, "label_counts": []})
        counts = np.zeros(len(plan.labels), dtype=np.int64)
        counts[: len(before["label_counts"])] = before["label_counts"]
        columns = pc.list_flatten(receipt.index.column("labels")).to_numpy()
        counts += np.bincount(columns, minlength=len(plan.labels))
        samples = before["samples"] + receipt.index.num_rows
        splits[receipt.split] = {"samples": samples, "label_counts": counts.tolist()}
    return dict(sorted(splits.items()))


def _unlabelled(index: pa.Table) -> int:
    return int(np.count_nonzero(pc.list_value_length(index.column("labels")).to_numpy() == 0))


def _added(before: Mapping[str, int], own: Mapping[str, int], retried: int) -> dict[str, int]:
    """Counts of both; pictures that could not be read before and were tried again are one each, not two."""
    twice = {"planned": retried, "rejected": retried}
    return {name: before.get(name, 0) + own.get(name, 0) - twice.get(name, 0) for name in {**before, **own}}
