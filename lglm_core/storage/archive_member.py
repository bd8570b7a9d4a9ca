"""One file in an archive: a range of the archive's bytes, compressed or stored as they are."""

import io
import zlib
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from typing import Any

from lglm_core.errors import InputError
from lglm_core.storage.location import UnreadableFile
from lglm_core.storage.range_reader import RangeReader
from lglm_core.storage.resuming import CHUNK

MAX_FETCHED = 4 << 20  # bytes of a member that one request fetches: nearly every image as a whole
MAX_UNPACKED = 1 << 30  # bytes; a larger member may be made to fill the memory


class DamagedArchive(InputError):
    """A whole archive is damaged or not one at all; *reason* is the message without its address."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class DamagedMember(UnreadableFile):
    """One file in an archive is damaged; *reason* is the message without its address."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """Where one file lies in an archive.

    ``header`` is the offset of the file's header in the archive and ``header_size`` an estimate of its
    length in bytes. The file takes ``packed`` bytes in the archive and ``size`` bytes unpacked. ``crc`` is
    the checksum of the unpacked bytes, if the archive has one. ``refusal`` says why the file cannot be read;
    it is empty if the file can.
    """

    header: int
    header_size: int
    packed: int
    size: int
    etag: str
    deflated: bool = False
    crc: int | None = None
    refusal: str = ""

    def open(self, archive: RangeReader, url: str, *, max_size: int | None = MAX_UNPACKED) -> BufferedReader:
        """Open the file.

        Args:
            archive: The archive's bytes, of which the stream becomes the only reader.
            url: The file's address, for error messages.
            max_size: A compressed file of more bytes is refused; None takes any, and the caller must not
                read it whole.
        """
        if self.deflated and max_size is not None and self.size > max_size:
            raise UnreadableFile(
                f"{url}: {self.size} bytes unpacked, at most {max_size} taken; unpack the zip first"
            )
        packed = self._packed_bytes(archive, url)
        return BufferedReader(_Unpacked(packed, self, url), min(CHUNK, self.size) or 1)

    def read_range(self, archive: RangeReader, url: str, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*; a compressed file has to be unpacked from its start."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self.deflated:
            with self.open(archive, url) as file:
                while offset:
                    offset -= len(file.read(min(offset, CHUNK)))
                return file.read(size)
        packed = self._packed_bytes(archive, url, fetched=self.header_size)
        archive.seek(packed.tell() + offset)
        return archive.read(size) or b""

    def _packed_bytes(self, archive: RangeReader, url: str, fetched: int = MAX_FETCHED) -> BufferedReader:
        """Return a stream at the first of the file's bytes in the archive; *fetched* bytes at a time."""
        if self.refusal:
            raise UnreadableFile(f"{url}: {self.refusal}")
        archive.seek(self.header)
        packed: BufferedReader = BufferedReader(archive, min(self.header_size + self.packed, fetched))
        self._skip_header(packed, url)
        return packed

    def _skip_header(self, archive: BufferedReader, url: str) -> None:
        """Read the file's header, and raise an error if it is not one."""
        raise NotImplementedError


class _Unpacked(io.RawIOBase):
    """A member's bytes, unpacked as they are read, and checked against the size and checksum noted."""

    def __init__(self, packed: BufferedReader, member: Member, url: str) -> None:
        self._packed, self._member, self._url = packed, member, url
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
        data = self._packed.read(min(most, self._packed_left))
        self._packed_left -= len(data)
        return data

    def _damaged(self, reason: str) -> DamagedMember:
        return DamagedMember(f"{self._url}: damaged within its archive: {reason}", reason=reason)
