"""What lies in a tar file, by one walk from header to header."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from tarfile import BLOCKSIZE, TarFile, TarInfo

from lglm_core.errors import InputError, RunError
from lglm_core.storage.archive_member import Member
from lglm_core.storage.location import Location
from lglm_core.storage.resuming import CHUNK

CHECKSUM = slice(148, 156)  # of a header, within it: octal digits


@dataclass(frozen=True, slots=True)
class TarMember(Member):
    """A file in a tar; its header's checksum tells whether the tar is still the one that was walked."""

    checksum: int = 0

    def _skip_header(self, data: BufferedReader, url: str) -> None:
        try:
            found = int(data.read(BLOCKSIZE)[CHECKSUM].rstrip(b" \0"), 8)
        except ValueError:
            found = -1
        if found != self.checksum:
            raise RunError(f"{url}: the archive was replaced while it was read; run the same command again")


def tar_members(place: Location, url: str, etag: str) -> dict[str, Member]:
    """Walk through a tar, on disk from header to header, elsewhere through all bytes.

    Regular files are listed, and hard links to one before them; of files of one name the last counts. A tar
    that was cut off is refused, also where it was cut between two files.
    """
    members: dict[str, Member] = {}
    try:
        with place.open() as stream:
            tar = _opened(stream)
            for info in _walk(tar):
                _add(info, members, etag)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _broken(url, str(error)) from error
    if place.read_range(tar.offset, BLOCKSIZE) != bytes(BLOCKSIZE):
        raise _broken(url, f"at byte {tar.offset} neither a file begins nor the tar ends")
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
            around=BLOCKSIZE,
            packed=info.size,
            size=info.size,
            etag=f"{etag}-{info.offset:x}",
            refusal="stored as a sparse file; pack it again without --sparse" if info.issparse() else "",
            checksum=info.chksum,
        )


def _broken(url: str, why: str) -> InputError:
    return InputError(f"{url}: not a whole tar file ({why}); fetch or pack it again")
