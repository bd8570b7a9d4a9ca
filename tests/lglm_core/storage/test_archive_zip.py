"""What a zip may hold, and how it may be damaged."""

import random
import struct
import zipfile
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.storage.archive_member import DamagedArchive, DamagedMember
from lglm_core.storage.location import UnreadableFile
from tests.lglm_core.storage.contract import FILES, names, refusal
from tests.lglm_core.storage.pack import pack_zip, patched


@pytest.mark.weighty
def test_a_zip64_is_read(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("x", "w", force_zip64=True) as x:
        x.write(b"in a zip64 entry")
    assert storage.read_bytes(f"{path}/x") == b"in a zip64 entry"
    many = {f"{number}": b"" for number in range(66_000)}  # more than a plain directory can count
    url = pack_zip(tmp_path / "many.zip", many | {"last": b"found"}, zipfile.ZIP_STORED)
    assert len(storage.list_files(url)) == 66_001
    assert storage.read_bytes(f"{url}/last") == b"found"


@pytest.mark.parametrize("spare", [0, 50, 5000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_local_headers_may_be_longer_than_the_directory_says(tmp_path: Path, spare: int, method: int):
    data = random.Random(0).randbytes(3000)
    info = zipfile.ZipInfo("x")
    info.compress_type = method
    info.extra = struct.pack("<HH", 0x9999, spare) + bytes(spare)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, data)
        info.extra = b""  # in the central directory
    assert storage.read_bytes(f"{path}/x") == data
    assert storage.read_range(f"{path}/x", 100, 5) == data[100:105]


def test_a_zip_behind_something_else_is_read(tmp_path: Path):
    url = pack_zip(tmp_path / "a.zip", FILES)
    Path(url).write_bytes(b"#!/bin/sh\n" * 100 + Path(url).read_bytes())
    assert {name: storage.read_bytes(f"{url}/{name}") for name in names(url)} == FILES
    assert storage.read_range(f"{url}/body", 1000, 50) == FILES["body"][1000:1050]


def test_a_name_in_a_zip_is_read_as_utf8_without_the_flag(tmp_path: Path):
    """Info-ZIP's ``zip -r`` writes such names on Linux; invalid UTF-8 is in the code page of DOS."""
    unmarked = patched(pack_zip(tmp_path / "a.zip", {"é 鳥.jpg": b"a"}), at=b"PK\1\2", offset=8, to=b"\0\0")
    assert names(unmarked) == ["é 鳥.jpg"]
    assert storage.read_bytes(f"{unmarked}/é 鳥.jpg") == b"a"
    of_dos = patched(pack_zip(tmp_path / "b.zip", {"x.jpg": b"b"}), at=b"PK\1\2", offset=46, to=b"\x82")
    assert names(of_dos) == ["é.jpg"]


@pytest.mark.parametrize(
    ("offset", "to", "kind", "words"),
    [
        (8, b"\1\0", UnreadableFile, "encrypted; pack it again without a password"),
        (
            10,
            struct.pack("<H", 12),
            UnreadableFile,
            "packed with bzip2; only stored and deflated files of a zip",
        ),
        (10, struct.pack("<H", 77), UnreadableFile, "packed with method 77; only stored"),
        (16, b"\0\0\0\0", DamagedMember, "has another checksum (CRC) than was noted"),
        (24, struct.pack("<I", 101), DamagedMember, "ends too early"),
        (24, struct.pack("<I", 99), DamagedMember, "has another checksum (CRC) than was noted"),
        (
            24,
            struct.pack("<I", (1 << 30) + 1),
            UnreadableFile,
            "1073741825 bytes unpacked, at most 1073741824",
        ),
        (42, struct.pack("<I", 5), DamagedMember, "no header at byte 5"),
    ],
)
def test_a_file_of_a_zip_that_cannot_be_read_is_one_unreadable_file(
    tmp_path: Path, offset: int, to: bytes, kind: type[UnreadableFile], words: str
):
    url = pack_zip(tmp_path / "a.zip", {"good": b"good", "bad": b"a" * 100})
    patched(url, at=b"PK\1\2", offset=offset, to=to)
    message = refusal(storage.read_bytes, f"{url}/bad", kind=kind)
    assert message.startswith(f"{url}/bad: ") and words in message
    assert storage.read_bytes(f"{url}/good") == b"good"


@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_a_zip_that_was_cut_off_is_refused(tmp_path: Path, left: float):
    url = pack_zip(tmp_path / "cut.zip", FILES)
    data = Path(url).read_bytes()
    Path(url).write_bytes(data[: int(len(data) * left)])
    assert refusal(storage.list_files, url, kind=DamagedArchive).startswith(f"{url}: not a whole zip file (")


def test_a_zip_without_files_is_an_empty_folder(tmp_path: Path):
    url = pack_zip(tmp_path / "a.zip", {})
    assert storage.is_folder(url) and names(url) == []
    assert not storage.is_file(f"{url}/x")
