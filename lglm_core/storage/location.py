"""The contract of storage: what every location, on whichever medium, offers.

One class implements :class:`Location` per medium: ``DiskLocation``, ``S3Location``, ``HttpLocation`` and
``ArchiveLocation``. ``tests/lglm_core/storage/contract.py`` tests what all of them must keep.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from lglm_core.errors import InputError


class UnreadableFile(InputError):
    """One file is *missing*, *too_large* or not readable by us, while its disk or server does answer."""

    def __init__(self, message: str, *, missing: bool = False, too_large: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
        self.too_large = too_large

    @property
    def status(self) -> str:
        """A short code: ``missing``, ``too_large`` or ``unreadable``."""
        return "missing" if self.missing else "too_large" if self.too_large else "unreadable"


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing or :meth:`Location.stat` describes it.

    ``name`` is relative to the listed URL, with forward slashes; from ``stat`` it is the last segment of the
    address. ``size`` is in bytes; ``etag`` changes when the content does.
    """

    name: str
    size: int
    etag: str


class Location(Protocol):
    """A file or a folder at one URL; every error message begins with that URL."""

    url: str

    def is_file(self) -> bool:
        """Tell whether a file exists here."""

    def stat(self) -> StoredFile:
        """Return name, size and etag of the file; a missing one is an :class:`UnreadableFile`."""

    def is_folder(self) -> bool:
        """Tell whether a folder exists here (on object storage: a prefix that holds an object)."""

    def is_empty(self) -> bool:
        """Tell whether no file is stored below; unfinished files of a killed process do not count."""

    def lies_within(self, other: "Location") -> bool:
        """Tell whether this is *other* or lies below it."""

    def open(self) -> BufferedReader:
        """Open the file for reading from its start to its end."""

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*; fewer come back only at the file's end."""

    def staging(self) -> AbstractContextManager[Path]:
        """Yield a scratch path, deleted afterwards, from which :meth:`publish` is one step."""

    def publish(self, staged: Path) -> None:
        """Move the finished file *staged* here and replace an existing file."""

    def create(self, staged: Path) -> bool:
        """Move *staged* here unless a file exists, and return whether it was moved."""

    def remove(self) -> None:
        """Delete the file or the folder, if it exists."""

    def remove_unfinished(self) -> None:
        """Delete the unfinished files that killed writers left below."""

    def list_files(self) -> list[StoredFile]:
        """List every file below, at any depth, ordered by name."""


def exists(location: Location) -> bool:
    """Tell whether ``stat()`` finds a file; a file that we may not read is an error, not an absence."""
    try:
        location.stat()
    except UnreadableFile as error:
        if not error.missing:
            raise
        return False
    return True


class ReadOnly:
    """The methods of a location that can only be read: each refuses to write."""

    url: str

    def is_empty(self) -> bool:
        """Refuse: only who wants to write to a folder asks this."""
        raise self._refusal()

    def staging(self) -> AbstractContextManager[Path]:
        """Refuse to write."""
        raise self._refusal()

    def publish(self, staged: Path) -> None:
        """Refuse to write."""
        raise self._refusal()

    def create(self, staged: Path) -> bool:
        """Refuse to write."""
        raise self._refusal()

    def remove(self) -> None:
        """Refuse to delete."""
        raise self._refusal()

    def remove_unfinished(self) -> None:
        """Refuse to delete."""
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f"{self.url}: archives and web servers are only read; name a folder on a disk or in a bucket"
        )
