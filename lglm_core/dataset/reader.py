"""Reading a dataset through its index."""

import difflib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lglm_core import storage
from lglm_core.dataset.integrity import (
    NEVER_DECODED,
    REMEDY,
    check_files,
    check_sizes,
    files_without_samples,
    read_checked,
    summary,
)
from lglm_core.dataset.layout import earlier_manifest, in_part, latest, shard_name
from lglm_core.dataset.sample_spans import HEADER, SampleSpan, SampleSpans, with_stops
from lglm_core.errors import DamageError, InputError
from lglm_core.images.codec import UnreadableImage
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms import DatasetManifest, FileRecord, ShardRecord, parse_manifest, require


class SampleCache(Protocol):
    """Keeps what a split has read of remote shards; see ``lglm_core.loading.cache``."""

    def get(self, span: SampleSpan) -> bytes | None:
        """Return all bytes of a sample, or None where they are not kept, or not whole."""

    def keep(self, span: SampleSpan, data: bytes) -> None:
        """Keep all bytes of a sample, if there is room for them."""


@dataclass(frozen=True)
class Split:
    """The samples of one split, in shard order.

    ``labels`` are the columns of the targets, and ``columns`` the places of these labels among the
    ``indexed`` labels of the dataset. ``index`` is of INDEX_SCHEMA with two more columns: ``stop``, where the
    bytes of the sample end in the tar, and ``known``, how many labels the dataset had when the sample was
    written.
    """

    dataset: str
    name: str
    index: pa.Table
    labels: LabelVocabulary
    columns: tuple[int, ...]
    indexed: int
    cache: SampleCache | None = None

    def __len__(self) -> int:
        return int(self.index.num_rows)

    def __repr__(self) -> str:
        return f"Split({self.name}: {len(self):,} samples, {len(self.labels):,} labels, of {self.dataset})"

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the samples, in order."""
        return self.index.column("key").to_pylist()

    def values(self, column: str, keys: Collection[str]) -> dict[str, Any]:
        """Return a column of the index for those of *keys* that are samples of this split, by key."""
        rows = self.index.filter(pc.is_in(self.index.column("key"), pa.array(keys, pa.string())))
        return dict(zip(rows.column("key").to_pylist(), rows.column(column).to_pylist(), strict=True))

    @cached_property
    def targets(self) -> np.ndarray:
        """int8 [samples, labels]: 1 = present, 0 = absent, -1 = unknown.

        A label that was added to the dataset later than the sample is unknown.
        """
        targets = np.zeros((len(self), self.indexed), dtype=np.int8)
        known = self.index.column("known").to_numpy()
        for labels in np.unique(known):
            targets[known == labels, labels:] = -1
        for column, value in (("labels", 1), ("unknown", -1)):
            lists = self.index.column(column)
            targets[pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()] = value
        return targets[:, self.columns]

    @cached_property
    def _spans(self) -> SampleSpans:
        return SampleSpans(self.index)

    @cached_property
    def _read_before(self) -> np.ndarray:
        return np.zeros(len(self), dtype=bool)

    def read_image(self, row: int) -> bytes:
        """Read the encoded image of one sample.

        Raises:
            DamageError: the sample is not as it was written; checked when it is read for the first time.
        """
        span = self._spans[row]
        if self.cache and (kept := self.cache.get(span)):
            return span.image(kept)
        url = storage.join(self.dataset, shard_name(self.name, span.shard))
        try:
            if self._read_before[row] and not self.cache:
                return storage.read_range(url, span.start + HEADER, span.image_size)
            data = storage.read_range(url, span.start, span.size)
        except storage.UnreadableFile as error:
            raise DamageError(str(error)) from error
        if problem := span.problem(data):
            raise DamageError(f"{url}, sample {self.keys[row]}: {problem}; {REMEDY}")
        self._read_before[row] = True
        if self.cache:
            self.cache.keep(span, data)
        return span.image(data)

    def undecodable(self, row: int, error: UnreadableImage) -> DamageError:
        """Return the error to raise where the image of a sample has the right bytes but cannot be decoded."""
        return DamageError(
            f"{self.dataset}: the image {self.keys[row]} cannot be decoded ({error}), {NEVER_DECODED}"
        )

    def image_name(self, row: int) -> str:
        """Return the name of a sample's image within the dataset: ``shards/val/val-000000.tar#key``."""
        return f"{shard_name(self.name, self._spans[row].shard)}#{self.keys[row]}"


@dataclass(frozen=True)
class Dataset:
    """A complete dataset.

    ``labels`` are the columns of the targets: all ``indexed`` labels, or those that :meth:`without` keeps.
    ``cache`` keeps images of remote shards (``lglm_core.loading.cache``).
    """

    url: str
    manifest: DatasetManifest
    labels: LabelVocabulary
    indexed: LabelVocabulary
    cache: SampleCache | None = None

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {split.samples:,}" for name, split in self.manifest.splits.items())
        return f"Dataset({self.url}: {splits} samples, {len(self.labels):,} labels)"

    @classmethod
    def open(
        cls, url: str | os.PathLike[str], part: int | None = None, *, fingerprint: str | None = None
    ) -> "Dataset":
        """Open a complete dataset.

        Args:
            url: The folder, as a path or URL; a path object names one on this machine's disk.
            part: Open the dataset as it was when this part, counted from 0, was its last; default: as it
                is now.
            fingerprint: The fingerprint that the dataset must have; default: any.

        Raises:
            InputError: no complete dataset is there, or one of another fingerprint.
            DamageError: files are missing, or are not those that were written.
        """
        url = os.fspath(url)
        manifest = require(url, DatasetManifest)
        if part is not None and part != len(manifest.parts) - 1:
            manifest = _earlier(url, part, manifest)
        if fingerprint not in (None, manifest.fingerprint):
            raise InputError(f"{url}: another run changed this dataset meanwhile; run the same command again")
        if damages := check_sizes(url, manifest):
            raise DamageError(f"{summary(url, damages)}; {REMEDY}")
        files = manifest.files
        small = {
            name: read_checked(url, name, files[name]) for name in files if not name.startswith("index/")
        }
        last = latest("labels.json", manifest)
        labels = LabelVocabulary.parse(small[last], storage.join(url, last))
        return cls(url, manifest, labels, labels)

    def check_files_without_samples(self) -> None:
        """Check the files that reading all samples never opens: receipts, and shards without samples.

        Raises:
            DamageError: files are not those that were written.
        """
        if damages := check_files(self.url, self.manifest, files_without_samples(self.manifest)):
            raise DamageError(f"{summary(self.url, damages)}; {REMEDY}")

    def without(self, names: Collection[str]) -> "Dataset":
        """Return the same samples without the labels *names*, as if nobody had looked for them."""
        for name in names:
            if name not in self.labels.names:
                close = difflib.get_close_matches(name, self.labels.names, 3) or self.labels.names[:3]
                raise InputError(f"{self.url}: no label {name!r}; the closest are {', '.join(close)}")
        kept = LabelVocabulary(name for name in self.labels if name not in names) if names else self.labels
        return replace(self, labels=kept)

    def split(self, name: str) -> Split:
        """Return the samples of one split."""
        splits = self.manifest.splits
        if name not in splits:
            raise InputError(f"{self.url}: no split {name!r}; it has {', '.join(sorted(splits))}")
        return Split(
            self.url,
            name,
            read_index(self.url, self.manifest, name),
            self.labels,
            tuple(self.indexed.column(label) for label in self.labels),
            len(self.indexed),
            self.cache,
        )

    def splits(self) -> dict[str, Split]:
        """Return the samples of every split, by its name."""
        return {name: self.split(name) for name in self.manifest.splits}

    def rejects(self) -> pa.Table:
        """Return the images that became no sample, as a REJECTS_SCHEMA table.

        An image that was retried in a later part counts once, by its last result.
        """
        table = self._of_all_parts("rejects.parquet")
        if len(self.manifest.parts) == 1:
            return table
        places = list(zip(table.column("split").to_pylist(), table.column("key").to_pylist(), strict=True))
        last = {place: row for row, place in enumerate(places)}
        for split in self.manifest.splits:
            for key in self.split(split).values("key", {key for _, key in places}):
                last.pop((split, key), None)
        return table.take(pa.array(sorted(last.values()), pa.int64()))

    def duplicates(self) -> pa.Table:
        """Return the samples with the same bytes as another one, as a DUPLICATES_SCHEMA table."""
        return self._of_all_parts("duplicates.parquet")

    def _of_all_parts(self, name: str) -> pa.Table:
        files = self.manifest.files
        names = [in_part(name, part) for part in range(len(self.manifest.parts))]
        return pa.concat_tables([_table(self.url, each, files[each]) for each in names])

    def training_prevalence(self) -> np.ndarray:
        """Return the fraction of training samples with each label, where it is known, float64 [C]."""
        targets = self.split("train").targets
        return (targets == 1).sum(axis=0) / np.maximum(1, (targets != -1).sum(axis=0))

    def has_split(self, name: str) -> bool:
        """Tell whether the split is there and has samples."""
        return self.manifest.has_samples(name)


def read_index(url: str, manifest: DatasetManifest, split: str) -> pa.Table:
    """Read the index of a split, over all parts of the dataset, with the columns that :class:`Split` adds.

    Raises:
        DamageError: one of its files is not as it was written.
    """
    shard_bytes = {shard.name: shard.bytes for shard in manifest.shards}
    tables = []
    for number, part in enumerate(manifest.parts):
        name = in_part(f"index/{split}.parquet", number)
        if written := manifest.files.get(name):
            index = with_stops(_table(url, name, written), shard_bytes)
            known = pa.repeat(pa.scalar(part.labels, pa.int32()), len(index))
            tables.append(index.append_column("known", known))
    return pa.concat_tables(tables).combine_chunks()


def shards_with_rows(url: str, manifest: DatasetManifest) -> Iterator[tuple[ShardRecord, pa.Table | None]]:
    """Yield every shard with its rows of the index, or with None where the index is damaged."""
    for name in manifest.splits:
        try:
            index = read_index(url, manifest, name)
        except (DamageError, InputError):
            index = None
        first = 0
        for shard in (shard for shard in manifest.shards if shard.split == name):
            yield shard, None if index is None else index.slice(first, shard.samples)
            first += shard.samples


def _table(url: str, name: str, written: FileRecord) -> pa.Table:
    return storage.parse_parquet(read_checked(url, name, written), storage.join(url, name))


def _earlier(url: str, part: int, now: DatasetManifest) -> DatasetManifest:
    parts = len(now.parts)
    if not 0 <= part < parts:
        raise InputError(f"{url}: no part {part}; it has {parts}, the first is 0")
    file = storage.join(url, earlier_manifest(part))
    manifest = parse_manifest(storage.read_bytes(file), file)
    assert isinstance(manifest, DatasetManifest)
    return manifest
