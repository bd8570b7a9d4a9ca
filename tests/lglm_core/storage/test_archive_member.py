"""The bytes of one file in an archive."""

import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.storage import archive_member
from lglm_core.storage.archive_member import DamagedMember
from tests.lglm_core.storage.contract import refusal
from tests.lglm_core.storage.pack import pack_tar, pack_zip, patched


def test_a_large_file_is_streamed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_member, "MAX_FETCHED", 1000)
    monkeypatch.setattr(archive_member, "CHUNK", 700)
    lines = b"".join(b"%d a line\n" % number for number in range(10_000))
    for url in (
        pack_zip(tmp_path / "d.zip", {"x": lines}),
        pack_zip(tmp_path / "s.zip", {"x": lines}, 0),
        pack_tar(tmp_path / "t.tar", {"x": lines}),
    ):
        with storage.open_stream(f"{url}/x") as stream:
            assert b"".join(stream) == lines
        with storage.local_copy(f"{url}/x") as path:
            assert path.read_bytes() == lines


def test_damaged_bytes_are_noticed(tmp_path: Path):
    data = random.Random(0).randbytes(5000)
    stored = pack_zip(tmp_path / "s.zip", {"x": data}, zipfile.ZIP_STORED)
    packed = pack_zip(tmp_path / "d.zip", {"x": data})
    for url in (stored, packed):
        patched(url, at=b"PK\3\4", offset=2500, to=b"\0\0\0")
        assert "damaged within its archive" in refusal(storage.read_bytes, f"{url}/x", kind=DamagedMember)


def test_a_bomb_is_unpacked_no_further_than_it_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken = []
    inflater = zlib.decompressobj

    class Counting:
        def __init__(self, *arguments: int) -> None:
            self.inflate = inflater(*arguments)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inflate, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            taken.append(most)
            return self.inflate.decompress(data, most)

    url = pack_zip(tmp_path / "a.zip", {"x": bytes(50_000_000)})
    patched(url, at=b"PK\1\2", offset=24, to=struct.pack("<I", 1000))
    monkeypatch.setattr(archive_member.zlib, "decompressobj", Counting)
    assert "damaged" in refusal(storage.read_bytes, f"{url}/x", kind=DamagedMember)
    assert taken == [1000]
