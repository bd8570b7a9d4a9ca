"""Whole files in order, the next ones on their way already."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO

from lglm_core.data import storage
from lglm_core.data.disk import DiskPlace
from lglm_core.data.place import Place, UnreadableFile
from lglm_core.errors import InputError

Read = bytes | UnreadableFile


def read_ahead(urls: Iterable[str]) -> Iterator[Read]:
    """Yield the files' bytes in order; of one that cannot be read, the reason.

    Remote ones and those in archives are read by threads. Those on this disk are opened, and the kernel reads
    them: handed from thread to thread their bytes would change cores, which costs as much as two thirds of
    the digests of a shard.
    """
    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        ahead: deque[_OpenFile | Future[Read]] = deque()
        try:
            for url in urls:
                ahead.append(_begin(url, pool))
                if len(ahead) > storage.READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for begun in ahead:
                begun.cancel()


class _OpenFile:
    """What a future is to a file elsewhere: one of this disk, open, and on its way into memory."""

    def __init__(self, place: DiskPlace) -> None:
        self._url = place.url
        self._file = FileIO(place.descriptor())
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # not every file system takes advice
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def result(self) -> Read:
        with self._file as file:
            return _or_reason(file.readall, self._url)

    def cancel(self) -> None:
        self._file.close()


def _begin(url: str, pool: ThreadPoolExecutor) -> "_OpenFile | Future[Read]":
    try:
        place = storage.locate(url)
        if isinstance(place, DiskPlace):
            return _OpenFile(place)
        return pool.submit(_or_reason, lambda: _whole(place), url)
    except (InputError, OSError, ValueError) as error:  # ValueError: no name for a file, or no address
        nothing: Future[Read] = Future()
        nothing.set_result(_reason(error, url))
        return nothing


def _whole(place: Place) -> bytes:
    with place.open() as file:
        return file.read()


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
    return UnreadableFile(f"{storage.shown(url)}: cannot be read ({error or 'too large'})")
