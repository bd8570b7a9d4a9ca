"""The parts of a dataset that was added to: each has files of its own, and none is ever written again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lglm_core import storage
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms.manifest import Manifest

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


DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Reject:
    """A picture that became no sample: ``status`` is a short code, ``error`` says more."""

    key: str
    split: str
    source: str
    status: str
    error: str


def shard_files(split: str, name: str) -> tuple[str, str]:
    """Return where a shard and its receipt lie within the dataset."""
    return shard_name(split, name), receipt_name(name)


def shard_name(split: str, name: str) -> str:
    """Return where a shard lies within the dataset."""
    return f"shards/{split}/{name}.tar"


def receipt_name(name: str) -> str:
    """Return where a shard's receipt lies within the dataset."""
    return f"receipts/{name}.json"


def in_part(name: str, part: int) -> str:
    """Return what a file of the first part, 0, is called in a later one: ``index/train.0001.parquet``."""
    stem, _, suffix = name.rpartition(".")
    return name if part == 0 else f"{stem}.{part:04d}.{suffix}"


def latest(name: str, details: Mapping[str, Any]) -> str:
    """Return the file that counts now of those called *name*: that of the last part that has one.

    Args:
        details: Those of the dataset's manifest.
    """
    every = [in_part(name, part) for part in range(len(details["parts"]))]
    return next(each for each in reversed(every) if each in details["files"])


def load_labels(url: str, manifest: Manifest) -> LabelVocabulary:
    """Read all labels of the dataset at *url*, by its manifest; a wrong byte is not noticed here."""
    return LabelVocabulary.load(storage.join(url, latest("labels.json", manifest.details)))


def earlier_manifest(part: int) -> str:
    """Return where the manifest is kept of the dataset as it was when *part* was its last."""
    return f"manifests/{part:04d}.json"
