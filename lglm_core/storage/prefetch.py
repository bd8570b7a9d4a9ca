"""Whole files in order, the next ones on their way already."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.location import Location, UnreadableFile

CHUNK = 4 << 20  # bytes, more than nearly all pictures have
Read = bytes | UnreadableFile


def read_ahead(urls: Iterable[str], max_bytes: int | None = None) -> Iterator[Read]:
    """Yield the files' bytes in order; of one that cannot be read, or has more than *max_bytes*, the reason.

    Remote ones and those in archives are read by threads. Those on this disk are opened, and the kernel reads
    them: handed from thread to thread their bytes would change cores, which costs as much as two thirds of
    the digests of a shard.
    """
    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        ahead: deque[_OpenFile | Future[Read]] = deque()
        try:
            for url in urls:
                ahead.append(_begin(url, pool, max_bytes))
                if len(ahead) > storage.READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for begun in ahead:
                begun.cancel()


class _OpenFile:
    """What a future is to a file elsewhere: one of this disk, open, and on its way into memory."""

    def __init__(self, place: DiskLocation, max_bytes: int | None) -> None:
        self._url, self._max_bytes = place.url, max_bytes
        self._file = FileIO(place.descriptor())
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # not every file system takes advice
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def result(self) -> Read:
        with self._file:
            return _or_reason(self._read, self._url)

    def _read(self) -> bytes:
        if self._max_bytes is not None and os.fstat(self._file.fileno()).st_size > self._max_bytes:
            raise _too_large(self._url, self._max_bytes)
        return self._file.readall()

    def cancel(self) -> None:
        self._file.close()


def _begin(url: str, pool: ThreadPoolExecutor, max_bytes: int | None) -> "_OpenFile | Future[Read]":
    try:
        place = storage.locate(url)
        if isinstance(place, DiskLocation):
            return _OpenFile(place, max_bytes)
        return pool.submit(_or_reason, lambda: _whole(place, max_bytes), url)
    except (InputError, OSError, ValueError) as error:  # ValueError: no name for a file, or no address
        nothing: Future[Read] = Future()
        nothing.set_result(_reason(error, url))
        return nothing


def _whole(place: Location, max_bytes: int | None) -> bytes:
    with place.open() as file:
        if max_bytes is None:
            return file.read()
        parts, size = [], 0
        while part := file.read(CHUNK):  # the whole most at once would be as much memory for every reader
            parts.append(part)
            if (size := size + len(part)) > max_bytes:
                raise _too_large(place.url, max_bytes)
        return b"".join(parts)


def _too_large(url: str, max_bytes: int) -> UnreadableFile:
    return UnreadableFile(f"{storage.redact_url(url)}: more than {max_bytes} bytes", too_large=True)


def _or_reason(read: Callable[[], bytes], url: str) -> Read:
    try:
        return read()
    except (UnreadableFile, OSError, ValueError, MemoryError) as error:  # so that one file stops nobody
        return _reason(error, url)


def _reason(error: Exception, url: str) -> UnreadableFile:
    if isinstance(error, UnreadableFile):
        return error
    if isinstance(error, InputError):
        return UnreadableFile(str(error))
    return UnreadableFile(f"{storage.redact_url(url)}: cannot be read ({error or 'too large'})")
