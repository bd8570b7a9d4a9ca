"""Reading whole files in order, while the next ones are already being fetched."""

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

CHUNK = 4 << 20  # bytes, more than nearly every image has
Read = bytes | UnreadableFile


def read_ahead(urls: Iterable[str], max_bytes: int | None = None) -> Iterator[Read]:
    """Yield each file's bytes in order, or the error if it is unreadable or larger than *max_bytes*.

    Threads read files on servers and in archives. Files on this disk are only opened ahead, and the kernel
    reads them: bytes handed from thread to thread change cores, which costs two thirds of the time that the
    digests of a shard take.
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
    """A file on this disk, opened and being read by the kernel; it has a future's methods."""

    def __init__(self, location: DiskLocation, max_bytes: int | None) -> None:
        self._url, self._max_bytes = location.url, max_bytes
        self._file = FileIO(location.descriptor())
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # not every file system supports it
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def result(self) -> Read:
        with self._file:
            return _or_error(self._read, self._url)

    def _read(self) -> bytes:
        if self._max_bytes is not None and os.fstat(self._file.fileno()).st_size > self._max_bytes:
            raise _too_large(self._url, self._max_bytes)
        return self._file.readall()

    def cancel(self) -> None:
        self._file.close()


def _begin(url: str, pool: ThreadPoolExecutor, max_bytes: int | None) -> "_OpenFile | Future[Read]":
    try:
        location = storage.locate(url)
        if isinstance(location, DiskLocation):
            return _OpenFile(location, max_bytes)
        return pool.submit(_or_error, lambda: _read_whole(location, max_bytes), url)
    except (InputError, OSError, ValueError) as error:  # ValueError: not a valid path or address
        failed: Future[Read] = Future()
        failed.set_result(_unreadable(error, url))
        return failed


def _read_whole(location: Location, max_bytes: int | None) -> bytes:
    with location.open() as file:
        if max_bytes is None:
            return file.read()
        chunks, size = [], 0
        while chunk := file.read(CHUNK):  # reading max_bytes at once would take as much memory in each thread
            chunks.append(chunk)
            if (size := size + len(chunk)) > max_bytes:
                raise _too_large(location.url, max_bytes)
        return b"".join(chunks)


def _too_large(url: str, max_bytes: int) -> UnreadableFile:
    return UnreadableFile(f"{storage.redact_url(url)}: more than {max_bytes} bytes", too_large=True)


def _or_error(read: Callable[[], bytes], url: str) -> Read:
    try:
        return read()
    except (UnreadableFile, OSError, ValueError, MemoryError) as error:  # one file must not stop the others
        return _unreadable(error, url)


def _unreadable(error: Exception, url: str) -> UnreadableFile:
    if isinstance(error, UnreadableFile):
        return error
    if isinstance(error, InputError):
        return UnreadableFile(str(error))
    return UnreadableFile(f"{storage.redact_url(url)}: cannot be read ({error or 'too large'})")
