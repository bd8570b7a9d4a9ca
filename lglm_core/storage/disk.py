"""Files on this machine's disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory

from lglm_core.errors import InputError, RunError
from lglm_core.storage.location import Location, StoredFile, UnreadableFile

STAGING_PREFIX = ".partial-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota or a limit


@contextmanager
def full_disk_refused(written_to: str) -> Iterator[None]:
    """Turn the OSError of a full disk in the block into a RunError about *written_to*; let others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunError(
            f"{written_to}: cannot be written ({error.strerror}); make room and run the same again"
        ) from error


class DiskLocation:
    """A path; a file is written to a scratch folder beside it and renamed."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self._name = name if not name.endswith("/") else str(Path(name))

    @cached_property
    def path(self) -> Path:
        """The path, made on first use: making one takes as long as opening a file."""
        return Path(self._name)

    def is_file(self) -> bool:
        """Tell whether the path exists and is not a folder."""
        return self.path.exists() and not self.path.is_dir()

    def stat(self) -> StoredFile:
        """Return the file's name and size, and an etag made of its size and time of change."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        return StoredFile(self.path.name, status.st_size, _etag(status))

    def is_folder(self) -> bool:
        """Tell whether the path is a folder."""
        return self.path.is_dir()

    def is_empty(self) -> bool:
        """Tell whether the folder is missing or holds only unfinished files."""
        return not self.path.exists() or all(
            child.name.startswith(STAGING_PREFIX) for child in self.path.iterdir()
        )

    def lies_within(self, other: Location) -> bool:
        """Tell whether this is *other* or lies below it; links are followed."""
        return isinstance(other, DiskLocation) and self.path.resolve().is_relative_to(other.path.resolve())

    def open(self) -> BufferedReader:
        """Open the file; only a regular file can be opened."""
        return os.fdopen(self.descriptor(), "rb")

    def descriptor(self) -> int:
        """Open the file and return its descriptor, which the caller closes."""
        try:
            # Reading a named pipe would wait for ever, and opening it would disturb who writes to it.
            if not S_ISREG(os.stat(self._name).st_mode):  # noqa: PTH116 - without making a Path
                raise UnreadableFile(f"{self.url}: not a regular file")
            return os.open(self._name, os.O_RDONLY)
        except OSError as error:
            raise self._unreadable(error) from error

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*."""
        try:
            # Without a file object, whose extra system calls would cost a decoding thread twice its turns.
            # O_NONBLOCK: a named pipe does not wait for a writer; reading it at an offset is an error.
            file = os.open(self._name, os.O_RDONLY | os.O_NONBLOCK)
            try:
                data = os.pread(file, size, offset)
                while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
                    data += more
                return data
            finally:
                os.close(file)
        except OSError as error:
            raise self._unreadable(error) from error

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a scratch path on the same disk."""
        with self._scratch_folder() as folder:
            yield Path(folder, self.path.name)

    def _scratch_folder(self) -> "TemporaryDirectory[str]":
        parent, refusal = self.path.parent, "cannot be made a folder"
        try:
            with full_disk_refused(self.url):
                parent.mkdir(parents=True, exist_ok=True)
                refusal = "cannot be written to"
                return TemporaryDirectory(dir=parent, prefix=STAGING_PREFIX, ignore_cleanup_errors=True)
        except OSError as error:
            raise InputError(f"{parent}: {refusal} ({error.strerror})") from error

    def publish(self, staged: Path) -> None:
        """Rename *staged* to this path."""
        staged.replace(self.path)

    def create(self, staged: Path) -> bool:
        """Link *staged* to this path unless the path exists, and return whether it was linked."""
        try:
            os.link(staged, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if self.path.exists():
                return False
            self.publish(staged)
        return True

    def remove(self) -> None:
        """Delete the file, or the folder with its content; of a linked folder only the content."""
        if self.path.is_symlink() and self.path.is_dir():
            for child in self.path.iterdir():  # the user made the link, and the links in it
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
        elif self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Delete the scratch folders of killed writers below this folder."""
        for scratch in self.path.rglob(f"{STAGING_PREFIX}*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def list_files(self) -> list[StoredFile]:
        """List every file below, without unfinished ones; links to folders are not followed."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # otherwise it was removed just now
                raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error

        if not self.path.is_dir():
            raise InputError(f"{self.url}: no such folder")
        files = []
        for folder, folders, names in os.walk(self.path, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(STAGING_PREFIX)]
            for path in (Path(folder, name) for name in names):
                if (status := _status(path)) is not None:
                    name = path.relative_to(self.path).as_posix()
                    files.append(StoredFile(name, status.st_size, _etag(status)))
        return sorted(files, key=lambda file: file.name)

    def _unreadable(self, error: OSError) -> UnreadableFile:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return UnreadableFile(f"{self.url}: cannot be read ({error.strerror or error})", missing=missing)


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a file, or of a link that leads nowhere; None if it was removed just now."""
    for stat in (path.stat, path.lstat):
        with suppress(OSError):
            return stat()
    return None


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
