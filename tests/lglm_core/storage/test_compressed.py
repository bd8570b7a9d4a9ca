"""Texts are the same however they are packed, and one that is not whole is refused by name."""

import gzip
import io
import random
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage import compressed
from tests.servers.web import Website

TEXT = "".join(f"word{number} {number * 7919 % 1000}\n" for number in range(5000)).encode()


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_gzip(path: Path, data: bytes = TEXT) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


def read(url: object) -> tuple[str, bytes]:
    with compressed.open_unpacked(str(url)) as (name, text):
        return name, text.read()


@pytest.fixture
def several(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "several.zip", {"a.50d.txt": b"a", "deep/b.txt": TEXT, "README": b"r"})


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain.txt").write_bytes(TEXT)
    return tmp_path / "plain.txt"


def test_a_text_is_the_same_however_it_is_packed(tmp_path: Path, plain: Path, several: Path):
    packed = [
        write_gzip(tmp_path / "v.txt.gz"),
        write_gzip(tmp_path / "no-matter-its-name.txt"),
        write_zip(tmp_path / "one.zip", {"v.txt": TEXT, "__MACOSX/._v.txt": b"x", "LICENSE": b"free"}),
        write_zip(tmp_path / "stored.ZIP", {"v.txt": TEXT}, zipfile.ZIP_STORED),
        f"{several}/deep/b.txt",
    ]
    assert {read(url)[1] for url in (plain, *packed)} == {TEXT}
    assert {compressed.sha256(str(url)) for url in packed} == {storage.sha256(str(plain))}


def test_the_address_of_a_member_is_the_archive_and_its_own_name(tmp_path: Path):
    only = write_zip(tmp_path / "one.zip", {"v.txt": TEXT})
    assert read(only)[0] == read(f"{only}/v.txt")[0] == read(f"{only}/")[0] == f"{only}/v.txt"


def test_a_member_whose_name_is_utf8_without_the_flag_is_found(tmp_path: Path):
    path = write_zip(tmp_path / "linux.zip", {"é.txt": TEXT, "b.txt": b"b"}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    for header in (b"PK\3\4\x14\0", b"PK\1\2\x14\3\x14\0"):
        data = data.replace(header + b"\0\x08", header + b"\0\0")
    path.write_bytes(data)
    assert read(f"{path}/é.txt") == (f"{path}/é.txt", TEXT)
    with pytest.raises(InputError, match=r"holds 2 texts, é\.txt, b\.txt"):
        read(path)


def test_one_of_several_texts_has_to_be_named(several: Path):
    expected = rf"several\.zip: holds 2 texts, a\.50d\.txt, deep/b\.txt; name one, as {several}/a\.50d\.txt"
    with pytest.raises(InputError, match=expected):
        read(several)


def test_a_missing_member_is_refused_with_the_names_of_the_others(several: Path):
    with pytest.raises(InputError, match=r"has no member 'b\.txt'; it holds a\.50d\.txt, deep/b\.txt"):
        read(f"{several}/b.txt")


@pytest.mark.parametrize(("members", "found"), [({}, "nothing"), ({"v.vec": b"x"}, r"v\.vec")])
def test_an_archive_without_a_text_is_refused(tmp_path: Path, members: dict[str, bytes], found: str):
    with pytest.raises(InputError, match=rf"one\.zip: holds no \.txt file, but {found}"):
        read(write_zip(tmp_path / "one.zip", members))


def test_a_folder_may_be_named_like_an_archive(tmp_path: Path):
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "v.txt").write_bytes(TEXT)
    assert read(f"{tmp_path}/folder.zip/v.txt")[1] == TEXT


def test_a_member_of_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    (tmp_path / "v.zip").write_bytes(TEXT)
    with pytest.raises(InputError, match=r"v\.zip: not a zip archive, so there is no a\.txt in it"):
        read(f"{tmp_path}/v.zip/a.txt")


@pytest.mark.parametrize("name", ["none.txt", "none.zip/a.txt"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=f"{name}: no such file"):
        read(tmp_path / name)


@pytest.mark.parametrize("kept", [11, 2000, -1])
@pytest.mark.parametrize("write", [write_gzip, lambda path: write_zip(path, {"v.txt": TEXT})])
def test_a_packed_file_that_is_cut_short_is_refused(tmp_path: Path, write, kept: int):
    path = write(tmp_path / "packed")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="packed: cut short or damaged"):
        read(path)


@pytest.mark.parametrize("write", [write_gzip, lambda path: write_zip(path, {"v.txt": TEXT})])
def test_a_packed_file_with_a_changed_byte_is_refused(tmp_path: Path, write):
    path = write(tmp_path / "packed")
    data = bytearray(path.read_bytes())
    data[1000] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="packed: cut short or damaged"):
        read(path)


def test_a_member_with_a_password_is_refused(tmp_path: Path):
    path = write_zip(tmp_path / "v.zip", {"v.txt": TEXT})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of the member's entry
    data[6] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"v\.zip: 'v\.txt' cannot be unpacked .*password"):
        read(path)


@pytest.mark.parametrize("pack", [write_gzip, lambda path, data: write_zip(path, {"v.txt": data})])
def test_an_unpacked_text_is_never_in_memory_as_a_whole(tmp_path: Path, pack):
    size = 64 << 20
    path = pack(tmp_path / "packed", bytes(size))
    tracemalloc.start()
    try:
        with compressed.open_unpacked(str(path)) as (_, text):
            assert sum(map(len, iter(lambda: text.read(1 << 16), b""))) == size
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_text_larger_than_the_limit_for_members_is_streamed(tmp_path: Path):
    """The directory of this zip claims more bytes than a file in an archive may have."""
    path = write_zip(tmp_path / "v.zip", {"v.txt": TEXT})
    data = bytearray(path.read_bytes())
    claimed = data.rindex(b"PK\1\2") + 24
    data[claimed : claimed + 4] = struct.pack("<I", (1 << 30) + 1)
    path.write_bytes(bytes(data))
    with pytest.raises(storage.UnreadableFile, match="1073741825 bytes unpacked, at most 1073741824 taken"):
        storage.read_bytes(f"{path}/v.txt")
    with compressed.open_unpacked(str(path)) as (_, text):
        assert text.read(len(TEXT)) == TEXT
    with pytest.raises(InputError, match=r"v\.zip: cut short or damaged \(ends too early\); fetch it again"):
        read(path)


def test_the_name_of_a_member_is_quoted_in_a_file_url(tmp_path: Path):
    path = write_zip(tmp_path / "a zip.zip", {"a b.txt": TEXT, "c.txt": b"c"})
    assert read(f"{path.as_uri()}/a%20b.txt") == (f"{path.as_uri()}/a%20b.txt", TEXT)


def test_a_zip_may_lie_in_a_tar(tmp_path: Path):
    only = write_zip(tmp_path / "one.zip", {"v.txt": TEXT})
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(only, "deep/one.zip")
    for name in ("deep/one.zip", "deep/one.zip/v.txt"):
        assert read(f"{tmp_path}/all.tar/{name}") == (f"{tmp_path}/all.tar/deep/one.zip/v.txt", TEXT)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_zip_on_a_web_server_is_fetched_once_as_a_whole(tmp_path: Path, site: Website, ranges: bool):
    site.files["/v.zip"] = write_zip(tmp_path / "v.zip", {"v.txt": TEXT, "w.txt": b"w"}).read_bytes()
    site.ranges = ranges
    for address in (f"{site.url}/v.zip/v.txt", f"{site.url.replace('://', '://me:secret@')}/v.zip/v.txt"):
        site.seen.clear()
        assert read(address) == (f"{site.url}/v.zip/v.txt", TEXT)
        assert len(site.seen) <= 5
    with pytest.raises(InputError, match=rf"{site.url}/v\.zip: holds 2 texts, v\.txt, w\.txt; name one, as"):
        read(f"{site.url}/v.zip?sig=secret")


def test_a_text_packed_in_a_bucket_is_read_and_no_copy_of_it_stays(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = random.Random(0).randbytes(3 << 20)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("v.txt", text)
    storage.write_bytes(f"{folder}/v.zip", archive.getvalue())
    storage.write_bytes(f"{folder}/v.txt.gz", gzip.compress(text, 1))
    for name in ("v.zip", "v.zip/v.txt", "v.txt.gz"):
        with compressed.open_unpacked(f"{folder}/{name}") as (_, stream):
            assert stream.read() == text
    assert list(tmp_path.iterdir()) == []
