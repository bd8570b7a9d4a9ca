"""A cache on the local disk for samples of remote shards."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lglm_core import storage
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.sample_spans import SampleSpan
from lglm_core.errors import InputError
from lglm_core.rooms import ShardRecord

COPY_NAME = re.compile(r"[0-9a-f]{64}\.tar")  # only files of such a name are ever overwritten or removed
logger = logging.getLogger("lglm.cache")
_warned: set[Path] = set()


def with_cache(dataset: Dataset, folder: str | os.PathLike[str], max_bytes: int) -> Dataset:
    """Return the same dataset with a cache: samples that are read are kept in *folder* on the local disk.

    Args:
        dataset: The dataset to read.
        folder: A folder on this disk, outside the dataset. Several processes may share it.
        max_bytes: The most bytes that copies of this dataset may take up; copies of other datasets are
            removed to make room. Datasets that are read at the same time may take up as much each.

    Raises:
        InputError: *folder* is not on this disk, lies in the dataset, or cannot be created.
    """
    folder = os.fspath(folder)
    if not storage.is_local(folder) or storage.lies_within(folder, dataset.url):
        raise InputError(
            f"{folder}: shards cannot be cached here; name a folder on this disk, outside the dataset"
        )
    folder = str(storage.local_path(folder))
    return replace(dataset, cache=ShardCache.create(dataset.manifest.shards, folder, max_bytes))


@dataclass(frozen=True)
class ShardCache:
    """Sparse copies of shards: each sample that was read is stored at the offset that it has in its shard.

    A stored sample is used only if its digest matches: processes share the folder without locks, and samples
    that a kill or a bad disk damaged are read again. ``copies`` maps the name of each cached shard to the
    path of its copy. Shards beyond the size limit are never cached, and nothing is evicted while reading:
    in a random order, every sample is equally likely to be read next.
    """

    copies: Mapping[str, Path]

    @classmethod
    def create(cls, shards: Sequence[ShardRecord], folder: str, max_bytes: int) -> "ShardCache":
        """Choose the shards to cache, and remove the oldest copies of other shards that exceed the limit.

        Args:
            shards: The shards of a dataset, as in its manifest.
            folder: A path on this disk; the folder is created if it does not exist.
            max_bytes: The most bytes on disk for copies of these shards. Copies of other shards count towards
                it now, but not later: datasets that are read at the same time may take up as much each.

        Raises:
            InputError: *folder* cannot be created.
        """
        chosen, filled = {}, 0
        for shard in shards:
            name = f"{shard.sha256}.tar"
            if filled + shard.bytes <= max_bytes and COPY_NAME.fullmatch(name):  # never a path elsewhere
                chosen[shard.name] = Path(folder, name)
                filled += shard.bytes
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: the folder for cached shards cannot be created ({error.strerror}); "
                "name one on this machine's disk that exists or can be created"
            ) from error
        _make_room(Path(folder), set(chosen.values()), max_bytes - filled)
        return cls(chosen)

    def get(self, span: SampleSpan) -> bytes | None:
        """Return all bytes of a sample, or None if no whole copy of it is cached."""
        try:
            with self.copies[span.shard].open("rb") as file:
                data = os.pread(file.fileno(), span.size, span.start)
        except (KeyError, OSError):
            return None
        is_hole = not data[:1].strip(b"\0")  # a tar header begins with a name
        return None if is_hole or span.problem(data) else data

    def keep(self, span: SampleSpan, data: bytes) -> None:
        """Store all bytes of a sample, if its shard is one of those to cache."""
        if span.shard not in self.copies:
            return
        try:
            copy = os.open(self.copies[span.shard], os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(copy, data, span.start)
            finally:
                os.close(copy)
        except OSError as error:  # such as a full disk
            _warn(self.copies[span.shard], f"cannot be written ({error.strerror})")


def _make_room(folder: Path, ours: set[Path], bytes_left: int) -> None:
    """Remove other shards' copies, the longest unmodified first, until the rest fits in *bytes_left*."""
    others = []
    for path in {path for path in folder.iterdir() if COPY_NAME.fullmatch(path.name)} - ours:
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            status = path.stat()
            others.append((status.st_mtime_ns, status.st_blocks * 512, path))
    for _, size, path in sorted(others, reverse=True):
        bytes_left -= size
        if bytes_left < 0:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _warn(path, f"cannot be removed ({error.strerror})")


def _warn(copy: Path, problem: str) -> None:
    """Log a problem with a folder once per process: it would recur with every sample."""
    if copy.parent not in _warned:
        _warned.add(copy.parent)
        logger.warning(f"{copy}: {problem}; reading continues, without further warnings about this folder")
