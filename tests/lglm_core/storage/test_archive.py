"""Archives as folders: on disk, in a bucket of a real server, and on a web server."""

import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.errors import InputError, RunError
from lglm_core.storage.archive_member import DamagedArchive
from lglm_core.storage.location import UnreadableFile
from tests.lglm_core.storage.contract import FILES, ListingContract, ReadOnlyContract, names, refusal
from tests.lglm_core.storage.pack import PACKERS, pack_tar, pack_zip
from tests.servers.s3 import S3Server
from tests.servers.web import Website

Pack = Callable[..., str]


@pytest.fixture(scope="module", params=PACKERS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of each kind that holds FILES; no test changes it."""
    return Path(PACKERS[request.param](tmp_path_factory.mktemp("archives") / request.param, FILES))


@pytest.fixture
def archive(packed: Path, tmp_path: Path) -> str:
    """A copy of ``packed`` that a test may change."""
    return shutil.copy(packed, tmp_path)


class ArchiveContract(ListingContract, ReadOnlyContract):
    missing = "no such file in the archive"


class TestArchiveOnDisk(ArchiveContract):
    @pytest.fixture
    def stored(self, packed: Path) -> str:
        return str(packed)

    @pytest.fixture
    def state(self, packed: Path) -> Callable[[], object]:
        return packed.read_bytes


@pytest.mark.parametrize("packed", ["deflated.zip", "pax.tar"], indirect=True)
class TestArchiveInABucket(ArchiveContract):
    @pytest.fixture
    def stored(self, in_a_bucket: str) -> str:
        return in_a_bucket


class TestArchiveOnAWebServer(ArchiveContract):
    @pytest.fixture
    def stored(self, packed: Path, site: Website) -> str:
        site.files[f"/{packed.name}"] = packed.read_bytes()
        return f"{site.url}/{packed.name}"


@pytest.mark.parametrize("packed", ["deflated.zip", "pax.tar"], indirect=True)
class TestArchiveOnAWebServerWithoutRanges(TestArchiveOnAWebServer):
    @pytest.fixture(autouse=True)
    def no_ranges(self, site: Website) -> None:
        site.ranges = False


@pytest.fixture(scope="module")
def bucket_like_an_archive(moto: S3Server) -> str:
    moto.put_bucket("bucket.zip")
    return "bucket.zip"


@pytest.fixture(scope="module")
def uploaded(packed: Path, moto: S3Server, bucket_like_an_archive: str) -> str:
    key = f"archives/{packed.name}"
    moto.client().put_object(Bucket=bucket_like_an_archive, Key=key, Body=packed.read_bytes())
    return f"s3://{bucket_like_an_archive}/{key}"


@pytest.fixture
def in_a_bucket(uploaded: str, moto: S3Server, connect_to: Callable[..., None]) -> str:
    """An archive of each kind, in a bucket that is itself named like an archive."""
    connect_to(moto)
    return uploaded


def check_holds_files(url: str) -> None:
    assert {name: storage.read_bytes(storage.join(url, name)) for name in names(url)} == FILES
    assert names(f"{url}/deep") == ["er/text", "x"]


def check_ranges(url: str) -> None:
    for name in ("body", "deep/er/text", "empty"):
        for offset, size in ((0, 3), (1000, 50), (79_990, 50), (10**6, 5), (2, 0)):
            found = storage.read_range(storage.join(url, name), offset, size)
            assert found == FILES[name][offset : offset + size], (name, offset, size)


def test_a_file_url_leads_into_an_archive(tmp_path: Path):
    pack_zip(tmp_path / "a b.zip", {"c d.jpg": b"found"})
    assert storage.read_bytes(f"file://{tmp_path}/a%20b.zip/c%20d.jpg") == b"found"


def test_the_url_of_an_archive_itself_is_an_ordinary_file(archive: str):
    data = Path(archive).read_bytes()
    assert storage.is_file(archive) and storage.read_bytes(archive) == data
    assert storage.read_range(archive, 3, 4) == data[3:7]
    with storage.local_copy(archive) as path:
        assert str(path) == archive
    assert [file.name for file in storage.list_files(str(Path(archive).parent))] == [Path(archive).name]
    storage.remove(archive)
    assert not storage.is_file(archive) and not storage.is_folder(archive)
    storage.write_bytes(archive, data)
    check_holds_files(archive)


def test_many_threads_read_one_archive_at_once(packed: Path):
    wanted = [name for name in ("body", "deep/er/text", "empty", "abc") for _ in range(100)]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda name: storage.read_bytes(f"{packed}/{name}"), wanted)
        assert list(found) == [FILES[name] for name in wanted]


def test_a_folder_whose_name_looks_like_an_archive_is_a_folder(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/photos.zip/x", b"plain")
    assert names(f"{tmp_path}/photos.zip") == ["x"]
    assert storage.read_bytes(f"{tmp_path}/photos.zip/x") == b"plain"
    url = pack_tar(tmp_path / "photos.zip" / "more.tar", {"y.zip/z": b"within"})
    assert storage.read_bytes(f"{url}/y.zip/z") == b"within"


def test_a_file_in_a_missing_archive_is_missing(tmp_path: Path):
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


def test_a_file_in_an_archive_lies_within_it_and_within_its_folder(tmp_path: Path):
    files = {"cats/deep/1.jpg": b"", "dogs/2.jpg": b""}
    url, other = pack_zip(tmp_path / "a.zip", files), pack_zip(tmp_path / "b.zip", files)
    assert storage.lies_within(f"{url}/cats", url)
    assert storage.lies_within(f"{url}/cats", str(tmp_path))
    assert storage.lies_within(f"{url}/cats/deep", f"{url}/cats")
    assert not storage.lies_within(f"{url}/cats", f"{other}/cats")
    assert not storage.lies_within(f"{url}/cats", f"{url}/dogs")
    assert not storage.lies_within(f"{tmp_path}/out", url)


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
def test_the_last_of_several_files_with_one_name_counts(tmp_path: Path, suffix: str):
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


# --- What is no archive ---


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("content", [b"", b"no archive " * 500])
def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for read in (storage.list_files, lambda url: storage.read_bytes(f"{url}/x")):
        message = refusal(read, str(path), kind=DamagedArchive)
        assert (
            message.startswith(f"{path}: not a whole {suffix} file (") and "fetch or pack it again" in message
        )


@pytest.mark.parametrize("kind", PACKERS)
def test_random_damage_is_refused_or_read_but_never_anything_else(tmp_path: Path, kind: str):
    files = {"1": random.Random(1).randbytes(5000), "deep/2": b"ab" * 40_000, "ü 50%25": b"", "x": b"top"}
    archive = PACKERS[kind](tmp_path / kind, files)
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


def test_every_kind_of_archive_in_a_bucket_is_a_folder_of_files(in_a_bucket: str):
    check_holds_files(in_a_bucket)
    check_ranges(in_a_bucket)


@pytest.mark.parametrize("ranges", [True, False])
def test_every_kind_of_archive_on_a_web_server_is_a_folder_of_files(
    packed: Path, site: Website, ranges: bool
):
    site.files[f"/{packed.name}"] = packed.read_bytes()
    site.ranges = ranges
    check_holds_files(f"{site.url}/{packed.name}")
    check_ranges(f"{site.url}/{packed.name}")


def test_a_bucket_is_no_archive_and_holds_them_as_files(
    tmp_path: Path, moto: S3Server, connect_to: Callable[..., None], bucket_like_an_archive: str
):
    connect_to(moto)
    bucket = f"s3://{bucket_like_an_archive}"
    data = Path(pack_zip(tmp_path / "a.zip", {"x": b"packed"})).read_bytes()
    storage.write_bytes(f"{bucket}/written/a.zip", data)
    assert storage.read_bytes(f"{bucket}/written/a.zip") == data
    assert storage.read_bytes(f"{bucket}/written/a.zip/x") == b"packed"
    assert "written/a.zip" in names(bucket) and storage.is_folder(bucket)
    assert not storage.is_folder(f"{bucket}/none.zip/x") and not storage.is_file(f"{bucket}/none.zip/x")
    message = refusal(storage.read_bytes, f"{bucket}/none.tar/x", kind=UnreadableFile)
    assert message.endswith("no such object")


def test_each_file_is_one_request_for_one_range(packed: Path, site: Website):
    name = packed.name
    site.files[f"/{name}"] = packed.read_bytes()
    storage.list_files(f"{site.url}/{name}")
    assert len(site.seen) <= 8
    site.seen.clear()
    for member in FILES:
        storage.read_bytes(f"{site.url}/{name}/{member}")
    assert len(site.seen) == len(FILES)
    assert all(site.asked("Range"))


def test_many_threads_make_one_index(packed: Path, site: Website):
    name = packed.name
    site.files[f"/{name}"] = packed.read_bytes()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(storage.read_bytes, [f"{site.url}/{name}/deep/x"] * 64))
    assert len([request for request in site.seen if request[0] == "GET"]) <= 64 + 8


def test_a_file_that_is_no_archive_is_read_once(site: Website):
    site.files["/a.tar"] = b"no archive " * 500
    for _ in range(5):
        assert "not a whole tar file" in refusal(
            storage.read_bytes, f"{site.url}/a.tar/x", kind=DamagedArchive
        )
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


def test_the_secret_parts_of_the_address_of_an_archive_are_not_shown(tmp_path: Path, site: Website):
    site.files["/a.zip"] = Path(pack_zip(tmp_path / "a.zip", {"top.txt": b"top"})).read_bytes()
    address = site.url.replace("://", "://me:secret@")
    assert storage.read_bytes(f"{address}/a.zip/top.txt") == b"top"
    assert refusal(storage.read_bytes, f"{address}/a.zip/none", kind=UnreadableFile).startswith(site.url)


def test_an_archive_of_unknown_size_is_refused(site: Website):
    site.files["/a.zip"], site.chunked, site.ranges = b"zip", True, False
    assert "does not tell its size; fetch the archive first" in refusal(
        storage.list_files, f"{site.url}/a.zip"
    )
