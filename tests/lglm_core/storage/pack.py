"""Archives that the tests of storage pack: zips and tars with given files."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path


def pack_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return str(path)


def pack_tar(path: Path, files: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


PACKERS: Mapping[str, Callable[[Path, Mapping[str, bytes]], str]] = {
    "deflated.zip": pack_zip,
    "stored.ZIP": lambda path, files: pack_zip(path, files, zipfile.ZIP_STORED),
    "pax.tar": pack_tar,
    "gnu.tar": lambda path, files: pack_tar(path, files, tarfile.GNU_FORMAT),
}


def patched(url: str, *, at: bytes, offset: int, to: bytes) -> str:
    """Overwrite bytes of the last record that begins with *at*."""
    data = bytearray(Path(url).read_bytes())
    start = data.rindex(at) + offset
    data[start : start + len(to)] = to
    Path(url).write_bytes(data)
    return url
