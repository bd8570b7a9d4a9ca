"""From the receipts of its shards to the tables and the manifest of a dataset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core import storage
from lglm_core.dataset.layout import (
    DUPLICATES_SCHEMA,
    REJECTS_SCHEMA,
    Reject,
    earlier_manifest,
    in_part,
    receipt_name,
    shard_files,
)
from lglm_core.dataset.plan import Plan
from lglm_core.dataset.receipt import Receipt
from lglm_core.errors import DamageError, InputError
from lglm_core.rooms import (
    DatasetManifest,
    FileRecord,
    PartRecord,
    Provenance,
    ReceiptRecord,
    Room,
    ShardRecord,
    SplitRecord,
    digest,
    to_json,
)


class NothingReadable(InputError):
    """Not one training image could be read."""


@dataclass(frozen=True)
class Written:
    """The shards of one plan, written: the receipts of all of them, in plan order, and their duplicates.

    ``duplicates`` is of DUPLICATES_SCHEMA. ``retried`` counts the images that could not be read before, which
    was allowed then, and may happen again.
    """

    plan: Plan
    receipts: Sequence[Receipt]
    duplicates: pa.Table = field(default_factory=DUPLICATES_SCHEMA.empty_table)
    retried: int = 0

    @property
    def unreadable(self) -> list[Reject]:
        """The images that could not be read."""
        return [reject for receipt in self.receipts for reject in receipt.unreadable]

    def counts(self) -> dict[str, int]:
        """Return the counts that a manifest records of this run."""
        return {
            "planned": self.plan.planned,
            "written": sum(receipt.index.num_rows for receipt in self.receipts),
            "rejected": sum(len(receipt.rejects) for receipt in self.receipts),
            "unlabelled": sum(_unlabelled(receipt.index) for receipt in self.receipts),
            "duplicates": self.duplicates.num_rows + sum(len(r.duplicates) for r in self.receipts),
            "unlabelled_dropped": self.plan.unlabelled_dropped,
        }


def commit_dataset(
    room: Room[DatasetManifest], written: Written, *, max_rejected: float = 1.0
) -> DatasetManifest:
    """Complete a dataset that has no other parts: write its tables and labels, and last its manifest.

    Args:
        max_rejected: The fraction of unreadable images above which the dataset is not completed.

    Raises:
        InputError: more images are unreadable than allowed, or all of them; or another process took over.
        DamageError: images are neither written nor rejected.
    """
    room.confirm()  # before any existing file is touched
    counts = _checked_counts(room.url, written)
    if not any(receipt.index.num_rows for receipt in written.receipts if receipt.split == "train"):
        why = commonest(written.unreadable)
        raise NothingReadable(f"{room.url}: no picture of the split 'train' could be read; {why}")
    _refuse_too_many_rejects(room.url, written, max_rejected)
    _remove_other_shards(room, written.receipts)
    plan, shards = written.plan, tuple(map(_shard, written.receipts))
    files = _write_tables(room, written, part=0) | _write_labels(room, plan, part=0)
    return room.commit(
        DatasetManifest(
            fingerprint=_fingerprint(plan, [(shard.name, shard.sha256) for shard in shards]),
            **room.provenance.fields,
            counts=counts,
            labels=plan.labels.digest,
            splits=_splits({}, written),
            shards=shards,
            files=files,
            parts=(_part(room.provenance, written, counts),),
        )
    )


def commit_append(
    room: Room[DatasetManifest],
    base: DatasetManifest,
    written: Written,
    provenance: Provenance[DatasetManifest],
    *,
    max_rejected: float = 1.0,
) -> DatasetManifest:
    """Complete an append to the dataset whose manifest is *base*: write the new part, then the manifest.

    Args:
        provenance: What the new part is made from.
        max_rejected: As for :func:`commit_dataset`, of the new part.

    Raises:
        InputError: more images are unreadable than allowed; or another process took over.
        DamageError: images are neither written nor rejected.
    """
    room.confirm()  # before any existing file is touched
    counts = _checked_counts(room.url, written)
    _refuse_too_many_rejects(room.url, written, max_rejected)
    part, plan = len(base.parts), written.plan
    files = {**base.files, **_write_tables(room, written, part)}
    earlier = base.to_json()
    files[earlier_manifest(part - 1)] = FileRecord(len(earlier), digest(earlier))
    if base.labels != plan.labels.digest:
        files |= _write_labels(room, plan, part)
    shards = (*base.shards, *map(_shard, written.receipts))
    return room.commit(
        DatasetManifest(
            fingerprint=_fingerprint(plan, [(shard.name, shard.sha256) for shard in shards]),
            inputs=base.inputs,
            options=base.options,
            counts=_added(base.counts, counts, written.retried),
            labels=plan.labels.digest,
            splits=_splits(base.splits, written),
            shards=shards,
            files=files,
            parts=(*base.parts, _part(provenance, written, counts)),
        )
    )


def refuse_other_shards(room: Room[DatasetManifest], manifest: DatasetManifest, written: Written) -> None:
    """Refuse shards that replace damaged ones of a dataset, if they are not those that it had.

    They are removed: being of the same sizes, they would be taken for those that it had.

    Raises:
        DamageError: the images they were made from are no longer what they were.
    """
    digests = [(receipt.shard, receipt.sha256) for receipt in written.receipts]
    if manifest.fingerprint == _fingerprint(written.plan, digests):
        return
    before = {shard.name: shard.sha256 for shard in manifest.shards}
    others = [receipt for receipt in written.receipts if before.get(receipt.shard) != receipt.sha256]
    room.remove(name for receipt in others for name in shard_files(receipt.split, receipt.shard))
    other = others[0]
    why = f"; {commonest(list(other.unreadable))}" if other.unreadable else ""
    name, _ = shard_files(other.split, other.shard)
    raise DamageError(
        f"{room.url}: {name} cannot be written anew as it was, since its pictures have changed{why}. "
        "Bring them back, or retry the rejected pictures to take them as they are"
    )


def commonest(rejects: Sequence[Reject]) -> str:
    """Say which statuses there are, the commonest first, each with its first image."""
    if not rejects:
        return "none was planned"
    first = {reject.status: reject for reject in reversed(rejects)}
    return "; ".join(
        f"{status} {count}, such as {first[status].source}: {first[status].error}"
        for status, count in Counter(reject.status for reject in rejects).most_common()
    )


def _fingerprint(plan: Plan, shards: Sequence[tuple[str, str]]) -> str:
    """Digest what a dataset is: its labels, and the names and digests of its shards."""
    return digest([plan.labels.digest, shards])


def _checked_counts(url: str, written: Written) -> dict[str, int]:
    counts = written.counts()
    if counts["planned"] != counts["written"] + counts["rejected"]:
        raise DamageError(
            f"{url}: {counts['planned']} pictures planned, but {counts['written']} written and "
            f"{counts['rejected']} rejected"
        )
    return counts


def _refuse_too_many_rejects(url: str, written: Written, max_rejected: float) -> None:
    unreadable, planned, retried = written.unreadable, written.plan.planned, written.retried
    if len(unreadable) > retried + max_rejected * (planned - retried):
        raise InputError(
            f"{url}: {len(unreadable)} of {planned} pictures could not be read, more than `max_rejected` = "
            f"{max_rejected:g} allows: {commonest(unreadable)}. Mend them and retry the rejected pictures, "
            "or allow more; what was written is kept"
        )


def _remove_other_shards(room: Room[DatasetManifest], receipts: Sequence[Receipt]) -> None:
    """Remove shards and receipts of another division: readers of WebDataset go by what lies there."""
    kept = {name for receipt in receipts for name in shard_files(receipt.split, receipt.shard)}
    found = [file.name for file in storage.list_files(room.url)]
    room.remove(name for name in found if name.startswith(("shards/", "receipts/")) and name not in kept)


def _write_tables(room: Room[DatasetManifest], written: Written, part: int) -> dict[str, FileRecord]:
    """Write the tables of one part; return what the manifest records of each file."""
    receipts = written.receipts
    tables = {
        f"index/{split}.parquet": pa.concat_tables(
            [receipt.index for receipt in receipts if receipt.split == split]
        ).combine_chunks()
        for split in sorted({receipt.split for receipt in receipts})
    }
    rejects = [asdict(reject) for receipt in receipts for reject in receipt.rejects]
    tables["rejects.parquet"] = pa.Table.from_pylist(rejects, schema=REJECTS_SCHEMA)
    tables["duplicates.parquet"] = written.duplicates
    names = {in_part(name, part): table for name, table in tables.items()}
    return {name: room.write(name, storage.to_parquet(table)) for name, table in names.items()}


def _write_labels(room: Room[DatasetManifest], plan: Plan, part: int) -> dict[str, FileRecord]:
    name = in_part("labels.json", part)
    return {name: room.write(name, to_json(list(plan.labels)))}


def _shard(receipt: Receipt) -> ShardRecord:
    file = receipt.to_json()
    return ShardRecord(
        name=receipt.shard,
        split=receipt.split,
        samples=receipt.index.num_rows,
        bytes=receipt.bytes,
        sha256=receipt.sha256,
        receipt=ReceiptRecord(name=receipt_name(receipt.shard), bytes=len(file), sha256=digest(file)),
    )


def _part(provenance: Provenance[DatasetManifest], written: Written, counts: Mapping[str, int]) -> PartRecord:
    samples: Counter[str] = Counter()
    for receipt in written.receipts:
        samples[receipt.split] += receipt.index.num_rows
    return PartRecord(
        inputs=provenance.inputs,
        options=provenance.options,
        plan=written.plan.fingerprint,
        labels=len(written.plan.labels),
        samples=dict(samples),
        shards=tuple(receipt.shard for receipt in written.receipts),
        counts=counts,
    )


def _splits(before: Mapping[str, SplitRecord], written: Written) -> dict[str, SplitRecord]:
    """Count samples and labels of each split, over all parts."""
    splits, labels = dict(before), len(written.plan.labels)
    for receipt in written.receipts:
        existing = splits.get(receipt.split, SplitRecord(0, ()))
        counts = np.zeros(labels, dtype=np.int64)
        counts[: len(existing.label_counts)] = existing.label_counts
        columns = pc.list_flatten(receipt.index.column("labels")).to_numpy()
        counts += np.bincount(columns, minlength=labels)
        samples = existing.samples + receipt.index.num_rows
        splits[receipt.split] = SplitRecord(samples, tuple(counts.tolist()))
    return dict(sorted(splits.items()))


def _unlabelled(index: pa.Table) -> int:
    return int(np.count_nonzero(pc.list_value_length(index.column("labels")).to_numpy() == 0))


def _added(before: Mapping[str, int], now: Mapping[str, int], retried: int) -> dict[str, int]:
    """Add counts up; an image that could not be read before and was tried again is one image, not two."""
    twice = {"planned": retried, "rejected": retried}
    names = {**before, **now}
    return {name: before.get(name, 0) + now.get(name, 0) - twice.get(name, 0) for name in names}
