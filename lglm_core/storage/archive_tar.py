"""The files in a tar, found by reading its headers from the first to the last."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from tarfile import BLOCKSIZE, TarFile, TarInfo

from lglm_core.errors import RunError
from lglm_core.storage.archive_member import DamagedArchive, Member
from lglm_core.storage.location import Location, StoredFile
from lglm_core.storage.resuming import CHUNK

CHECKSUM = slice(148, 156)  # octal digits in a header
SPARSE = "stored as a sparse file; pack it again without tar's option for sparse files"


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """A file in a tar; a header with another checksum shows that the tar was replaced."""

    checksum: int = 0

    def _skip_header(self, archive: BufferedReader, url: str) -> None:
        try:
            found = int(archive.read(BLOCKSIZE)[CHECKSUM].rstrip(b" \0"), 8)
        except ValueError:
            found = -1
        if found != self.checksum:
            raise RunError(f"{url}: the archive was replaced while it was read; run the same command again")


def tar_members(archive: Location, version: StoredFile) -> dict[str, Member]:
    """Return the files in a tar by name, in the tar's order.

    On disk the walk seeks from header to header; elsewhere it reads all bytes. Regular files count, and hard
    links to a regular file before them; of two files with one name the later counts.

    Args:
        archive: Where the tar lies.
        version: What ``stat()`` tells of it; its etag becomes a part of each file's etag.

    Raises:
        DamagedArchive: The file is not a tar or was cut off, even if it was cut between two files.
    """
    members: dict[str, Member] = {}
    try:
        with archive.open() as stream:
            tar = _opened(stream)
            for info in _walk(tar):
                _add(info, members, version.etag)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _damaged(archive.url, str(error)) from error
    if archive.read_range(tar.offset, BLOCKSIZE) != bytes(BLOCKSIZE):
        raise _damaged(archive.url, f"at byte {tar.offset} neither a file begins nor the tar ends")
    return members


def _opened(stream: BufferedReader) -> TarFile:
    if stream.seekable():
        return TarFile.open(fileobj=stream, mode="r:", encoding="utf-8")
    return TarFile.open(fileobj=stream, mode="r|", bufsize=CHUNK, encoding="utf-8")


def _walk(tar: TarFile) -> Iterator[TarInfo]:
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
        yield info


def _add(info: TarInfo, members: dict[str, Member], etag: str) -> None:
    if info.islnk() and info.linkname in members:
        members[info.name] = members[info.linkname]
    elif info.isreg():
        members[info.name] = TarMember(
            header=info.offset_data - BLOCKSIZE,
            header_size=BLOCKSIZE,
            packed=info.size,
            size=info.size,
            etag=f"{etag}-{info.offset:x}",
            refusal=SPARSE if info.issparse() else "",
            checksum=info.chksum,
        )


def _damaged(url: str, reason: str) -> DamagedArchive:
    return DamagedArchive(f"{url}: not a whole tar file ({reason}); fetch or pack it again", reason=reason)
