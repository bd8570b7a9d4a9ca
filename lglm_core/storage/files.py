"""Reading, writing and listing files by URL.

A file is published as a whole: one that exists was written to its end. Web servers and archives can only be
read.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from lglm_core.errors import InputError
from lglm_core.storage.disk import DiskLocation, full_disk_refused
from lglm_core.storage.location import Location, StoredFile, UnreadableFile
from lglm_core.storage.schemes import locate, locate_folder
from lglm_core.storage.url import redact_url

COPY_BYTES = 1 << 20
CREATE_ATTEMPTS = 3
READERS = 16  # files that one process reads at a time: a bucket answers late, but many requests at once


def lies_within(url: str, folder: str) -> bool:
    """Tell whether *url* is *folder* or lies below it; links on disk are followed."""
    return locate(url).lies_within(locate(folder))


def is_file(url: str) -> bool:
    """Tell whether a file exists at *url*."""
    return locate(url).is_file()


def is_folder(url: str) -> bool:
    """Tell whether *url* is a folder (on object storage: a prefix that holds an object) or an archive."""
    return locate_folder(url).is_folder()


def is_empty(url: str) -> bool:
    """Tell whether no file is stored below *url*; unfinished files of a killed process do not count."""
    return locate(url).is_empty()


def open_stream(url: str) -> BufferedReader:
    """Open a file for reading from its start to its end."""
    return locate(url).open()


@contextmanager
def reading(url: str) -> Iterator[BufferedReader]:
    """Open a file; a disk that fails while the file is read is an :class:`UnreadableFile`, too."""
    with open_stream(url) as file:
        try:
            yield file
        except OSError as error:
            raise UnreadableFile(f"{redact_url(url)}: cannot be read ({error.strerror or error})") from error


def read_bytes(url: str) -> bytes:
    """Read a whole file; one that is missing or that we may not read is an :class:`UnreadableFile`."""
    with reading(url) as file:
        return file.read()


def read_if_exists(url: str) -> bytes | None:
    """Read a whole file, or return None if it does not exist."""
    try:
        return read_bytes(url)
    except UnreadableFile as error:
        if not error.missing:
            raise
        return None


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read *size* bytes from *offset*; fewer come back only at the file's end."""
    return locate(url).read_range(offset, size)


def sizes(urls: Sequence[str]) -> Iterator[int]:
    """Yield each file's size in bytes, in order, asked for several at a time; 0 if it cannot be told."""

    def size(url: str) -> int:
        try:
            location = locate(url)
        except (InputError, OSError, ValueError):  # reading the file will raise it again
            return 0
        try:
            return max(0, location.stat().size)  # -1: a web server does not tell it
        except (UnreadableFile, ValueError):
            return 0

    with ThreadPoolExecutor(READERS, thread_name_prefix="sizes") as pool:
        for start in range(0, len(urls), 64 * READERS):
            yield from pool.map(size, urls[start : start + 64 * READERS])


def sha256(url: str) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with reading(url) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Yield a path on this disk with the file's content: the file itself, or a copy for this block."""
    location = locate(url)
    if isinstance(location, DiskLocation):
        yield location.path
        return
    with TemporaryDirectory(prefix="lglm-copy-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, "copy")
        with location.open() as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
        yield copy


@contextmanager
def write_whole(url: str) -> Iterator[Path]:
    """Yield a scratch path; publish the file written there at *url* only if the block succeeds."""
    location = locate(url)
    with _staging(location) as staged:
        yield staged
        location.publish(staged)


@contextmanager
def _staging(location: Location) -> Iterator[Path]:
    """Yield a scratch path for a file on its way to *location*; a full disk is a RunError."""
    on_disk = isinstance(location, DiskLocation)
    written_to = location.url if on_disk else f"{gettempdir()}, on the way to {location.url}"
    with full_disk_refused(written_to), location.staging() as staged:
        yield staged


def write_bytes(url: str, data: bytes) -> None:
    """Publish *data* at *url*."""
    with write_whole(url) as staged:
        staged.write_bytes(data)


def create(url: str, data: bytes) -> bytes:
    """Publish *data* at *url* unless a file exists there; return the bytes that are there now.

    Of two writers at once one wins, and both get the winner's bytes. On an object store that ignores
    ``If-None-Match`` the last one wins.
    """
    location = locate(url)
    with _staging(location) as staged:
        staged.write_bytes(data)
        for _ in range(CREATE_ATTEMPTS):
            if location.create(staged):
                return data
            existing = read_if_exists(url)
            if existing is not None:  # otherwise it was removed just now
                return existing
    return read_bytes(url)  # raises the error: a link that leads nowhere can be neither created nor read


def remove(url: str) -> None:
    """Delete a file or a folder, if it exists."""
    locate(url).remove()


def remove_unfinished(url: str) -> None:
    """Delete the unfinished files that killed writers left below *url*."""
    locate(url).remove_unfinished()


def list_files(url: str) -> list[StoredFile]:
    """List every file below *url*, at any depth, ordered by name; links to folders are not followed."""
    return locate_folder(url).list_files()
