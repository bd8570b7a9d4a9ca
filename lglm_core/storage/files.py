"""Files by URL: the only module that knows what a scheme means.

A plain path and ``file://`` name the local disk, ``s3://bucket/key`` an object in a bucket. Everything
is published whole: a file that exists was written to its end. Only read are ``http://`` and ``https://``,
and what lies in an archive, ``photos.zip/cats/1.jpg``, wherever the archive lies.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from lglm_core.errors import InputError, RunError
from lglm_core.storage.disk import NO_ROOM, DiskLocation
from lglm_core.storage.location import Location, StoredFile, UnreadableFile
from lglm_core.storage.url import (
    ARCHIVE,
    is_file_url,
    is_local,
    is_web,
    local_name,
    redact_url,
    unquote_path,
)

COPY_BYTES = 1 << 20
ATTEMPTS = 3
READERS = 16  # files read at a time by one process: a bucket answers late, but many at once


def locate(url: str) -> Location:
    """Return the place that *url* names; nothing is looked up yet, save whether a ``.zip`` is a file."""
    return (_in_archive(url) if ARCHIVE.search(url) else None) or _outside(url)


def _outside(url: str) -> Location:
    """Return the place that *url* names if no part of it is an archive."""
    if is_local(url):
        return DiskLocation(url, local_name(url))
    if is_web(url):
        from lglm_core.storage.http import HttpLocation  # loaded only by those who need it, as boto3 is

        return HttpLocation(url)
    from lglm_core.storage.s3 import S3Location

    return S3Location(f"s3://{url[5:]}")


def _in_archive(url: str) -> Location | None:
    """Return the place within the first archive that *url* leads into, if it does.

    On disk an archive is what is no folder, elsewhere the name decides; a bucket and a host are none.
    """
    start = 0 if is_local(url) else url.find("/", url.index("://") + 3)
    stop = len(url.partition("?")[0]) if is_web(url) else len(url)
    for found in ARCHIVE.finditer(url, start, stop) if start >= 0 else ():
        archive = _outside(url[: found.end()])
        if isinstance(archive, DiskLocation) and not archive.path.is_file():
            continue
        if found[1]:
            raise InputError(
                f"{archive.url}: a tar that is compressed as a whole can only be read from its start; "
                "unpack it, or pack it again as .tar or .zip"
            )
        from lglm_core.storage.archive import ArchiveLocation

        name = url[found.end() + 1 :]
        shown_as = f"{archive.url}/{name}"
        return ArchiveLocation(shown_as, archive, unquote_path(name) if is_file_url(url) else name)
    return None


def _folder(url: str) -> Location:
    """Return the place that *url* names as a folder: of an archive, what lies in it."""
    folder = f"{url.rstrip('/')}/"
    return (_in_archive(folder) if ARCHIVE.search(folder) else None) or _outside(url)


def lies_within(url: str, folder: str) -> bool:
    """Tell whether *url* is *folder* or something below it, links followed."""
    return locate(url).lies_within(locate(folder))


def is_file(url: str) -> bool:
    """Tell whether a file is there."""
    return locate(url).is_file()


def is_folder(url: str) -> bool:
    """Tell whether *url* is a folder (on object storage: a prefix that holds something), or an archive."""
    return _folder(url).is_folder()


def is_empty(url: str) -> bool:
    """Tell whether nothing is stored below *url*; what a killed process left half-written is nothing."""
    return locate(url).is_empty()


def open_stream(url: str) -> BufferedReader:
    """Open a file for reading from its start to its end."""
    return locate(url).open()


def read_bytes(url: str) -> bytes:
    """Read a whole file; one that is missing or not ours to read is an :class:`UnreadableFile`."""
    with reading(url) as file:
        return file.read()


def read_if_exists(url: str) -> bytes | None:
    """Read a whole file, or return None where there is none."""
    try:
        return read_bytes(url)
    except UnreadableFile as error:
        if not error.missing:
            raise
        return None


def sizes(urls: Sequence[str]) -> Iterator[int]:
    """Return each file's size in bytes, in order, looked up several at a time; 0 where none is told."""

    def size(url: str) -> int:
        try:
            place = locate(url)
        except (InputError, OSError, ValueError):  # it is none, which its reader will tell
            return 0
        try:
            return max(0, place.stat().size)  # some web servers do not say
        except (UnreadableFile, ValueError):
            return 0

    with ThreadPoolExecutor(READERS, thread_name_prefix="sizes") as pool:
        for start in range(0, len(urls), 64 * READERS):
            yield from pool.map(size, urls[start : start + 64 * READERS])


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read *size* bytes from *offset*; fewer come back only at the file's end."""
    return locate(url).read_range(offset, size)


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Yield a path on this disk with the file's content: the file itself where it lies here already."""
    place = locate(url)
    if isinstance(place, DiskLocation):
        yield place.path
        return
    with TemporaryDirectory(prefix="lglm-copy-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, "copy")
        with place.open() as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
        yield copy


def sha256(url: str) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with reading(url) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(url: str) -> Iterator[BufferedReader]:
    """Open a file; a disk that fails while it is read makes it one that cannot be read."""
    with open_stream(url) as file:
        try:
            yield file
        except OSError as error:
            raise UnreadableFile(f"{redact_url(url)}: cannot be read ({error.strerror or error})") from error


@contextmanager
def write_whole(url: str) -> Iterator[Path]:
    """Yield a scratch path; publish the file written there at *url* only if the block succeeds."""
    place = locate(url)
    with _staging(place) as staged:
        yield staged
        place.publish(staged)


@contextmanager
def _staging(place: Location) -> Iterator[Path]:
    """Yield a scratch path of a place; a disk that takes no more is told of as such."""
    where = place.url if isinstance(place, DiskLocation) else f"{gettempdir()}, on the way to {place.url}"
    try:
        with place.staging() as staged:
            yield staged
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunError(
            f"{where}: cannot be written ({error.strerror}); make room and run the same again"
        ) from error


def write_bytes(url: str, data: bytes) -> None:
    """Publish *data* at *url*."""
    with write_whole(url) as staged:
        staged.write_bytes(data)


def create(url: str, data: bytes) -> bytes:
    """Publish *data* at *url* unless something is there; return what stands there now.

    Of two writers at once one wins, and both are told by what comes back. On an object store that
    ignores ``If-None-Match``, the last one does.
    """
    place = locate(url)
    with _staging(place) as staged:
        staged.write_bytes(data)
        for attempt in range(1, ATTEMPTS + 1):
            if place.create(staged):
                break
            try:
                return read_bytes(url)
            except UnreadableFile as error:
                if not error.missing or attempt == ATTEMPTS:  # else it was removed just now
                    raise
        return data


def remove(url: str) -> None:
    """Delete a file or a folder, if it is there."""
    locate(url).remove()


def remove_unfinished(url: str) -> None:
    """Delete what killed writers left below *url*."""
    locate(url).remove_unfinished()


def list_files(url: str) -> list[StoredFile]:
    """List every file below *url*, at any depth, ordered by name; links to folders are not followed."""
    return _folder(url).list_files()
