"""An archive, ``.zip`` or ``.tar``, as a folder to read from.

Nothing is unpacked to disk, and a name in an archive is only a key, never a path. Each process reads the
archive's index once; then every file is one range of the archive, which any number of threads may read.
"""

import re
from io import BufferedReader
from threading import Lock

from lglm_core.errors import InputError
from lglm_core.storage.archive_member import Member
from lglm_core.storage.archive_tar import tar_members
from lglm_core.storage.archive_url import is_zip
from lglm_core.storage.archive_zip import zip_members
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.location import Location, ReadOnly, StoredFile, UnreadableFile, exists
from lglm_core.storage.range_reader import RangeReader

INDEXES_KEPT = 64  # per process; the index of an archive of 100,000 files takes about 40 MB


class ArchiveLocation(ReadOnly):
    """The file *name* in *archive*, or the folder of that name; no name means the archive as a folder."""

    def __init__(self, url: str, archive: Location, name: str) -> None:
        self.url = url
        self.archive = archive
        self.name = name
        self.prefix = f"{name.rstrip('/')}/" if name else ""

    def is_file(self) -> bool:
        """Tell whether the archive holds a file of this name."""
        return exists(self)

    def stat(self) -> StoredFile:
        """Return the file's name, size and etag from the archive's index."""
        member = self._member(_index_of(self.archive))
        return StoredFile(self.name.rpartition("/")[2], member.size, member.etag)

    def is_folder(self) -> bool:
        """Tell whether the name of any file begins with this name and a slash."""
        archive_exists = exists(self.archive)
        if not archive_exists or not self.name:
            return archive_exists
        members = _index_of(self.archive).members(self.archive)
        return any(name.startswith(self.prefix) for name in members)

    def lies_within(self, other: Location) -> bool:
        """Tell whether this, or the archive itself, is *other* or lies below it."""
        if not isinstance(other, ArchiveLocation):
            return self.archive.lies_within(other)
        return self.archive.lies_within(other.archive) and self.prefix.startswith(other.prefix)

    def open(self) -> BufferedReader:
        """Open the file; one that would unpack to more than ``MAX_UNPACKED`` bytes is refused."""
        index = _index_of(self.archive)
        return self._member(index).open(index.reader(self.archive), self.url)

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*."""
        index = _index_of(self.archive)
        return self._member(index).read_range(index.reader(self.archive), self.url, offset, size)

    def list_files(self) -> list[StoredFile]:
        """List every file whose name begins with this name and a slash, as the archive is now."""
        members = _index_of(self.archive, refresh=True).members(self.archive)
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
    """The files in one version of an archive; the first thread to ask reads it while the others wait."""

    def __init__(self, version: StoredFile) -> None:
        self.version = version
        self._lock = Lock()
        self._members: dict[str, Member] | None = None
        self._refusal: InputError | None = None

    def reader(self, archive: Location) -> RangeReader:
        """Return the archive's bytes as a stream with a position of its own."""
        return RangeReader(archive, self.version.size)

    def members(self, archive: Location) -> dict[str, Member]:
        """Return the files by name; a file that is no archive is also read only once."""
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
        if is_zip(archive.url):
            members = zip_members(archive, self.version)
        else:
            members = tar_members(archive, self.version)
        return {re.sub(r"^(\./)+", "", name): member for name, member in members.items()}


_indexes: dict[str, _Index] = {}
_indexes_lock = Lock()


def _index_of(archive: Location, *, refresh: bool = False) -> _Index:
    """Return the index of an archive.

    For an archive on disk it always describes the file as it is now; elsewhere, where asking takes a request,
    the one that was read first, unless *refresh*.
    """
    index = _indexes.get(archive.url)
    if index and not refresh and not isinstance(archive, DiskLocation):
        return index
    version = archive.stat()
    if version.size < 0:
        raise InputError(f"{archive.url}: the web server does not tell its size; fetch the archive first")
    with _indexes_lock:
        index = _indexes.pop(archive.url, None)
        if not index or index.version != version:
            index = _Index(version)
        _indexes[archive.url] = index
        if len(_indexes) > INDEXES_KEPT:
            del _indexes[next(iter(_indexes))]
    return index
