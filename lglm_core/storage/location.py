"""What storage asks of every place a URL can name."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from lglm_core.errors import InputError


class UnreadableFile(InputError):
    """One file is *missing*, *too_large*, or not ours to read; the place it was looked for in answers."""

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
    """One file found by listing.

    ``name`` is relative to the listed URL, with forward slashes; ``size`` is in bytes; ``etag``
    changes when the content does.
    """

    name: str
    size: int
    etag: str


class Location(Protocol):
    """A file or a folder at one address; every method refuses in words of that address."""

    url: str

    def is_file(self) -> bool:
        """Tell whether a file is there."""

    def stat(self) -> StoredFile:
        """Return name, size and etag of the file that is there."""

    def is_folder(self) -> bool:
        """Tell whether a folder is there (on object storage: a prefix that holds something)."""

    def is_empty(self) -> bool:
        """Tell whether nothing is stored below; what a killed process left half-written is nothing."""

    def lies_within(self, other: "Location") -> bool:
        """Tell whether this is *other* or something below it."""

    def open(self) -> BufferedReader:
        """Open a file for reading from its start to its end."""

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*; fewer come back only at the file's end."""

    def staging(self) -> AbstractContextManager[Path]:
        """Yield a scratch path, deleted afterwards, from which :meth:`publish` is one step."""

    def publish(self, staged: Path) -> None:
        """Put the finished file *staged* here, in place of what was."""

    def create(self, staged: Path) -> bool:
        """Put *staged* here if nothing is there, and tell whether that was so."""

    def remove(self) -> None:
        """Delete a file or a folder, if it is there."""

    def remove_unfinished(self) -> None:
        """Delete what killed writers left below."""

    def list_files(self) -> list[StoredFile]:
        """List every file below, at any depth, ordered by name."""


def exists(place: Location) -> bool:
    """Tell whether a look at *place* finds a file; one that is not ours to read is refused."""
    try:
        place.stat()
    except UnreadableFile as error:
        if not error.missing:
            raise
        return False
    return True


class ReadOnly:
    """What a place refuses that is only read."""

    url: str

    def is_empty(self) -> bool:
        """Refuse: it is asked of a folder to write to."""
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
