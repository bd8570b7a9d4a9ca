"""Where all bytes of a sample lie in its tar: from its first header up to the next sample, or to the end."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from lglm_core.rooms import digest

HEADER = tarfile.BLOCKSIZE  # bytes of the tar header before an image


@dataclass(frozen=True)
class Extent:
    """One sample's bytes in its tar: *size* bytes from *start*, of which *image_size* are the image."""

    shard: str
    start: int
    size: int
    image_size: int
    sha256: str
    envelope_sha256: str

    def image(self, data: bytes) -> bytes:
        """Return the image out of all of the sample's bytes."""
        return data[HEADER : HEADER + self.image_size]

    def problem(self, data: bytes) -> str | None:
        """Say what is not as it was written, or None if every byte is."""
        if len(data) != self.size:
            return f"{len(data)} bytes found, {self.size} were written"
        if digest(self.image(data)) != self.sha256:
            return "the image is not the one that was written (its sha256 differs)"
        if digest(data[:HEADER] + data[HEADER + self.image_size :]) != self.envelope_sha256:
            return "its labels' JSON, or a header of the tar, is not as it was written (its sha256 differs)"
        return None


@dataclass(frozen=True)
class Extents:
    """Those of all samples of an index, whose rows stand in shard order; no Python object is kept for each.

    Args:
        index: Of INDEX_SCHEMA.
        shard_bytes: The size of each shard, by name.
    """

    index: pa.Table
    shard_bytes: Mapping[str, int]

    def __getitem__(self, row: int) -> Extent:
        start = int(self._starts[row])
        return Extent(
            shard=self._shards[row].as_py(),
            start=start,
            size=int(self._stops[row]) - start,
            image_size=int(self._sizes[row]),
            sha256=self._digests[row].as_py(),
            envelope_sha256=self._envelopes[row].as_py(),
        )

    @cached_property
    def _shards(self) -> pa.DictionaryArray:
        return self.index.column("shard").combine_chunks().dictionary_encode()

    @cached_property
    def _digests(self) -> pa.StringArray:
        return self.index.column("sha256").combine_chunks()

    @cached_property
    def _envelopes(self) -> pa.StringArray:
        return self.index.column("envelope_sha256").combine_chunks()

    @cached_property
    def _sizes(self) -> np.ndarray:
        return self.index.column("size").to_numpy()

    @cached_property
    def _starts(self) -> np.ndarray:
        return self.index.column("offset").to_numpy() - HEADER

    @cached_property
    def _stops(self) -> np.ndarray:
        """Where the next sample of the same shard begins, or the shard ends."""
        codes = self._shards.indices.to_numpy()
        ends = np.array(
            [self.shard_bytes[name] for name in self._shards.dictionary.to_pylist()], dtype=np.int64
        )
        last = np.r_[codes[1:] != codes[:-1], True] if len(codes) else np.zeros(0, dtype=bool)
        return np.where(last, ends[codes], np.r_[self._starts[1:], 0])
