"""Tar archives whose bytes depend on the names and contents of their members alone."""

import hashlib
import tarfile
from typing import BinaryIO

from lglm_core.errors import InputError

END = bytes(2 * tarfile.BLOCKSIZE)
LARGEST = 8**11 - 1  # bytes of a member: eleven octal digits hold no more


class TarWriter:
    """Writes an archive and digests it on the way; ``size`` counts the bytes written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Write the next bytes: the members, each in its :func:`frame`, then :data:`END`."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """The digest of everything written so far, in hexadecimal."""
        return self._digest.hexdigest()


def frame(name: str, data: bytes) -> tuple[bytes, bytes]:
    """Return what makes *data* a member of an archive: the header before it, and the padding behind it.

    Raises:
        InputError: it has more than :data:`LARGEST` bytes.
    """
    return _header(name, len(data)), bytes(-len(data) % tarfile.BLOCKSIZE)


def _template() -> bytes:
    member = tarfile.TarInfo()
    member.mode, member.mtime = 0o644, 0
    return member.tobuf(tarfile.USTAR_FORMAT)


TEMPLATE = _template()
# All members' headers are the same but for name, size and checksum, in bytes 0, 124 and 148.
OWNER, TIME, REST = TEMPLATE[100:124], TEMPLATE[136:148], TEMPLATE[156:]
SUM = sum(OWNER) + sum(TIME) + 8 * ord(" ") + sum(REST)  # a checksum counts itself as spaces


def _header(name: str, size: int) -> bytes:
    """Return what tarfile writes for a ustar member without time and owner, in a fraction of the time."""
    if size > LARGEST:
        raise InputError(f"{name}: has {size} bytes, a tar takes at most {LARGEST}; leave it out")
    called, length = name.encode("ascii"), b"%011o\0" % size
    checksum = b"%06o\0 " % (SUM + sum(called) + sum(length))
    return called.ljust(100, b"\0") + OWNER + length + TIME + checksum + REST
