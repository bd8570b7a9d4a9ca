"""What lies in a zip file, by its central directory."""

import struct
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

from lglm_core.errors import InputError
from lglm_core.storage.archive_member import MOST_UNPACKED, Member, Ranges
from lglm_core.storage.location import UnreadableFile

HEADER_BYTES = 30  # and a name and extra fields, whose lengths are its last two numbers
SPARE_BYTES = 256  # how much longer extra fields are taken to be than those in the central directory
BUFFER_BYTES = 1 << 16
METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES"}
ENCRYPTED = 0x1
UTF8_NAME = 0x800
# What zipfile raises on broken files, beside its own errors.
BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class ZipMember(Member):
    """A file in a zip."""

    def _skip_header(self, data: BufferedReader, url: str) -> None:
        header = data.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(b"PK\3\4"):
            raise UnreadableFile(f"{url}: {_headless(self.header)}")
        data.read(sum(struct.unpack_from("<HH", header, HEADER_BYTES - 4)))


def zip_members(archive: Ranges, url: str) -> dict[str, Member]:
    """Read the names in a zip and where their files lie; of files of one name the last counts."""
    try:
        with zipfile.ZipFile(BufferedReader(archive, BUFFER_BYTES)) as file:
            return {member_name(info): _member(info) for info in file.infolist() if not info.is_dir()}
    except BROKEN as error:
        raise InputError(f"{url}: not a whole zip file ({error}); fetch or pack it again") from error


def member_name(info: ZipInfo) -> str:
    """Return what a file in a zip is called: in UTF-8 wherever that can be, as ``zip`` on Linux has it.

    That does not set the bit which says so; without it, zipfile takes any name for one of DOS.
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
        around=HEADER_BYTES + len(info.filename.encode()) + len(info.extra) + SPARE_BYTES,
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
    if info.compress_type == ZIP_DEFLATED and info.file_size > MOST_UNPACKED:
        return f"{info.file_size} bytes unpacked, at most {MOST_UNPACKED} taken; unpack the zip first"
    return _headless(info.header_offset) if info.header_offset < 0 else ""


def _headless(offset: int) -> str:
    return f"damaged within its archive: no header at byte {offset}"
