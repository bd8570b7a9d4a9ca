"""A seekable file over a location, for libraries that seek: zipfile, pyarrow."""

import errno
import io
from typing import Any

from lglm_core.storage.location import Location


class RangeReader(io.RawIOBase):
    """The file at *location*, of *size* bytes, as a seekable stream: every read is one ``read_range``."""

    def __init__(self, location: Location, size: int) -> None:
        self._location, self._size, self._position = location, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; nothing is fetched until the next read."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, f"a position of {position}")  # as files do, which zipfile expects
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Read one range into *buffer* and return its length in bytes."""
        size = min(len(buffer), max(self._size - self._position, 0))
        data = self._location.read_range(self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
