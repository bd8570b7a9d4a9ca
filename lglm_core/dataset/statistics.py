"""What is in a dataset: splits, labels, which labels occur together, and how large the images are.

Only manifest, index and rejects are read: no image is opened, and no array of images × labels is made.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core.dataset.reader import Dataset, Split
from lglm_core.labels.cooccurrence import label_counts
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms import DatasetManifest

ROWS_AT_ONCE = 8192
PAIRED_LABELS = 500  # the most frequent; all pairs of more would take gigabytes
FEWEST_TOGETHER = 5  # pictures; below, how much more often than by chance two labels meet is mostly chance


@dataclass(frozen=True)
class Range:
    """The least, the median and the largest of some lengths, in pixels."""

    least: int
    median: float
    most: int


@dataclass(frozen=True)
class SplitStatistics:
    """N samples of one split, and C labels.

    ``bytes`` is the size of the shards. Per label, ``positives`` counts the samples that carry it and
    ``unknown`` those where it is unknown, int64 [C]. Per sample, ``labels_each`` is the number of its labels,
    and ``widths`` and ``heights`` are in pixels, int32 [N].
    """

    name: str
    shards: int
    bytes: int
    positives: np.ndarray
    unknown: np.ndarray
    labels_each: np.ndarray
    widths: np.ndarray
    heights: np.ndarray

    @property
    def samples(self) -> int:
        """The number of samples, N."""
        return len(self.labels_each)

    @property
    def unlabelled(self) -> int:
        """The number of samples without a label."""
        return int((self.labels_each == 0).sum())

    @property
    def width(self) -> Range | None:
        """The widths of the images; None without samples."""
        return _range(self.widths)

    @property
    def height(self) -> Range | None:
        """The heights of the images; None without samples."""
        return _range(self.heights)

    @property
    def known(self) -> np.ndarray:
        """The number of samples where each label is known to be present or absent, int64 [C]."""
        return self.samples - self.unknown

    @property
    def prevalence(self) -> np.ndarray:
        """The fraction of samples with each label, of those where it is known, float64 [C]."""
        return self.positives / np.maximum(1, self.known)


@dataclass(frozen=True)
class Twins:
    """Counts of samples with the same bytes as another one.

    ``across`` counts pairs of which only one is in train, ``contradicting`` pairs whose labels differ.
    """

    across: int
    contradicting: int


@dataclass(frozen=True)
class Pair:
    """Two labels that ``count`` training samples share, ``lift`` times as many as by chance."""

    first: str
    second: str
    count: int
    lift: float


@dataclass(frozen=True)
class Together:
    """How many training samples carry both of two labels, int64 [K, K]; the diagonal counts single labels.

    ``labels`` are the K most frequent, at most ``PAIRED_LABELS``, the most frequent first. ``known`` counts
    the samples where both labels are known, int64 [K, K].
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    known: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """How many samples would carry both labels if labels were independent, float64 [K, K]."""
        prevalence = np.diag(self.counts) / np.maximum(1, np.diag(self.known))
        return np.outer(prevalence, prevalence) * self.known

    def most_often(self, limit: int) -> list[Pair]:
        """Return the pairs that occur together most often; of equals, the one with more lift."""
        return self._pairs(limit, fewest=1, by_lift=False)

    def most_lifted(self, limit: int) -> list[Pair]:
        """Return the pairs of the highest lift among those with at least ``FEWEST_TOGETHER`` samples."""
        return self._pairs(limit, fewest=FEWEST_TOGETHER, by_lift=True)

    def _pairs(self, limit: int, fewest: int, by_lift: bool) -> list[Pair]:
        first, second = np.nonzero(np.triu(self.counts >= fewest, k=1))
        count = self.counts[first, second]
        lift = count / self.expected[first, second]
        order = np.lexsort((-count, -lift) if by_lift else (-lift, -count))[:limit]
        return [
            Pair(self.labels[first[k]], self.labels[second[k]], int(count[k]), float(lift[k])) for k in order
        ]


@dataclass(frozen=True)
class DatasetStatistics:
    """What :func:`describe` found; ``splits`` are train, val, then the others by name.

    ``rejects`` is of REJECTS_SCHEMA.
    """

    url: str
    manifest: DatasetManifest
    labels: LabelVocabulary
    splits: tuple[SplitStatistics, ...]
    together: Together
    rejects: pa.Table
    twins: Twins

    @property
    def train(self) -> SplitStatistics:
        """The statistics of the split train, which every dataset has."""
        return self.splits[0]

    @property
    def frequency_order(self) -> np.ndarray:
        """The columns, the most frequent label in train first, then by the next split, int64 [C]."""
        return np.lexsort([-split.positives for split in reversed(self.splits)])

    def rejects_by_status(self) -> dict[str, int]:
        """Return the number of rejects by status, the most frequent status first."""
        counted = pc.value_counts(self.rejects.column("status")).to_pylist()
        return {each["values"]: each["counts"] for each in sorted(counted, key=lambda each: -each["counts"])}


def describe(dataset: Dataset) -> DatasetStatistics:
    """Count what is in a dataset, one split after the other, over all of its labels.

    Raises:
        DamageError: a file of the dataset is not as it was written.
    """
    names = sorted(dataset.manifest.splits, key=lambda name: (name != "train", name != "val", name))
    splits = tuple(_describe_split(dataset, dataset.split(name)) for name in names)
    together = _together(dataset.indexed, dataset.split("train"), splits[0])
    return DatasetStatistics(
        dataset.url, dataset.manifest, dataset.indexed, splits, together, dataset.rejects(), _twins(dataset)
    )


def _describe_split(dataset: Dataset, split: Split) -> SplitStatistics:
    shards = dataset.manifest.shards_of(split.name)
    index = split.index
    positives, unknown = (
        np.bincount(pc.list_flatten(index.column(name)).to_numpy(), minlength=split.indexed)
        for name in ("labels", "unknown")
    )
    for labels, rows in zip(*np.unique(index.column("known").to_numpy(), return_counts=True), strict=True):
        unknown[labels:] += rows  # labels that were added later than the sample
    return SplitStatistics(
        name=split.name,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        positives=positives,
        unknown=unknown,
        labels_each=pc.list_value_length(index.column("labels")).to_numpy(),
        widths=index.column("width").to_numpy(),
        heights=index.column("height").to_numpy(),
    )


def _together(labels: LabelVocabulary, split: Split, statistics: SplitStatistics) -> Together:
    columns = np.argsort(-statistics.positives, kind="stable")[:PAIRED_LABELS]
    counts, known = np.zeros((2, len(columns), len(columns)), dtype=np.int64)
    narrow = replace(split, columns=tuple(columns.tolist()))
    for start in range(0, len(split), ROWS_AT_ONCE):
        targets = replace(narrow, index=split.index.slice(start, ROWS_AT_ONCE)).targets
        counts += label_counts(targets)
        if statistics.unknown.any():
            known += label_counts((targets != -1).astype(np.int8))
        else:
            known += len(targets)
    return Together(tuple(labels[int(column)] for column in columns), counts, known)


def _twins(dataset: Dataset) -> Twins:
    duplicates = dataset.duplicates()
    splits, keys, first_splits, first_keys = (
        duplicates.column(name).to_pylist() for name in ("split", "key", "first_split", "first_key")
    )
    labels: dict[tuple[str, str], list[int]] = {}
    for split in {*splits, *first_splits}:
        found = dataset.split(split).values("labels", {*keys, *first_keys})
        labels.update(((split, key), theirs) for key, theirs in found.items())
    pairs = list(zip(zip(splits, keys, strict=True), zip(first_splits, first_keys, strict=True), strict=True))
    return Twins(
        across=sum((one[0] == "train") != (first[0] == "train") for one, first in pairs),
        contradicting=sum(labels[one] != labels[first] for one, first in pairs),
    )


def _range(lengths: np.ndarray) -> Range | None:
    if not len(lengths):
        return None
    return Range(int(lengths.min()), float(np.median(lengths)), int(lengths.max()))
