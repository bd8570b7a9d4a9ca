"""Text files that may be packed: as they are, in a gzip file, or as a member of a zip archive.

Imports nothing heavy: a packed file's digest is part of telling whether a room is complete.
"""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from io import BufferedReader, RawIOBase
from typing import IO, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage.archive_zip import member_name

GZIP, ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")  # the second begins an archive of nothing
BUFFER_BYTES = 1 << 20
MEMBERS_NAMED = 10


@contextmanager
def open_unpacked(url: str) -> Iterator[tuple[str, BufferedReader]]:
    """Yield the name of a text file and its bytes, from start to end; never all of them in memory.

    Args:
        url: A text file, one in gzip (by its content, whatever its name), or a zip archive: ``a.zip`` where
            it holds one text, ``a.zip/member.txt`` where it holds several. An archive that is not on this
            disk is copied to it for as long as it is read.

    Raises:
        InputError: no such file or member, several members to choose from, or a file that is cut short.
    """
    file, member = _archive_and_member(url)
    if not storage.is_file(file):
        raise InputError(f"{storage.redact_url(url)}: no such file")
    start, shown = _start(file), storage.redact_url(file)
    try:
        if start.startswith(ZIP):
            with storage.local_copy(file) as path, ZipFile(path) as archive:
                infos = {member_name(info): info for info in archive.infolist() if not info.is_dir()}
                name = _choose(list(infos), shown, member)
                yield storage.join(shown, name), _buffered(_open_member(archive, shown, name, infos[name]))
        elif member:
            raise InputError(f"{shown}: not a zip archive, so there is no {member} in it")
        else:
            with storage.open_stream(file) as packed:
                yield (
                    storage.redact_url(url),
                    _buffered(GzipFile(fileobj=packed)) if start.startswith(GZIP) else packed,
                )
    except (EOFError, zlib.error, BadGzipFile, BadZipFile) as error:
        raise InputError(
            f"{storage.redact_url(url)}: cut short or damaged ({error}); fetch it again"
        ) from error


def sha256(url: str) -> str:
    """Return the sha256 of a text, in hexadecimal: the same, however it is packed."""
    with open_unpacked(url) as (_, text):
        return hashlib.file_digest(text, "sha256").hexdigest()


def _start(url: str) -> bytes:
    """The first bytes of a file, which tell how it is packed."""
    with storage.open_stream(url) as file:
        return file.peek(4)[:4]


def _archive_and_member(url: str) -> tuple[str, str | None]:
    """Split ``a.zip/b.txt`` where ``a.zip`` is a file; anything else has no member."""
    end = url.lower().find(".zip/") + len(".zip")
    if end < len(".zip") or not storage.is_file(url[:end]):
        return url, None
    return url[:end], url[end + 1 :] or None


def _choose(names: list[str], url: str, wanted: str | None) -> str:
    """Return the member that is wanted or, where none is named, the only text."""
    texts = [name for name in names if name.endswith(".txt") and not name.startswith("__MACOSX/")]
    if wanted in names:
        return str(wanted)
    if not wanted and len(texts) == 1:
        return texts[0]
    found = ", ".join((texts or names)[:MEMBERS_NAMED]) or "nothing"
    if wanted:
        raise InputError(f"{url}: has no member {wanted!r}; it holds {found}")
    if not texts:
        raise InputError(f"{url}: holds no .txt file, but {found}; name a member, as {url}/NAME")
    raise InputError(f"{url}: holds {len(texts)} texts, {found}; name one, as {url}/{texts[0]}")


def _open_member(archive: ZipFile, url: str, name: str, info: ZipInfo) -> IO[bytes]:
    try:
        return archive.open(info)
    except (NotImplementedError, RuntimeError) as error:  # a method of packing, or a password
        raise InputError(f"{url}: {name!r} cannot be unpacked ({error}); unpack it first") from error


def _buffered(unpacked: IO[bytes] | GzipFile) -> BufferedReader:
    """Read lines in C; the unpackers' own readline is Python."""
    return BufferedReader(cast("RawIOBase", unpacked), BUFFER_BYTES)
