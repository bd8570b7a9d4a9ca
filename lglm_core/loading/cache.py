"""What was read of remote shards, kept on this machine's disk."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lglm_core import storage
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.sample_spans import SampleSpan
from lglm_core.errors import InputError
from lglm_core.rooms import ShardRecord

COPY = re.compile(r"[0-9a-f]{64}\.tar")  # so that no file of somebody's is taken for a copy
logger = logging.getLogger("lglm.cache")
_warned: set[Path] = set()


def with_cache(dataset: Dataset, folder: str | os.PathLike[str], max_bytes: int) -> Dataset:
    """Return the same dataset, but keep what is read of it in *folder* on this machine's disk.

    Args:
        max_bytes: The most that this dataset may take up there; what is kept of others makes room for it.
            Processes may share the folder; datasets that are read at once may take up as much each.
    """
    folder = os.fspath(folder)
    if not storage.is_local(folder) or storage.lies_within(folder, dataset.url):
        raise InputError(
            f"{folder}: no place to keep shards in; name a folder on this disk, outside the dataset"
        )
    folder = str(storage.local_path(folder))
    return replace(dataset, cache=ShardCache.of(dataset.manifest.shards, folder, max_bytes))


@dataclass(frozen=True)
class ShardCache:
    """Sparse copies of shards: a sample read once lies in its copy where it lies in the shard.

    A sample counts as there when its digest says so: processes share the folder without locks, and what a
    kill or a bad disk left is read anew. ``copies`` holds a path for every shard that is kept; the others,
    beyond the bound, are always read where they are: of pictures read in a random order none is likelier
    to be asked for again than another.
    """

    copies: Mapping[str, Path]

    @classmethod
    def of(cls, shards: Sequence[ShardRecord], folder: str, max_bytes: int) -> "ShardCache":
        """Choose what is kept, and remove older copies of other shards that leave too little room for it.

        Args:
            shards: Of a dataset, as its manifest tells of them.
            max_bytes: The most that copies of these shards may take up on disk. Those of others count towards
                it only now: datasets that are read at the same time may come to take up as much each.

        Raises:
            InputError: *folder* is none, and cannot be made.
        """
        chosen, filled = {}, 0
        for shard in shards:
            name = f"{shard.sha256}.tar"
            if filled + shard.bytes <= max_bytes and COPY.fullmatch(name):  # else perhaps a path
                chosen[shard.name] = Path(folder, name)
                filled += shard.bytes
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: no folder to keep shards in ({error.strerror}); "
                "name one on this machine's disk that is there or can be made"
            ) from error
        _make_room(Path(folder), set(chosen.values()), max_bytes - filled)
        return cls(chosen)

    def get(self, span: SampleSpan) -> bytes | None:
        """Return all bytes of a sample, or None where they are not kept, or not whole."""
        try:
            with self.copies[span.shard].open("rb") as file:
                data = os.pread(file.fileno(), span.size, span.start)
        except (KeyError, OSError):
            return None
        is_hole = not data[:1].strip(b"\0")  # a tar header begins with a name
        return None if is_hole or span.problem(data) else data

    def keep(self, span: SampleSpan, data: bytes) -> None:
        """Keep all bytes of a sample, if its shard is one that is kept."""
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


def _make_room(folder: Path, ours: set[Path], for_others: int) -> None:
    """Remove the copies longest untouched, of shards that are not ours, beyond *for_others* bytes."""
    others = []
    for path in {path for path in folder.iterdir() if COPY.fullmatch(path.name)} - ours:
        with suppress(FileNotFoundError):  # another process makes room as well
            found = path.stat()
            others.append((found.st_mtime_ns, found.st_blocks * 512, path))
    for _, size, path in sorted(others, reverse=True):
        for_others -= size
        if for_others < 0:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _warn(path, f"cannot be removed ({error.strerror})")


def _warn(copy: Path, what: str) -> None:
    """Warn once in a process: what ails a folder, ails it at every picture."""
    if copy.parent not in _warned:
        _warned.add(copy.parent)
        logger.warning(f"{copy}: {what}; reading goes on, and nothing more is said of this folder")
