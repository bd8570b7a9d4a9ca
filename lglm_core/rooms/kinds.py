"""The manifest of each kind of room, and the records in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lglm_core.rooms.manifest import Manifest


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and its sha256, in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ReceiptRecord(FileRecord):
    """The file of a shard's receipt; ``name`` is its path within the dataset."""

    name: str


@dataclass(frozen=True)
class ShardRecord(FileRecord):
    """A shard: its name without folder or suffix, its split, and how many samples it holds."""

    name: str
    split: str
    samples: int
    receipt: ReceiptRecord


@dataclass(frozen=True)
class SplitRecord:
    """The number of samples in a split and, by column of the vocabulary, of those that carry each label."""

    samples: int
    label_counts: tuple[int, ...]


@dataclass(frozen=True)
class PartRecord:
    """The part that one run wrote of a dataset: the first run, or one that appended to it.

    ``plan`` is the fingerprint of its sharding plan, ``labels`` how many labels there were then, ``samples``
    counts by split, and ``shards`` are names.
    """

    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    plan: str
    labels: int
    samples: Mapping[str, int]
    shards: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(Manifest):
    """The manifest of a dataset: its shards, its other files by name, and the parts it was written in.

    ``labels`` is the digest of the vocabulary.
    """

    kind = "dataset"
    labels: str
    splits: Mapping[str, SplitRecord]
    shards: tuple[ShardRecord, ...]
    files: Mapping[str, FileRecord]
    parts: tuple[PartRecord, ...]

    def has_samples(self, split: str) -> bool:
        """Tell whether the split is there and has samples."""
        return split in self.splits and self.splits[split].samples > 0

    def shards_of(self, split: str) -> list[ShardRecord]:
        """Return the shards of one split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    @property
    def unreadable(self) -> int:
        """The number of images that could not be read; the other rejects are duplicates that were dropped."""
        dropped = self.counts["duplicates"] if self.options.get("duplicates") == "drop" else 0
        return self.counts["rejected"] - dropped


@dataclass(frozen=True)
class LabelOrigin:
    """The origin of a label's vector: the words used, and those that the word vectors lack."""

    label: str
    origin: str
    words: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelEmbeddingsManifest(Manifest):
    """The manifest of label embeddings: their source, and labels whose vector is not of the whole name."""

    kind = "label-embeddings"
    source: str
    of_note: tuple[LabelOrigin, ...]


@dataclass(frozen=True, kw_only=True)
class RunManifest(Manifest):
    """The manifest of a training run: the results of its last epoch, by column of ``history.parquet``."""

    kind = "run"
    last_epoch: Mapping[str, Any]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training: its number from 1, mean loss, validation mAP in percent, and duration."""

    epoch: int
    loss: float
    val_map: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelManifest(Manifest):
    """The manifest of a model: digests of weights, labels and further files, label names, and its history."""

    kind = "model"
    head: str
    weights: str
    labels: str
    names: tuple[str, ...]
    history: tuple[EpochRecord, ...]
    files: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationManifest(Manifest):
    """The manifest of an evaluation: its main metrics, in percent."""

    kind = "evaluation"
    headline: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EmbeddingsManifest(Manifest):
    """The manifest of embeddings: the URL of the dataset."""

    kind = "embeddings"
    dataset_url: str


@dataclass(frozen=True, kw_only=True)
class TagsManifest(Manifest):
    """The manifest of tags: the number of files that got each label."""

    kind = "tags"
    labels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ExplanationManifest(Manifest):
    """The manifest of an explanation: names of the models, and probabilities of the explained labels."""

    kind = "explanation"
    models: tuple[str, ...]
    probabilities: tuple[Mapping[str, str | float], ...]
