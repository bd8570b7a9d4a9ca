"""An archive, ``.zip`` or ``.tar``, as a folder to read from.

Nothing is unpacked to disk, and a name in an archive is but a key. What lies where is found out once in
each process; then every file is one read of a range, from as many threads as you like.
"""

import re
from io import BufferedReader
from threading import Lock

from lglm_core.errors import InputError
from lglm_core.storage.archive_member import Member, Ranges
from lglm_core.storage.archive_tar import tar_members
from lglm_core.storage.archive_zip import zip_members
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.location import Location, ReadOnly, StoredFile, UnreadableFile, exists

ARCHIVES = 64  # whose indexes a process keeps; one of 100,000 files takes about 40 MB


class ArchiveLocation(ReadOnly):
    """What is called *name* in *archive*, or lies below it there; no name is the archive as a folder."""

    def __init__(self, url: str, archive: Location, name: str) -> None:
        self.url = url
        self.archive = archive
        self.name = name
        self.prefix = f"{name.rstrip('/')}/" if name else ""

    def is_file(self) -> bool:
        """Tell whether the archive holds a file of this name."""
        return exists(self)

    def stat(self) -> StoredFile:
        """Ask the index."""
        member = self._member(_index_of(self.archive))
        return StoredFile(self.name.rpartition("/")[2], member.size, member.etag)

    def is_folder(self) -> bool:
        """Tell whether any file's name begins with this one and a slash."""
        there = exists(self.archive)
        if not there or not self.name:
            return there
        members = _index_of(self.archive).members(self.archive)
        return any(name.startswith(self.prefix) for name in members)

    def lies_within(self, other: Location) -> bool:
        """Tell whether this is *other* or something below it; the archive may lie below it, too."""
        if not isinstance(other, ArchiveLocation):
            return self.archive.lies_within(other)
        return self.archive.lies_within(other.archive) and self.prefix.startswith(other.prefix)

    def open(self) -> BufferedReader:
        """Open the file."""
        index = _index_of(self.archive)
        return self._member(index).open(index.ranges(self.archive), self.url)

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*."""
        index = _index_of(self.archive)
        return self._member(index).read_range(index.ranges(self.archive), self.url, offset, size)

    def list_files(self) -> list[StoredFile]:
        """List every file whose name begins with this one and a slash, as the archive is now."""
        members = _index_of(self.archive, anew=True).members(self.archive)
        files = [
            StoredFile(name[len(self.prefix) :], member.size, member.etag)
            for name, member in members.items()
            if name.startswith(self.prefix)
        ]
        if not files and self.name:
            raise InputError(f"{self.url}: no such folder in the archive")
        return sorted(files, key=lambda file: file.name)

    def _member(self, index: "_Index") -> Member:
        try:
            return index.members(self.archive)[self.name]
        except KeyError:
            raise UnreadableFile(f"{self.url}: no such file in the archive", missing=True) from None


class _Index:
    """What one version of an archive holds, found out by whoever asks first while the others wait."""

    def __init__(self, version: StoredFile) -> None:
        self.version = version
        self._lock = Lock()
        self._members: dict[str, Member] | None = None
        self._refusal: InputError | None = None

    def ranges(self, archive: Location) -> Ranges:
        """Return the archive's bytes, with a position of their own."""
        return Ranges(archive, self.version.size)

    def members(self, archive: Location) -> dict[str, Member]:
        """Return the files by their names; an archive that is none is looked through only once, too."""
        with self._lock:
            if self._refusal:
                raise self._refusal
            if self._members is None:
                try:
                    self._members = self._read(archive)
                except InputError as error:
                    self._refusal = error
                    raise
            return self._members

    def _read(self, archive: Location) -> dict[str, Member]:
        if archive.url.lower().endswith(".zip"):
            found = zip_members(self.ranges(archive), archive.url)
        else:
            found = tar_members(archive, archive.url, self.version.etag)
        return {re.sub(r"^(\./)+", "", name): member for name, member in found.items()}


_indexes: dict[str, _Index] = {}
_indexes_lock = Lock()


def _index_of(archive: Location, *, anew: bool = False) -> _Index:
    """Return an archive's index; on disk it is always that of the file as it is now, elsewhere if *anew*."""
    index = _indexes.get(archive.url)
    if index and not anew and not isinstance(archive, DiskLocation):
        return index
    version = archive.stat()
    if version.size < 0:
        raise InputError(f"{archive.url}: the web server does not tell its size; fetch the archive first")
    with _indexes_lock:
        index = _indexes.pop(archive.url, None)
        if not index or index.version != version:
            index = _Index(version)
        _indexes[archive.url] = index
        if len(_indexes) > ARCHIVES:
            del _indexes[next(iter(_indexes))]
    return index
