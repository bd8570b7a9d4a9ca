"""Storage as a pyarrow filesystem, for libraries that read and write through one."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pyarrow import fs

from lglm_core import storage


def storage_filesystem(root: str) -> fs.FileSystem:
    """Return a filesystem whose paths are URLs without the prefix *root*, such as ``s3://``.

    A file that is written through it appears as a whole when its stream is closed. A ``with`` block closes
    its stream even if it raises, and so publishes half a file: copy files to the filesystem
    (``pyarrow.fs.copy_files``) rather than write them in a block.
    """
    return fs.PyFileSystem(_Handler(root))


class _Handler(fs.FileSystemHandler):
    """Serves pyarrow's calls through :mod:`lglm_core.storage`; a folder exists if it holds a file."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def get_type_name(self) -> str:
        return "lglm-storage"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        base = selector.base_dir.rstrip("/")
        if not storage.is_folder(self._url(base)):
            if selector.allow_not_found:
                return []
            raise FileNotFoundError(base)
        found: dict[str, fs.FileInfo] = {}
        for file in storage.list_files(self._url(base)):
            parts = file.name.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                found.setdefault(folder, fs.FileInfo(f"{base}/{folder}", fs.FileType.Directory))
            found[file.name] = fs.FileInfo(f"{base}/{file.name}", fs.FileType.File, size=file.size)
        return [info for name, info in found.items() if selector.recursive or "/" not in name]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a folder exists once it holds a file."""

    def delete_dir(self, path: str) -> None:
        storage.remove(self._url(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage.remove(self._url(path))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("deleting all files of all buckets")

    def delete_file(self, path: str) -> None:
        storage.remove(self._url(path))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        storage.remove(self._url(src))

    def copy_file(self, src: str, dest: str) -> None:
        storage.write_bytes(self._url(dest), storage.read_bytes(self._url(src)))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(storage.open_stream(self._url(path)), mode="r")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(storage.read_bytes(self._url(path)))

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_PublishedOnClose(self._url(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("a published file does not grow")

    def _url(self, path: str) -> str:
        return f"{self.root}{path}"

    def _info(self, path: str) -> fs.FileInfo:
        url = self._url(path)
        if storage.is_file(url):
            return fs.FileInfo(path, fs.FileType.File)
        kind = fs.FileType.Directory if storage.is_folder(url) else fs.FileType.NotFound
        return fs.FileInfo(path, kind)


class _PublishedOnClose:
    """A file to write, published when it is closed; one that is garbage-collected instead is not."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = TemporaryDirectory(prefix="lglm-write-")
        self._file = Path(self._folder.name, "staged").open("wb")  # noqa: SIM115 - until close()
        self.closed = False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._file.close()
        with self._folder, storage.write_whole(self._url) as staged:
            shutil.move(self._file.name, staged)
