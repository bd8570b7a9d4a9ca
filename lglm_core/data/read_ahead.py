"""Whole files in order, the next ones on their way already."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lglm_core.data import storage
from lglm_core.data.disk import DiskPlace
from lglm_core.data.place import Place, UnreadableFile
from lglm_core.errors import InputError

Read = bytes | UnreadableFile


def read_ahead(urls: Iterable[str]) -> Iterator[Read]:
    """Yield the files' bytes in order; of one that cannot be read, the reason.

    Remote ones and those in archives are read by threads. Of those on this disk the kernel is told which
    come next, and reads them itself: handed from thread to thread their bytes would change cores, which
    costs as much as two thirds of the digests of a shard.
    """
    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        ahead: deque[Callable[[], Read]] = deque()
        try:
            for url in urls:
                ahead.append(_begin(url, pool))
                if len(ahead) > storage.READERS:
                    yield ahead.popleft()()
            while ahead:
                yield ahead.popleft()()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(url: str, pool: ThreadPoolExecutor) -> Callable[[], Read]:
    """Begin reading a file; what is returned waits for it."""
    try:
        place = storage.locate(url)
    except (InputError, ValueError) as error:  # no address at all, in one row of a table
        reason = UnreadableFile(str(error))
        return lambda: reason
    if isinstance(place, DiskPlace):
        place.expect()
        return partial(_read, place)
    return pool.submit(_read, place).result


def _read(place: Place) -> Read:
    try:
        with place.open() as file:
            return file.read()
    except UnreadableFile as error:
        return error
    except (OSError, ValueError, MemoryError) as error:  # a failing disk, an impossible name, a giant
        return UnreadableFile(f"{storage.shown(place.url)}: cannot be read ({error or 'too large'})")
