"""Archives as folders: on disk, in a bucket of a real server, and on a web server."""

import io
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.errors import InputError, RunError
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.toy.coco import write_toy_coco
from lglm_core.sources.voc import CLASSES, VocSource
from lglm_core.storage import archive_member
from lglm_core.storage import retry as patience
from lglm_core.storage.location import UnreadableFile
from lglm_core.storage.s3_client import connect
from tests.servers.s3 import S3Server, moto_s3
from tests.servers.web import Website, website

FILES = {
    "cats/1.jpg": random.Random(1).randbytes(5000),
    "cats/deep/2.jpg": b"ab" * 40_000,
    "dogs/ü 50%25.jpg": b"",
    "top.txt": b"top",
}
Pack = Callable[..., str]


def pack_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return str(path)


def pack_tar(path: Path, files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


PACKERS: dict[str, Callable[[Path], str]] = {
    "deflated.zip": lambda path: pack_zip(path, FILES),
    "stored.ZIP": lambda path: pack_zip(path, FILES, zipfile.ZIP_STORED),
    "pax.tar": lambda path: pack_tar(path, FILES),
    "gnu.tar": lambda path: pack_tar(path, FILES, tarfile.GNU_FORMAT),
}


@pytest.fixture(params=PACKERS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return PACKERS[request.param](tmp_path / request.param)


def refusal(action: Callable[..., object], *arguments: object, kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as refused:
        action(*arguments)
    assert type(refused.value) is kind
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(url: str) -> list[str]:
    return [file.name for file in storage.list_files(url)]


# --- As a folder ---


def check_is_a_folder_of_files(url: str) -> None:
    assert {file.name: file.size for file in storage.list_files(url)} == {
        name: len(data) for name, data in FILES.items()
    }
    assert names(f"{url}/cats") == names(f"{url}/cats/") == ["1.jpg", "deep/2.jpg"]
    for folder in ("", "/", "/cats", "/cats/deep"):
        assert storage.is_folder(f"{url}{folder}")
    for other in ("/ca", "/top.txt", "/none"):
        assert not storage.is_folder(f"{url}{other}")
    for name, data in FILES.items():
        member = storage.join(url, name)
        assert storage.is_file(member)
        assert storage.read_bytes(member) == data
        for offset, size in ((0, 3), (1000, 50), (4990, 50), (10**6, 5), (2, 0)):
            assert storage.read_range(member, offset, size) == data[offset : offset + size]
    assert not storage.is_file(f"{url}/cats") and not storage.is_file(f"{url}/none")
    message = refusal(storage.read_bytes, f"{url}/none", kind=UnreadableFile)
    assert message == f"{url}/none: no such file in the archive"
    assert "no such folder in the archive" in refusal(storage.list_files, f"{url}/none")


def test_an_archive_is_a_folder(archive: str):
    check_is_a_folder_of_files(archive)


def test_a_file_url_leads_into_an_archive(tmp_path: Path):
    pack_zip(tmp_path / "a b.zip", {"c d.jpg": b"found"})
    assert storage.read_bytes(f"file://{tmp_path}/a%20b.zip/c%20d.jpg") == b"found"


def test_by_itself_it_is_the_file_that_it_is(archive: str):
    data = Path(archive).read_bytes()
    assert storage.is_file(archive) and storage.read_bytes(archive) == data
    assert storage.read_range(archive, 3, 4) == data[3:7]
    with storage.local_copy(archive) as path:
        assert str(path) == archive
    assert [file.name for file in storage.list_files(str(Path(archive).parent))] == [Path(archive).name]
    storage.remove(archive)
    assert not storage.is_file(archive) and not storage.is_folder(archive)
    storage.write_bytes(archive, data)
    check_is_a_folder_of_files(archive)


def test_a_large_file_is_streamed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_member, "MOST_FETCHED", 1000)
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


def test_many_threads_read_at_once(archive: str):
    wanted = [name for name in FILES for _ in range(100)]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda name: storage.read_bytes(f"{archive}/{name}"), wanted)
        assert list(found) == [FILES[name] for name in wanted]


def test_a_folder_whose_name_looks_like_an_archive_is_a_folder(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/photos.zip/x", b"plain")
    assert names(f"{tmp_path}/photos.zip") == ["x"]
    assert storage.read_bytes(f"{tmp_path}/photos.zip/x") == b"plain"
    url = pack_tar(tmp_path / "photos.zip" / "more.tar", {"y.zip/z": b"within"})
    assert storage.read_bytes(f"{url}/y.zip/z") == b"within"


def test_an_archive_that_is_not_there_is_missing(tmp_path: Path):
    url = f"{tmp_path}/none.zip"
    assert not storage.is_folder(url) and not storage.is_file(f"{url}/x")
    with pytest.raises(UnreadableFile) as refused:
        storage.read_bytes(f"{url}/x")
    assert refused.value.missing


def test_an_archive_that_is_replaced_is_read_anew(tmp_path: Path):
    for pack in (pack_zip, pack_tar):
        path = tmp_path / f"a.{pack.__name__[5:]}"
        url = pack(path, {"x": b"old", "y": b""})
        before = storage.list_files(url)
        assert storage.read_bytes(f"{url}/x") == b"old"
        pack(path, {"new": b"1", "x": b"new!"})
        assert storage.read_bytes(f"{url}/x") == b"new!"
        assert before[0] not in storage.list_files(url)


def test_what_lies_within_an_archive(tmp_path: Path):
    url = pack_zip(tmp_path / "a.zip", FILES)
    other = pack_zip(tmp_path / "b.zip", FILES)
    assert storage.lies_within(f"{url}/cats", url)
    assert storage.lies_within(f"{url}/cats", str(tmp_path))
    assert storage.lies_within(f"{url}/cats/deep", f"{url}/cats")
    assert not storage.lies_within(f"{url}/cats", f"{other}/cats")
    assert not storage.lies_within(f"{url}/cats", f"{url}/dogs")
    assert not storage.lies_within(f"{tmp_path}/out", url)


def test_nothing_is_written_into_an_archive(archive: str):
    before = Path(archive).read_bytes()
    url = f"{archive}/out"
    for write in (
        lambda: storage.write_bytes(url, b""),
        lambda: storage.create(url, b""),
        lambda: storage.remove(url),
        lambda: storage.remove_unfinished(url),
        lambda: storage.is_empty(url),
    ):
        assert refusal(write) == (
            f"{url}: archives and web servers are only read; name a folder on a disk or in a bucket"
        )
    assert Path(archive).read_bytes() == before


# --- Names ---


ODD = ("../x", "/abs", "a\\b", "./here", "././there", "__MACOSX/._x", "a?b#c", "x" * 200)


@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_a_name_is_a_key_and_no_path(tmp_path: Path, pack: Pack):
    url = pack(tmp_path / f"a.{pack.__name__[5:]}", {name: name.encode() for name in ODD})
    keys = {name: name for name in ODD} | {"./here": "here", "././there": "there"}
    assert names(url) == sorted(keys.values())
    for name, key in keys.items():
        assert storage.read_bytes(f"{url}/{key}") == name.encode()
    assert [path.name for path in tmp_path.iterdir()] == [Path(url).name]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_of_files_of_one_name_the_last_counts(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for data in (b"first", b"last"):
                packed.writestr("x", data)
    else:
        with tarfile.open(path, "w") as tar:
            for data in (b"first", b"last"):
                info = tarfile.TarInfo("x")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert storage.read_bytes(f"{path}/x") == b"last"


def test_folders_and_links_are_no_files_but_a_hard_link_is_the_file_it_means(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"linked")
    (tmp_path / "in" / "hard").hardlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "soft").symlink_to("a")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
        pipe = tarfile.TarInfo("in/pipe")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("in/", "in/a", "in/hard"):
            file.writestr(name, b"" if name == "in/" else b"linked")
    for suffix in ("zip", "tar"):
        assert names(f"{tmp_path}/a.{suffix}/in") == ["a", "hard"]
        assert storage.read_bytes(f"{tmp_path}/a.{suffix}/in/hard") == b"linked"


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
def test_what_gnu_tar_packs_is_read(tmp_path: Path):
    name = f"{'long' * 40}/{'name' * 40}.jpg"
    storage.write_bytes(f"{tmp_path}/in/{name}", b"content")
    for format in ("gnu", "posix"):
        url = f"{tmp_path}/{format}.tar"
        subprocess.run(["tar", "-C", f"{tmp_path}/in", f"--format={format}", "-cf", url, "."], check=True)
        assert names(url) == [name]
        assert storage.read_bytes(f"{url}/{name}") == b"content"


# --- What a zip may hold ---


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
    check_is_a_folder_of_files(url)


def patched(url: str, *, at: bytes, offset: int, to: bytes) -> str:
    """Overwrite bytes of the last record that begins with *at*."""
    data = bytearray(Path(url).read_bytes())
    start = data.rindex(at) + offset
    data[start : start + len(to)] = to
    Path(url).write_bytes(data)
    return url


def test_a_name_of_a_zip_is_utf8_though_it_does_not_say_so(tmp_path: Path):
    """As Info-ZIP's ``zip -r`` writes it on Linux; what is no UTF-8 is of DOS's code page."""
    unmarked = patched(pack_zip(tmp_path / "a.zip", {"é 鳥.jpg": b"a"}), at=b"PK\1\2", offset=8, to=b"\0\0")
    assert names(unmarked) == ["é 鳥.jpg"]
    assert storage.read_bytes(f"{unmarked}/é 鳥.jpg") == b"a"
    of_dos = patched(pack_zip(tmp_path / "b.zip", {"x.jpg": b"b"}), at=b"PK\1\2", offset=46, to=b"\x82")
    assert names(of_dos) == ["é.jpg"]


@pytest.mark.parametrize(
    ("offset", "to", "words"),
    [
        (8, b"\1\0", "encrypted; pack it again without a password"),
        (10, struct.pack("<H", 12), "packed with bzip2; only stored and deflated files of a zip are read"),
        (10, struct.pack("<H", 77), "packed with method 77; only stored"),
        (16, b"\0\0\0\0", "has another checksum (CRC) than was noted"),
        (24, struct.pack("<I", 101), "ends too early"),
        (24, struct.pack("<I", 99), "has another checksum (CRC) than was noted"),
        (24, struct.pack("<I", (1 << 30) + 1), "1073741825 bytes unpacked, at most 1073741824 taken"),
        (42, struct.pack("<I", 5), "no header at byte 5"),
    ],
)
def test_a_file_of_a_zip_that_cannot_be_read_is_one_unreadable_file(
    tmp_path: Path, offset: int, to: bytes, words: str
):
    url = pack_zip(tmp_path / "a.zip", {"good": b"good", "bad": b"a" * 100})
    patched(url, at=b"PK\1\2", offset=offset, to=to)
    message = refusal(storage.read_bytes, f"{url}/bad", kind=UnreadableFile)
    assert message.startswith(f"{url}/bad: ") and words in message
    assert storage.read_bytes(f"{url}/good") == b"good"


def test_damaged_bytes_are_noticed(tmp_path: Path):
    data = random.Random(0).randbytes(5000)
    stored = pack_zip(tmp_path / "s.zip", {"x": data}, zipfile.ZIP_STORED)
    packed = pack_zip(tmp_path / "d.zip", {"x": data})
    for url in (stored, packed):
        patched(url, at=b"PK\3\4", offset=2500, to=b"\0\0\0")
        assert "damaged within its archive" in refusal(storage.read_bytes, f"{url}/x", kind=UnreadableFile)


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
    assert "damaged" in refusal(storage.read_bytes, f"{url}/x", kind=UnreadableFile)
    assert taken == [1000]


# --- What is no archive ---


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("content", [b"", b"no archive " * 500])
def test_what_is_no_archive_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for read in (storage.list_files, lambda url: storage.read_bytes(f"{url}/x")):
        message = refusal(read, str(path))
        assert (
            message.startswith(f"{path}: not a whole {suffix} file (") and "fetch or pack it again" in message
        )


@pytest.mark.parametrize("left", [10, 512, 513, 600, 1024, 1536, 2048, 6000])
def test_a_tar_that_was_cut_off_is_refused_also_between_two_files(tmp_path: Path, left: int):
    url = pack_tar(tmp_path / "a.tar", {"a": b"a", "b": b"b" * 5000})
    Path(url).write_bytes(Path(url).read_bytes()[:left])
    assert refusal(storage.list_files, url).startswith(f"{url}: not a whole tar file (")


@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_a_zip_that_was_cut_off_is_refused(tmp_path: Path, left: float):
    url = pack_zip(tmp_path / "cut.zip", FILES)
    data = Path(url).read_bytes()
    Path(url).write_bytes(data[: int(len(data) * left)])
    assert refusal(storage.list_files, url).startswith(f"{url}: not a whole zip file (")


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path):
    url = pack_tar(tmp_path / "a.tar", {"a": b"a", "b": b"b"})
    patched(url, at=b"ustar", offset=-100, to=b"XX")
    assert "at byte 1024 neither a file begins nor the tar ends" in refusal(storage.list_files, url)


def test_random_damage_is_refused_or_read_but_never_anything_else(archive: str):
    data = Path(archive).read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 20)):
            first = len(data) - 300 if rng.random() < 0.7 else 0  # a zip's directory, or anywhere
            damaged[rng.randrange(first, len(data))] = rng.randrange(256)
        Path(archive).write_bytes(damaged)
        try:
            for name in names(archive):
                storage.read_bytes(f"{archive}/{name}")
        except (InputError, RunError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "TAR.XZ"])
def test_a_tar_that_is_compressed_as_a_whole_is_refused_as_a_folder(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"whatever")
    for read in (storage.list_files, storage.is_folder, lambda url: storage.read_bytes(f"{url}/x")):
        assert refusal(read, str(path)) == (
            f"{path}: a tar that is compressed as a whole can only be read from its start; "
            "unpack it, or pack it again as .tar or .zip"
        )
    assert storage.read_bytes(str(path)) == b"whatever"


# --- Elsewhere than on disk ---


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with moto_s3() as server:
        server.put_bucket("bucket.zip")
        yield server


@pytest.fixture
def bucket(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    yield "s3://bucket.zip"
    connect.cache_clear()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Website]:
    monkeypatch.setattr(patience, "FIRST_DELAY_S", 0.01)
    with website() as served:
        yield served


def test_an_archive_in_a_bucket_is_a_folder(archive: str, bucket: str):
    url = f"{bucket}/archives/{Path(archive).name}"
    storage.write_bytes(url, Path(archive).read_bytes())
    check_is_a_folder_of_files(url)
    assert names(bucket) and storage.is_folder(bucket)
    assert not storage.is_folder(f"{bucket}/none.zip/x") and not storage.is_file(f"{bucket}/none.zip/x")
    assert refusal(storage.read_bytes, f"{bucket}/none.tar/x", kind=UnreadableFile).endswith("no such object")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_archive_on_a_web_server_is_a_folder(archive: str, site: Website, ranges: bool):
    site.files[f"/{Path(archive).name}"] = Path(archive).read_bytes()
    site.ranges = ranges
    check_is_a_folder_of_files(f"{site.url}/{Path(archive).name}")


def test_each_file_is_one_request_for_one_range(archive: str, site: Website):
    name = Path(archive).name
    site.files[f"/{name}"] = Path(archive).read_bytes()
    storage.list_files(f"{site.url}/{name}")
    assert len(site.seen) <= 8
    site.seen.clear()
    for member in FILES:
        storage.read_bytes(f"{site.url}/{name}/{member}")
    assert len(site.seen) == len(FILES)
    assert all(site.asked("Range"))


def test_many_threads_make_one_index(archive: str, site: Website):
    name = Path(archive).name
    site.files[f"/{name}"] = Path(archive).read_bytes()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(storage.read_bytes, [f"{site.url}/{name}/top.txt"] * 64))
    assert len([request for request in site.seen if request[0] == "GET"]) <= 64 + 8


def test_an_archive_that_is_none_is_asked_for_once(site: Website):
    site.files["/a.tar"] = b"no archive " * 500
    for _ in range(5):
        assert "not a whole tar file" in refusal(storage.read_bytes, f"{site.url}/a.tar/x")
    assert len(site.seen) == 2


def test_a_tar_that_is_replaced_elsewhere_fails_the_run(tmp_path: Path, site: Website):
    site.files["/a.tar"] = Path(pack_tar(tmp_path / "a.tar", {"a": b"1", "x": b"old"})).read_bytes()
    assert storage.read_bytes(f"{site.url}/a.tar/x") == b"old"
    site.files["/a.tar"] = Path(pack_tar(tmp_path / "a.tar", {"a": b"1" * 600, "x": b"new"})).read_bytes()
    assert "was replaced while it was read" in refusal(
        storage.read_bytes, f"{site.url}/a.tar/x", kind=RunError
    )
    storage.list_files(f"{site.url}/a.tar")
    assert storage.read_bytes(f"{site.url}/a.tar/x") == b"new"


def test_a_host_or_a_query_is_no_archive(site: Website):
    site.files["/get"] = b"answer"
    assert storage.read_bytes(f"{site.url}/get?file=a.zip/b.jpg") == b"answer"
    assert not hasattr(storage.locate("http://host.zip/b.jpg"), "archive")


def test_what_is_secret_in_an_address_is_not_shown_of_what_lies_in_an_archive(tmp_path: Path, site: Website):
    site.files["/a.zip"] = Path(pack_zip(tmp_path / "a.zip", FILES)).read_bytes()
    address = site.url.replace("://", "://me:secret@")
    assert storage.read_bytes(f"{address}/a.zip/top.txt") == b"top"
    assert refusal(storage.read_bytes, f"{address}/a.zip/none", kind=UnreadableFile).startswith(site.url)


def test_an_archive_whose_size_nobody_tells_is_refused(site: Website):
    site.files["/a.zip"], site.chunked, site.ranges = b"zip", True, False
    assert "does not tell its size; fetch the archive first" in refusal(
        storage.list_files, f"{site.url}/a.zip"
    )


# --- What uses it ---


def dataset(source: CocoSource | VocSource, out: Path) -> tuple[str, list[bytes]]:
    plan = make_plan(source, 8)
    for shard in plan.shards:
        write_shard(shard, plan.labels, str(out))
    return plan.fingerprint, [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()]


def test_coco_from_the_zips_it_is_published_as_is_the_same_dataset(tmp_path: Path):
    folder, zipped = tmp_path / "folder", tmp_path / "zipped"
    write_toy_coco(str(folder), samples=30, seed=0)
    zipped.mkdir()
    year = CocoSource(str(folder)).year
    for name in (f"train{year}", f"val{year}", "annotations"):
        target = f"annotations_trainval{year}" if name == "annotations" else name
        shutil.make_archive(str(zipped / target), "zip", folder, name)
    assert {path.suffix for path in zipped.iterdir()} == {".zip"}
    sources = CocoSource(str(folder)), CocoSource(str(zipped))
    assert sources[0].inputs() == sources[1].inputs()
    expected = dataset(sources[0], tmp_path / "a")
    assert len(expected[1]) > 4
    assert dataset(sources[1], tmp_path / "b") == expected
    shutil.make_archive(str(tmp_path / "all"), "tar", folder)
    assert dataset(CocoSource(f"{tmp_path}/all.tar"), tmp_path / "c") == expected


def test_voc_is_read_from_a_tar(tmp_path: Path):
    files = {
        f"VOCdevkit/VOC2007/ImageSets/Main/{name}_{of}.txt": f"{of} {1 if name == 'cat' else -1}\n".encode()
        for name in CLASSES
        for of in ("trainval", "test")
    }
    url = pack_tar(tmp_path / "VOC.tar", files)
    images = list(VocSource(f"{url}/VOCdevkit/VOC2007").images())
    assert [(image.split, image.labels) for image in images] == [("train", ("cat",)), ("val", ("cat",))]
    assert images[0].uri == f"{url}/VOCdevkit/VOC2007/JPEGImages/trainval.jpg"
