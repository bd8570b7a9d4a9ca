"""The dataset room: committing one from receipts, and reading one through its index."""

import difflib
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core.data import storage
from lglm_core.data.plan import Plan
from lglm_core.data.shards import IndexRow, Receipt, Reject, rows_of, shard_url
from lglm_core.errors import DamageError, InputError
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import Manifest, Recipe, commit, digest, require

INDEX_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "shard": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "labels": pa.list_(pa.int32()),
        "unknown": pa.list_(pa.int32()),
        "sha256": pa.string(),
    }
)
REJECTS_SCHEMA = pa.schema(dict.fromkeys(("key", "split", "source", "status", "error"), pa.string()))


class NothingReadable(InputError):
    """Not one training picture could be read."""


def commit_dataset(
    url: str, recipe: Recipe, plan: Plan, receipts: list[Receipt], dropped: int, max_rejected: float = 1.0
) -> Manifest:
    """Write index, labels and rejects, and last the manifest.

    Args:
        receipts: Those of all shards of the plan, in plan order.
        dropped: Unlabelled pictures the source left out of the plan.
        max_rejected: The share of rejected pictures above which the dataset is not completed.
    """
    written = sum(len(receipt.index) for receipt in receipts)
    rejects = [reject for receipt in receipts for reject in receipt.rejects]
    if plan.planned != written + len(rejects):
        raise DamageError(
            f"{url}: {plan.planned} pictures planned, but {written} written and {len(rejects)} rejected"
        )
    if not any(receipt.index for receipt in receipts if receipt.split == "train"):
        raise NothingReadable(f"{url}: no picture of the split 'train' could be read; {_commonest(rejects)}")
    if len(rejects) > max_rejected * plan.planned:
        raise InputError(
            f"{url}: {len(rejects)} of {plan.planned} pictures could not be read, more than --max-rejected "
            f"{max_rejected:g} allows: {_commonest(rejects)}. Mend them and run the same with "
            "--retry-rejected, or allow more; what was written is kept"
        )
    splits = {}
    for split in sorted({receipt.split for receipt in receipts}):
        rows = list(rows_of(receipts, split))
        storage.write_parquet(storage.join(url, "index", f"{split}.parquet"), _table(rows, INDEX_SCHEMA))
        splits[split] = {
            "samples": len(rows),
            "label_counts": _count_labels(rows, len(plan.labels)),
        }
    storage.write_parquet(storage.join(url, "rejects.parquet"), _table(rejects, REJECTS_SCHEMA))
    plan.labels.save(storage.join(url, "labels.json"))
    unlabelled = sum(not row.labels for receipt in receipts for row in receipt.index)
    shards = [
        {
            "name": receipt.shard,
            "split": receipt.split,
            "samples": len(receipt.index),
            "bytes": receipt.bytes,
            "sha256": receipt.sha256,
        }
        for receipt in receipts
    ]
    return commit(
        url,
        Manifest(
            kind="dataset",
            fingerprint=digest([plan.labels.digest, [(shard["name"], shard["sha256"]) for shard in shards]]),
            inputs=recipe.inputs,
            options=recipe.options,
            counts={
                "planned": plan.planned,
                "written": written,
                "rejected": len(rejects),
                "unlabelled": unlabelled,
                "unlabelled_dropped": dropped,
            },
            details={
                "plan": plan.fingerprint,
                "labels": plan.labels.digest,
                "splits": splits,
                "shards": shards,
            },
        ),
    )


def _count_labels(rows: list[IndexRow], labels: int) -> list[int]:
    counts = Counter(column for row in rows for column in row.labels)
    return [counts[column] for column in range(labels)]


def _table(rows: list[IndexRow] | list[Reject], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def _commonest(rejects: list[Reject]) -> str:
    """Say which statuses there are, the commonest first, each with its first picture."""
    if not rejects:
        return "none was planned"
    first = {reject.status: reject for reject in reversed(rejects)}
    return "; ".join(
        f"{status} {count}, such as {first[status].source}: {first[status].error}"
        for status, count in Counter(reject.status for reject in rejects).most_common()
    )


@dataclass(frozen=True)
class Split:
    """The samples of one split, in shard order, read through the index.

    ``labels`` are those that targets tell of, ``columns`` where they stand among the *indexed* ones.
    """

    dataset: str
    name: str
    index: pa.Table
    labels: LabelVocabulary
    columns: tuple[int, ...]
    indexed: int

    def __len__(self) -> int:
        return int(self.index.num_rows)

    @cached_property
    def keys(self) -> list[str]:
        """The samples' keys."""
        return self.index.column("key").to_pylist()

    @cached_property
    def targets(self) -> np.ndarray:
        """int8 [samples, C]: 1 = the label is there, 0 = it is not, -1 = nobody said."""
        targets = np.zeros((len(self), self.indexed), dtype=np.int8)
        for column, value in (("labels", 1), ("unknown", -1)):
            lists = self.index.column(column)
            targets[pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()] = value
        return targets[:, self.columns]

    @cached_property
    def _places(self) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
        index = self.index
        return (
            index.column("shard").to_pylist(),
            index.column("offset").to_numpy(),
            index.column("size").to_numpy(),
            index.column("sha256").to_pylist(),
        )

    def read_image(self, row: int) -> bytes:
        """Read the encoded image of one sample; refuse, by name, bytes that are not the indexed ones."""
        shards, offsets, sizes, hashes = self._places
        url = shard_url(self.dataset, self.name, shards[row])
        try:
            data = storage.read_range(url, int(offsets[row]), int(sizes[row]))
        except InputError as error:
            raise DamageError(str(error)) from error
        if digest(data) != hashes[row]:
            raise DamageError(
                f"{url}: the image {self.keys[row]} is not the one that was written (its sha256 differs from "
                "the index). Remove the dataset folder and run lglm shard again"
            )
        return data

    def image_name(self, row: int) -> str:
        """Name one sample's image within the dataset: ``shards/val/val-000000.tar#key``."""
        return f"shards/{self.name}/{self._places[0][row]}.tar#{self.keys[row]}"


@dataclass(frozen=True)
class Dataset:
    """A complete dataset room; ``labels`` are all of its labels, or those that are kept (:meth:`without`)."""

    url: str
    manifest: Manifest
    labels: LabelVocabulary
    indexed: LabelVocabulary

    @classmethod
    def open(cls, url: str) -> "Dataset":
        """Open a complete dataset, or refuse by name."""
        manifest = require(url, "dataset")
        labels = LabelVocabulary.load(storage.join(url, "labels.json"))
        if labels.digest != manifest.details["labels"]:
            raise DamageError(f"{url}: labels.json is not the one this dataset was written with")
        return cls(url, manifest, labels, labels)

    def without(self, names: Collection[str]) -> "Dataset":
        """Return the same pictures as if nobody had labelled them with *names*."""
        for name in names:
            if name not in self.labels.names:
                close = difflib.get_close_matches(name, self.labels.names, 3) or self.labels.names[:3]
                raise InputError(f"{self.url}: no label {name!r}; the closest are {', '.join(close)}")
        kept = LabelVocabulary(name for name in self.labels if name not in names) if names else self.labels
        return replace(self, labels=kept)

    def split(self, name: str) -> Split:
        """Return the samples of one split."""
        splits = self.manifest.details["splits"]
        if name not in splits:
            raise InputError(f"{self.url}: no split {name!r}; it has {', '.join(sorted(splits))}")
        index = storage.read_parquet(storage.join(self.url, "index", f"{name}.parquet"))
        return Split(self.url, name, index, self.labels, self._columns, len(self.indexed))

    @property
    def _columns(self) -> tuple[int, ...]:
        return tuple(self.indexed.column(name) for name in self.labels)

    def training_shares(self) -> np.ndarray:
        """In which share of the training samples each label is, of those where it is known, float64 [C]."""
        targets = self.split("train").targets
        return (targets == 1).sum(axis=0) / np.maximum(1, (targets != -1).sum(axis=0))

    def has_split(self, name: str) -> bool:
        """Tell whether the split is there and has samples."""
        return bool(self.manifest.details["splits"].get(name, {}).get("samples"))
