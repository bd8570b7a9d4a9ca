"""One file within an archive: its bytes are a range of the archive's, packed or as they are."""

import io
import zlib
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import Any

from lglm_core.storage.location import Location, UnreadableFile
from lglm_core.storage.resuming import CHUNK

MOST_FETCHED = 4 << 20  # bytes of a member read at a time: all of a picture at once
MOST_UNPACKED = 1 << 30  # bytes; what promises to become larger may be made to fill the memory


class Ranges(io.RawIOBase):
    """A file at *place* that can be sought in; each read is one of a range."""

    def __init__(self, place: Location, size: int) -> None:
        self._place, self._size, self._position = place, size, 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought in."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; only what is read afterwards is fetched."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"a position of {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Read one range."""
        data = self._place.read_range(self._position, min(len(buffer), max(self._size - self._position, 0)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class Member:
    """Where in the archive one file lies.

    ``header`` is the offset of its header, ``around`` at most how many bytes of headers precede its
    bytes, of which there are ``packed`` in the archive and ``size`` unpacked; ``crc`` is that of the
    unpacked ones, if the archive knows; ``refusal`` says why it cannot be read, if it cannot.
    """

    header: int
    around: int
    packed: int
    size: int
    etag: str
    deflated: bool = False
    crc: int | None = None
    refusal: str = ""

    def open(self, archive: Ranges, url: str) -> BufferedReader:
        """Open the file; *url* is for errors."""
        return BufferedReader(_Unpacked(self._data(archive, url), self, url), min(CHUNK, self.size) or 1)

    def read_range(self, archive: Ranges, url: str, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*: of a packed file, all before them too."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self.deflated:
            with self.open(archive, url) as file:
                while offset:
                    offset -= len(file.read(min(offset, CHUNK)))
                return file.read(size)
        header = self._data(archive, url, fetched=self.around)
        archive.seek(header.tell() + offset)
        return archive.read(size) or b""

    def _data(self, archive: Ranges, url: str, fetched: int = MOST_FETCHED) -> BufferedReader:
        """Return the archive, read up to where the file's bytes begin, and its first *fetched* bytes."""
        if self.refusal:
            raise UnreadableFile(f"{url}: {self.refusal}")
        archive.seek(self.header)
        data: BufferedReader = BufferedReader(archive, min(self.around + self.packed, fetched))
        self._skip_header(data, url)
        return data

    def _skip_header(self, data: BufferedReader, url: str) -> None:
        """Read the header, and refuse what is none."""
        raise NotImplementedError


class _Unpacked(io.RawIOBase):
    """A member's bytes, unpacked as they are read, as many as were promised, and checked at their end."""

    def __init__(self, data: BufferedReader, member: Member, url: str) -> None:
        self._data, self._member, self._url = data, member, url
        self._packed_left, self._left, self._crc = member.packed, member.size, 0
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(partial(self._next, CHUNK), b""))

    def _next(self, most: int) -> bytes:
        most = min(most, self._left)
        if not most:
            return b""
        data = self._inflated(most) if self._member.deflated else self._fetched(most)
        if not data:
            raise self._damaged("ends too early")
        self._left -= len(data)
        if self._member.crc is not None:
            self._crc = zlib.crc32(data, self._crc)
            if not self._left and self._crc != self._member.crc:
                raise self._damaged("has another checksum (CRC) than was noted")
        return data

    def _inflated(self, most: int) -> bytes:
        while True:
            packed = self._inflate.unconsumed_tail or self._fetched(CHUNK)
            try:
                data = self._inflate.decompress(packed, most)
            except zlib.error as error:
                raise self._damaged(f"cannot be unpacked ({error})") from error
            if data or not packed:
                return data

    def _fetched(self, most: int) -> bytes:
        data = self._data.read(min(most, self._packed_left))
        self._packed_left -= len(data)
        return data

    def _damaged(self, how: str) -> UnreadableFile:
        return UnreadableFile(f"{self._url}: damaged within its archive: {how}")
