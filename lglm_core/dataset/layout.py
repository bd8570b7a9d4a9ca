"""What the files of a dataset are called, and the columns of its tables.

A dataset that was appended to has its tables in parts: each run writes files of its own,
``index/train.0001.parquet`` beside ``index/train.parquet``, and no file is ever written again.
"""

from dataclasses import dataclass

import pyarrow as pa

from lglm_core import storage
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms import DatasetManifest

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
        "envelope_sha256": pa.string(),
    }
)
"""One row per sample, in the order of the shard: where its image lies in the tar, in bytes; its size as
displayed, in pixels; ``labels`` and ``unknown`` as columns of the vocabulary; the ``sha256`` of the image,
and that of its envelope: headers, padding and JSON, everything else from its first byte in the tar up to
the next sample, or to the end.
"""
REJECTS_SCHEMA = pa.schema(dict.fromkeys(("key", "split", "source", "status", "error"), pa.string()))
"""One row per image that became no sample, with a short code as ``status`` and the reason as ``error``."""
DUPLICATES_SCHEMA = pa.schema(
    dict.fromkeys(("key", "split", "shard", "sha256", "first_key", "first_split"), pa.string())
)
"""One row per sample whose bytes another sample, the first, has too."""
DUPLICATE = "duplicate"
"""The status of an image that was dropped because another one has the same bytes."""


@dataclass(frozen=True)
class Reject:
    """An image that became no sample, as a row of :data:`REJECTS_SCHEMA`."""

    key: str
    split: str
    source: str
    status: str
    error: str


def shard_files(split: str, name: str) -> tuple[str, str]:
    """Return the paths of a shard and of its receipt within the dataset."""
    return shard_name(split, name), receipt_name(name)


def shard_name(split: str, name: str) -> str:
    """Return the path of a shard within the dataset."""
    return f"shards/{split}/{name}.tar"


def receipt_name(name: str) -> str:
    """Return the path of a shard's receipt within the dataset."""
    return f"receipts/{name}.json"


def in_part(name: str, part: int) -> str:
    """Return what the file *name* of the first part, 0, is called in a later one.

    ``index/train.parquet`` is ``index/train.0001.parquet`` in part 1.
    """
    stem, _, suffix = name.rpartition(".")
    return name if part == 0 else f"{stem}.{part:04d}.{suffix}"


def latest(name: str, manifest: DatasetManifest) -> str:
    """Return the file called *name* that counts now: that of the last part that has one."""
    every = [in_part(name, part) for part in range(len(manifest.parts))]
    return next(each for each in reversed(every) if each in manifest.files)


def earlier_manifest(part: int) -> str:
    """Return the path of the manifest that the dataset had when *part* was its last."""
    return f"manifests/{part:04d}.json"


def load_labels(url: str, manifest: DatasetManifest) -> LabelVocabulary:
    """Read all labels of the dataset at *url*, by its manifest; a wrong byte is not noticed here."""
    return LabelVocabulary.load(storage.join(url, latest("labels.json", manifest)))
