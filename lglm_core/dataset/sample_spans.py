"""Where the bytes of a sample lie in its tar: from its first header to the next sample, or to the end."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from lglm_core.rooms.canonical import digest

HEADER = tarfile.BLOCKSIZE  # bytes of the tar header before an image


@dataclass(frozen=True)
class SampleSpan:
    """The bytes of one sample in its tar: *size* bytes from *start*, of which *image_size* are the image."""

    shard: str
    start: int
    size: int
    image_size: int
    sha256: str
    envelope_sha256: str

    def image(self, data: bytes) -> bytes:
        """Return the encoded image, cut out of all bytes of the sample."""
        return data[HEADER : HEADER + self.image_size]

    def problem(self, data: bytes) -> str | None:
        """Return what is wrong with the bytes of the sample, or None if all are as they were written."""
        if len(data) != self.size:
            return f"{len(data)} bytes found, {self.size} were written"
        if digest(self.image(data)) != self.sha256:
            return "the image is not the one that was written (its sha256 differs)"
        if digest(data[:HEADER] + data[HEADER + self.image_size :]) != self.envelope_sha256:
            return "its labels' JSON, or a header of the tar, is not as it was written (its sha256 differs)"
        return None


def with_stops(index: pa.Table, shard_bytes: Mapping[str, int]) -> pa.Table:
    """Add the column ``stop`` to an index: where the next sample of the same shard begins, or the shard ends.

    Args:
        index: A whole INDEX_SCHEMA table, in shard order.
        shard_bytes: The size of each shard in bytes, by name.
    """
    shards = index.column("shard").combine_chunks().dictionary_encode()
    codes, starts = shards.indices.to_numpy(), index.column("offset").to_numpy() - HEADER
    ends = np.array([shard_bytes[name] for name in shards.dictionary.to_pylist()], dtype=np.int64)
    last = np.ones(len(codes), dtype=bool)
    last[:-1] = codes[1:] != codes[:-1]
    stops = np.where(last, ends[codes], np.append(starts[1:], 0)) if len(codes) else starts
    return index.append_column("stop", pa.array(stops, pa.int64()))


@dataclass(frozen=True)
class SampleSpans:
    """The spans of all samples, by row of an index from :func:`with_stops`; each is made when asked for."""

    index: pa.Table

    def __getitem__(self, row: int) -> SampleSpan:
        names, numbers = self._columns
        start = int(numbers["offset"][row]) - HEADER
        return SampleSpan(
            shard=names["shard"][row].as_py(),
            start=start,
            size=int(numbers["stop"][row]) - start,
            image_size=int(numbers["size"][row]),
            sha256=names["sha256"][row].as_py(),
            envelope_sha256=names["envelope_sha256"][row].as_py(),
        )

    @cached_property
    def _columns(self) -> tuple[dict[str, pa.Array], dict[str, np.ndarray]]:
        names = ("shard", "sha256", "envelope_sha256")
        return (
            {name: self.index.column(name).combine_chunks() for name in names},
            {name: self.index.column(name).to_numpy() for name in ("offset", "stop", "size")},
        )
