"""Files by URL: the only module that knows what a scheme means.

A plain path and ``file://`` name the local disk, ``s3://bucket/key`` an object in a bucket. Everything
is published whole: a file that exists was written to its end. Only read are ``http://`` and ``https://``,
and what lies in an archive, ``photos.zip/cats/1.jpg``, wherever the archive lies.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from lglm_core.data.disk import NO_ROOM, DiskPlace
from lglm_core.data.place import Place, StoredFile, UnreadableFile, shown, shown_in
from lglm_core.errors import InputError, RunError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["StoredFile", "UnreadableFile", "shown", "shown_in"]
COPY_BYTES = 1 << 20
ATTEMPTS = 3
WEB = ("http://", "https://")
REMOTE = ("s3://", *WEB)
# A segment that names an archive, with more behind it. What is packed as a whole can only be refused.
ARCHIVE = re.compile(
    r"\.(?<=[^/]\.)(?:zip|tar|(tgz|tbz2?|txz|tzst|tar\.(?:gz|bz2|xz|zst)))(?=/)", re.IGNORECASE
)
READERS = 16  # files read at a time by one process: a bucket answers late, but many at once


def locate(url: str) -> Place:
    """Return the place that *url* names; nothing is looked up yet, save whether a ``.zip`` is a file."""
    return (_in_archive(url) if ARCHIVE.search(url) else None) or _outside(url)


def _outside(url: str) -> Place:
    """Return the place that *url* names if no part of it is an archive."""
    if is_local(url):
        return DiskPlace(url, _local_name(url))
    if _is_web(url):
        from lglm_core.data.http import HttpPlace  # loaded only by those who need it, as boto3 is

        return HttpPlace(url)
    from lglm_core.data.s3 import S3Place

    return S3Place(f"s3://{url[5:]}")


def _in_archive(url: str) -> Place | None:
    """Return the place within the first archive that *url* leads into, if it does.

    On disk an archive is what is no folder, elsewhere the name decides; a bucket and a host are none.
    """
    start = 0 if is_local(url) else url.find("/", url.index("://") + 3)
    stop = len(url.partition("?")[0]) if _is_web(url) else len(url)
    for found in ARCHIVE.finditer(url, start, stop) if start >= 0 else ():
        archive = _outside(url[: found.end()])
        if isinstance(archive, DiskPlace) and not archive.path.is_file():
            continue
        if found[1]:
            raise InputError(
                f"{archive.url}: a tar that is compressed as a whole can only be read from its start; "
                "unpack it, or pack it again as .tar or .zip"
            )
        from lglm_core.data.archive import ArchivePlace

        name = url[found.end() + 1 :]
        shown_as = f"{archive.url}/{name}"
        return ArchivePlace(shown_as, archive, _unquoted(name) if _is_file_url(url) else name)
    return None


def _folder(url: str) -> Place:
    """Return the place that *url* names as a folder: of an archive, what lies in it."""
    folder = f"{url.rstrip('/')}/"
    return (_in_archive(folder) if ARCHIVE.search(folder) else None) or _outside(url)


def is_local(url: str) -> bool:
    """Tell whether *url* names a place on this machine's disk."""
    return not url[:8].lower().startswith(REMOTE)


def _is_file_url(url: str) -> bool:
    return url[:7].lower() == "file://"


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")


def _is_web(url: str) -> bool:
    return url[:8].lower().startswith(WEB)


def is_address(url: str) -> bool:
    """Tell whether all of *url* is a web address, where ``%``, ``#`` and ``?`` have meanings of their own."""
    return _is_web(url) and not ARCHIVE.search(url)


def local_path(url: str) -> Path:
    """Return the path that *url* names on this machine's disk."""
    return Path(_local_name(url))


def _local_name(url: str) -> str:
    if ":" not in url:  # as nearly all are
        return url
    parts = urlsplit(url)
    if _is_file_url(url):
        if parts.netloc not in ("", "localhost"):
            raise InputError(
                f"{url}: names a file of the machine {parts.netloc!r}; one of this machine is "
                "file:///folder/file, from the root, or a plain path"
            )
        return _unquoted(parts.path)
    if "://" in url:
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InputError(
            f"{address}: {parts.scheme}:// is not a place lglm can reach; "
            "use a path, file://, s3://, http:// or https://"
        )
    return url


def join(url: str, *names: str) -> str:
    """Append path segments to a URL or path, as they are called; ``file://`` alone has them quoted."""
    if _is_file_url(url):
        names = tuple(quote(name, errors="surrogateescape") for name in names)
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """Return *url* so that it means the same in a process with another working directory."""
    return url if "://" in url else str(Path(url).absolute())


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


def sizes(urls: Sequence[str]) -> Iterator[int]:
    """Return each file's size in bytes, in order, looked up several at a time; 0 where none is told."""

    def size(url: str) -> int:
        try:
            place = locate(url)
        except (InputError, OSError, ValueError):  # it is none, which its reader will tell
            return 0
        try:
            return max(0, place.look().size)  # some web servers do not say
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
    if isinstance(place, DiskPlace):
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
            raise UnreadableFile(f"{shown(url)}: cannot be read ({error.strerror or error})") from error


@contextmanager
def write_whole(url: str) -> Iterator[Path]:
    """Yield a scratch path; publish the file written there at *url* only if the block succeeds."""
    place = locate(url)
    with _staging(place) as staged:
        yield staged
        place.publish(staged)


@contextmanager
def _staging(place: Place) -> Iterator[Path]:
    """Yield a scratch path of a place; a disk that takes no more is told of as such."""
    where = place.url if isinstance(place, DiskPlace) else f"{gettempdir()}, on the way to {place.url}"
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


def read_parquet(url: str, columns: list[str] | None = None) -> "pa.Table":
    """Read a Parquet file into an Arrow table."""
    return parse_parquet(read_bytes(url), url, columns)


def parse_parquet(data: bytes, url: str, columns: list[str] | None = None) -> "pa.Table":
    """Turn the bytes of a Parquet file into an Arrow table; *url* is for the error.

    Without Arrow's threads: one that still holds the data while Python ends takes the process down (SIGABRT),
    though all is done.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable_parquet(url):
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)), pre_buffer=False)
        return file.read(columns=columns, use_threads=False)


def read_parquet_footer(url: str, size: int) -> "pq.FileMetaData":
    """Read what a Parquet file of *size* bytes says of itself, and no row of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lglm_core.data.archive_member import Ranges

    with _readable_parquet(url):
        return pq.read_metadata(pa.PythonFile(Ranges(locate(url), size), mode="r"))


def parquet_names(data: bytes, url: str) -> list[str]:
    """Return the names of the columns in the bytes of a Parquet file; *url* is for the error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable_parquet(url):
        return list(pq.read_schema(pa.BufferReader(pa.py_buffer(data))).names)


@contextmanager
def _readable_parquet(url: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{shown(url)}: not a readable Parquet file ({error})") from error


def to_parquet(table: "pa.Table") -> bytes:
    """Return an Arrow table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def write_parquet(url: str, table: "pa.Table") -> None:
    """Publish an Arrow table as a Parquet file."""
    write_bytes(url, to_parquet(table))
