"""The files in a zip, as its central directory lists them."""

import struct
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

from lglm_core.storage.archive_member import DamagedArchive, DamagedMember, Member
from lglm_core.storage.location import Location, StoredFile
from lglm_core.storage.range_reader import RangeReader

HEADER_BYTES = 30  # then a name and extra fields, whose lengths are the last two numbers in these bytes
SPARE_BYTES = 256  # how much longer we expect the extra fields to be than in the central directory
BUFFER_BYTES = 1 << 16
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES"}
ENCRYPTED = 0x1
UTF8_NAME = 0x800
# The errors that zipfile raises on damaged files; an OSError is about a position before the file's start.
DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error, OSError)


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A file in a zip."""

    def _skip_header(self, archive: BufferedReader, url: str) -> None:
        header = archive.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(b"PK\3\4"):
            reason = f"no header at byte {self.header}"
            raise DamagedMember(f"{url}: damaged within its archive: {reason}", reason=reason)
        archive.read(sum(struct.unpack_from("<HH", header, HEADER_BYTES - 4)))


def zip_members(archive: Location, version: StoredFile) -> dict[str, Member]:
    """Return the files in a zip by name, in the zip's order; of two files with one name the later counts.

    Args:
        archive: Where the zip lies.
        version: What ``stat()`` tells of it.

    Raises:
        DamagedArchive: The file is not a zip, or its end is missing.
    """
    try:
        reader = BufferedReader(RangeReader(archive, version.size), BUFFER_BYTES)
        with zipfile.ZipFile(reader) as file:
            return {_name(info): _member(info) for info in file.infolist() if not info.is_dir()}
    except DAMAGE as error:
        raise DamagedArchive(
            f"{archive.url}: not a whole zip file ({error}); fetch or pack it again", reason=str(error)
        ) from error


def _name(info: ZipInfo) -> str:
    """Return the name of a file in a zip, decoded as UTF-8 wherever it is valid UTF-8.

    ``zip`` on Linux writes names in UTF-8 and does not set the flag that says so; without the flag, zipfile
    decodes every name in the code page of DOS.
    """
    if info.flag_bits & UTF8_NAME:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _member(info: ZipInfo) -> ZipMember:
    return ZipMember(
        header=info.header_offset,
        header_size=HEADER_BYTES + len(info.filename.encode()) + len(info.extra) + SPARE_BYTES,
        packed=info.compress_size,
        size=info.file_size,
        etag=f"{info.CRC:08x}-{info.file_size:x}",
        deflated=info.compress_type == ZIP_DEFLATED,
        crc=info.CRC,
        refusal=_refusal(info),
    )


def _refusal(info: ZipInfo) -> str:
    if info.flag_bits & ENCRYPTED:
        return "encrypted; pack it again without a password"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"packed with {method}; only stored and deflated files of a zip are read, so pack it again"
    if info.header_offset < 0:
        return f"damaged within its archive: no header at byte {info.header_offset}"
    return ""
