"""Text files that may be compressed: plain, in gzip, or as a member of a zip.

Nothing heavy is imported: the digest of a compressed file is needed to tell whether a room is complete.
"""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from io import BufferedReader, RawIOBase
from typing import cast

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage.archive_member import DamagedArchive, DamagedMember
from lglm_core.storage.archive_url import is_zip, splits
from lglm_core.storage.archive_zip import zip_members
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.range_reader import RangeReader

GZIP, ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")  # the second begins a zip without files
BUFFER_BYTES = 1 << 20
NAMES_SHOWN = 10


@contextmanager
def open_unpacked(url: str) -> Iterator[tuple[str, BufferedReader]]:
    """Yield the name of a text file and a stream of its bytes, which is never in memory as a whole.

    Args:
        url: A text file; a text file in gzip, recognised by its content; or a zip: ``a.zip`` if it holds one
            text, ``a.zip/member.txt`` if it holds several. A zip that is not on this disk is copied to it for
            as long as it is read.

    Raises:
        InputError: The file or the member does not exist, several members are candidates, or the file is cut
            short or damaged.
    """
    file, member = _split(url)
    if not storage.is_file(file):
        raise InputError(f"{storage.redact_url(url)}: no such file")
    with _damage_reported(url):
        first_bytes = _first_bytes(file)
        if first_bytes.startswith(ZIP):
            with _open_member(file, member) as (name, text):
                yield name, text
        elif member:
            raise InputError(f"{storage.redact_url(file)}: not a zip archive, so there is no {member} in it")
        else:
            with storage.open_stream(file) as stream:
                yield storage.redact_url(url), _gunzipped(stream) if first_bytes.startswith(GZIP) else stream


def sha256(url: str) -> str:
    """Return the sha256 of a text, in hexadecimal: the same whether and however it is compressed."""
    with open_unpacked(url) as (_, text):
        return hashlib.file_digest(text, "sha256").hexdigest()


def _split(url: str) -> tuple[str, str]:
    """Return the URL of the file to read and, if *url* names a member of a zip, the member's name."""
    for split in splits(url):
        if is_zip(split.archive) and storage.is_file(split.archive):
            return split.archive, split.member
    return url, ""


def _first_bytes(url: str) -> bytes:
    """Return the bytes that tell how a file is compressed."""
    with storage.open_stream(url) as file:
        return file.peek(4)[:4]


@contextmanager
def _open_member(url: str, wanted: str) -> Iterator[tuple[str, BufferedReader]]:
    """Yield the address of a member of a zip and a stream of its bytes."""
    shown = storage.redact_url(url)
    with storage.local_copy(url) as path:
        copy = DiskLocation(shown, str(path))
        version = copy.stat()
        members = zip_members(copy, version)
        name = _choose(list(members), shown, wanted)
        if members[name].refusal:
            raise InputError(f"{shown}: {name!r} cannot be unpacked ({members[name].refusal})")
        address = storage.join(shown, name)
        yield address, members[name].open(RangeReader(copy, version.size), address, max_size=None)


def _choose(names: list[str], url: str, wanted: str) -> str:
    """Return the wanted member or, if none is named, the only text."""
    texts = [name for name in names if name.endswith(".txt") and not name.startswith("__MACOSX/")]
    if wanted in names:
        return wanted
    if not wanted and len(texts) == 1:
        return texts[0]
    found = ", ".join((texts or names)[:NAMES_SHOWN]) or "nothing"
    if wanted:
        raise InputError(f"{url}: has no member {wanted!r}; it holds {found}")
    if not texts:
        raise InputError(f"{url}: holds no .txt file, but {found}; name a member, as {url}/NAME")
    raise InputError(f"{url}: holds {len(texts)} texts, {found}; name one, as {url}/{texts[0]}")


def _gunzipped(stream: BufferedReader) -> BufferedReader:
    # The buffer reads lines in C; GzipFile.readline is Python.
    return BufferedReader(cast("RawIOBase", GzipFile(fileobj=stream)), BUFFER_BYTES)


@contextmanager
def _damage_reported(url: str) -> Iterator[None]:
    """Turn every error about damage to the file at *url* into one message."""
    try:
        yield
    except (DamagedArchive, DamagedMember) as error:
        raise _damaged(url, error.reason) from error
    except (EOFError, zlib.error, BadGzipFile) as error:
        raise _damaged(url, str(error)) from error


def _damaged(url: str, reason: str) -> InputError:
    return InputError(f"{storage.redact_url(url)}: cut short or damaged ({reason}); fetch it again")
