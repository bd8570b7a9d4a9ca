"""Files by URL: the only module that knows what a scheme means.

A plain path and ``file://`` name the local disk. Everything is published whole: a file that
exists was written to its end.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lglm_core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

STAGING_PREFIX = ".partial-"


@dataclass(frozen=True)
class StoredFile:
    """One file found by :func:`list_files`.

    ``name`` is relative to the listed URL, with forward slashes; ``size`` is in bytes; ``etag``
    changes when the content does.
    """

    name: str
    size: int
    etag: str


def local_path(url: str) -> Path:
    """Return the path that *url* names on this machine's disk."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in url:
        raise InputError(f"{url}: {parts.scheme}:// is not a place lglm can reach; use a path or file://")
    return Path(url)


def join(url: str, *names: str) -> str:
    """Append path segments to a URL or path."""
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """Return *url* so that it means the same in a process with another working directory."""
    return url if "://" in url else str(Path(url).absolute())


def lies_within(url: str, folder: str) -> bool:
    """Tell whether *url* is *folder* or something below it, links followed."""
    return local_path(url).resolve().is_relative_to(local_path(folder).resolve())


def exists(url: str) -> bool:
    """Tell whether a file, or a folder, is there."""
    return local_path(url).exists()


def is_folder(url: str) -> bool:
    """Tell whether *url* is a folder (on object storage: a prefix that holds something)."""
    return local_path(url).is_dir()


def is_empty(url: str) -> bool:
    """Tell whether nothing is stored below *url*; what a killed process left half-written is nothing."""
    path = local_path(url)
    return not path.exists() or all(child.name.startswith(STAGING_PREFIX) for child in path.iterdir())


def read_bytes(url: str) -> bytes:
    """Read a whole file; one that is missing or unreadable is an :class:`InputError`."""
    path = local_path(url)
    if path.exists() and not path.is_file():  # reading a named pipe would wait for ever
        raise InputError(f"{url}: not a regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({error.strerror or error})") from error


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read *size* bytes from *offset*; fewer come back only at the file's end."""
    try:
        with local_path(url).open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({error.strerror or error})") from error


def sha256(url: str) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    try:
        with local_path(url).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({error.strerror or error})") from error


@contextmanager
def write_whole(url: str) -> Iterator[Path]:
    """Yield a scratch path; publish it at *url* only if the block succeeds."""
    target = local_path(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot be made a folder ({error.strerror})") from error
    try:
        scratch = TemporaryDirectory(dir=target.parent, prefix=STAGING_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot be written to ({error.strerror})") from error
    with scratch as folder:
        staged = Path(folder, target.name)
        yield staged
        staged.replace(target)


def write_bytes(url: str, data: bytes) -> None:
    """Publish *data* at *url*."""
    with write_whole(url) as staged:
        staged.write_bytes(data)


def remove(url: str) -> None:
    """Delete a file or a folder, if it is there."""
    path = local_path(url)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(url: str) -> None:
    """Delete what killed writers left below *url*."""
    for scratch in local_path(url).rglob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def list_files(url: str) -> list[StoredFile]:
    """List every file below *url*, at any depth, ordered by name; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    root = local_path(url)
    if not root.is_dir():
        raise InputError(f"{url}: no such folder")
    files = []
    for folder, _, names in os.walk(root, onerror=refuse):
        for name in names:
            path = Path(folder, name)
            status = path.stat() if path.exists() else path.lstat()  # a dangling link is a file too
            etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
            files.append(StoredFile(path.relative_to(root).as_posix(), status.st_size, etag))
    return sorted(files, key=lambda file: file.name)


def read_parquet(url: str, columns: list[str] | None = None) -> "pa.Table":
    """Read a Parquet file into an Arrow table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(local_path(url), columns=columns, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{url}: not a readable Parquet file ({error})") from error


def write_parquet(url: str, table: "pa.Table") -> None:
    """Publish an Arrow table as a Parquet file."""
    import pyarrow.parquet as pq

    with write_whole(url) as staged:
        pq.write_table(table, staged, compression="zstd")
