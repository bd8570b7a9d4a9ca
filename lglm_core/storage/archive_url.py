"""The grammar of URLs that lead into an archive: ``photos.zip/cats/1.jpg``.

Such a URL is the URL of the archive, a slash, and the name of a file or folder in the archive; no name
(``photos.zip/``) means the archive as a folder. This module alone takes such a URL apart.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lglm_core.storage.url import is_file_url, is_local, is_web, unquote_path

# A segment that is named like an archive, and a slash behind it.
_ARCHIVE_SEGMENT = re.compile(
    r"\.(?<=[^/]\.)(?:zip|tar|(tgz|tbz2?|txz|tzst|tar\.(?:gz|bz2|xz|zst)))(?=/)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ArchiveUrl:
    """A URL taken apart: the URL of the archive, and the name of a file or folder in it ("" for all)."""

    archive: str
    member: str
    compressed_tar: bool
    """The archive is a tar that is compressed as a whole, so no file in it can be read by itself."""


def splits(url: str) -> Iterator[ArchiveUrl]:
    """Yield every way to take *url* apart, the shortest archive first.

    The name alone decides, so on a disk a caller has to check that the archive is not a folder. A bucket, a
    host and the query of a web address are never archives.
    """
    if not _ARCHIVE_SEGMENT.search(url):  # true of nearly all URLs
        return
    start = 0 if is_local(url) else url.find("/", url.index("://") + 3)
    stop = len(url.partition("?")[0]) if is_web(url) else len(url)
    if start < 0:
        return
    for found in _ARCHIVE_SEGMENT.finditer(url, start, stop):
        member = url[found.end() + 1 :]
        yield ArchiveUrl(
            archive=url[: found.end()],
            member=unquote_path(member) if is_file_url(url) else member,
            compressed_tar=found[1] is not None,
        )


def is_zip(archive: str) -> bool:
    """Tell whether the URL of an archive names a zip; otherwise it names a tar."""
    return archive.lower().endswith(".zip")


def is_address(url: str) -> bool:
    """Tell whether all of *url* is a web address, where ``%``, ``#`` and ``?`` have special meanings."""
    return is_web(url) and next(splits(url), None) is None
