"""Downloads that resume after a lost connection."""

import io
import time
from abc import abstractmethod
from typing import Any

from lglm_core.errors import RunError
from lglm_core.storage.retry import RetryPolicy

CHUNK = 1 << 20  # bytes


class Download(io.RawIOBase):
    """A file's bytes from *start* up to *stop*; after a lost connection the rest is requested again.

    A subclass requests the bytes, in ``_request``, and names the errors that are ``_transient``.
    """

    _transient: tuple[type[Exception], ...]

    def __init__(self, url: str, retry_policy: RetryPolicy, start: int, stop: int | None) -> None:
        self._url, self._retry_policy = url, retry_policy
        self._position, self._stop = start, stop
        self._end = start  # of the bytes that can be read; every request sets it
        self._version: object = None  # of the file; another version is refused
        self._body: Any = None
        self._request()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the bytes that have arrived, at most as many as fit into *buffer*."""
        attempts, failing_since = 0, 0.0
        while self._position < self._end:
            try:
                data = self._read(min(len(buffer), self._end - self._position))
            except self._transient as error:
                attempts += 1
                failing_since = failing_since or time.monotonic()
                delay = self._retry_policy.delay(attempts, failing_since)
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
        """Release the connection."""
        if self._body is not None:
            self._body.close()
        super().close()

    @abstractmethod
    def _request(self) -> None:
        """Request the bytes from ``_position`` on, set ``_body`` and ``_end``, and check the version."""

    @abstractmethod
    def _given_up(self, error: Exception) -> Exception:
        """Return the exception to raise once the retry policy gives up."""

    def _read(self, most: int) -> bytes:
        data: bytes = self._body.read(most)
        return data

    def _check_version(self, version: object) -> None:
        if self._version not in (None, version):
            raise self._replaced()
        self._version = version

    def _replaced(self) -> RunError:
        return RunError(f"{self._url}: was replaced while it was read; run the same command again")
