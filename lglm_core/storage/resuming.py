"""Reading from a server that may drop the connection."""

import io
import time
from abc import abstractmethod
from typing import Any

from lglm_core.errors import RunError
from lglm_core.storage.retry import RetryPolicy

CHUNK = 1 << 20  # bytes


class Download(io.RawIOBase):
    """A file's bytes from *start* up to *stop*; a lost connection is taken up where it broke off.

    Whoever derives from it asks for the bytes, in ``_request``, and says which errors are ``_transient``.
    """

    _transient: tuple[type[Exception], ...]

    def __init__(self, url: str, patience: RetryPolicy, start: int, stop: int | None) -> None:
        self._url, self._patience = url, patience
        self._position, self._stop = start, stop
        self._end = start  # of what can be read: set by each request
        self._version: object = None  # of the file; one that is replaced meanwhile is refused
        self._body: Any = None
        self._request()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived, at most what fits into *buffer*."""
        attempts, failing_since = 0, 0.0
        while self._position < self._end:
            try:
                data = self._read(min(len(buffer), self._end - self._position))
            except self._transient as error:
                attempts += 1
                failing_since = failing_since or time.monotonic()
                delay = self._patience.delay(attempts, failing_since)
                self._body.close()
                if delay is None:
                    raise self._given_up(error) from error
                time.sleep(delay)
                self._request()
                continue
            buffer[: len(data)] = data
            self._position += len(data)
            return len(data)
        return 0

    def readall(self) -> bytes:
        """Read to the end."""
        return b"".join(iter(lambda: self.read(CHUNK), b""))

    def close(self) -> None:
        """Give the connection back."""
        if self._body is not None:
            self._body.close()
        super().close()

    @abstractmethod
    def _request(self) -> None:
        """Ask for the bytes from ``_position`` on; set ``_body`` and ``_end``, and check the version."""

    @abstractmethod
    def _given_up(self, error: Exception) -> Exception:
        """Return what is raised once patience has run out."""

    def _read(self, most: int) -> bytes:
        data: bytes = self._body.read(most)
        return data

    def _check_version(self, version: object) -> None:
        if self._version not in (None, version):
            raise self._replaced()
        self._version = version

    def _replaced(self) -> RunError:
        return RunError(f"{self._url}: was replaced while it was read; run the same command again")
