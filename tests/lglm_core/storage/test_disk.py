"""Files on disk: the contract, and what only a file system does."""

import errno
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.errors import InputError, RunError
from lglm_core.storage import disk
from tests.lglm_core.storage.contract import FILES, CreatingContract, names


class TestDisk(CreatingContract):
    missing = "cannot be read (No such file or directory)"
    on_disk = True

    @pytest.fixture(scope="class")
    def written(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("files")
        for name, data in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    @pytest.fixture
    def stored(self, written: Path) -> str:
        return str(written)

    @pytest.fixture
    def out(self, tmp_path: Path) -> str:
        return f"{tmp_path}/out"


class TestFileUrl(TestDisk):
    @pytest.fixture
    def stored(self, written: Path) -> str:
        return written.as_uri()

    @pytest.fixture
    def out(self, tmp_path: Path) -> str:
        (tmp_path / "a folder").mkdir()
        return (tmp_path / "a folder").as_uri()


# --- Reading ---


@pytest.mark.parametrize("name", ["a%41.jpg", "x#1.jpg", "y?1.jpg", "z é.jpg", "plus+.jpg", "\udcff.jpg"])
def test_a_name_joined_to_a_file_url_is_taken_literally(tmp_path: Path, name: str):
    """Otherwise one image would be read instead of another."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for decoy in ("aA.jpg", "x", "y"):
        (folder / decoy).touch()
    (folder / name).write_bytes(b"this one")
    url = folder.as_uri()
    listed = [file.name for file in storage.list_files(url)]
    assert name in listed
    assert storage.read_bytes(storage.join(url, name)) == b"this one"
    storage.write_bytes(storage.join(url, "new", name), b"that one")
    assert (folder / "new" / name).read_bytes() == b"that one"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_slash_behind_a_file_changes_nothing(tmp_path: Path, scheme: str):
    (tmp_path / "a.jpg").write_bytes(b"A")
    url = f"{scheme}{tmp_path}/a.jpg/"
    assert storage.is_file(url) and storage.read_bytes(url) == b"A" == storage.read_range(url, 0, 1)


@pytest.mark.parametrize("name", ["none", "folder"])
def test_a_missing_file_or_a_folder_is_refused_by_name(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    for read in (storage.read_bytes, storage.sha256, lambda url: storage.read_range(url, 0, 1)):
        with pytest.raises(InputError, match=f"/{name}: "):
            read(f"{tmp_path}/{name}")


def test_a_writer_to_a_named_pipe_is_not_disturbed(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["dd", "if=/dev/zero", f"of={pipe}", "count=1", "status=none"]) as writer:
        with pytest.raises(storage.UnreadableFile, match="pipe: not a regular file"):
            storage.open_stream(str(pipe))
        with pipe.open("rb") as reader:
            assert reader.read() == bytes(512)
    assert writer.returncode == 0


def test_a_range_of_a_named_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(storage.UnreadableFile, match="pipe: cannot be read"):
        storage.read_range(str(tmp_path / "pipe"), 0, 1)


@pytest.mark.parametrize("read", [storage.read_bytes, storage.sha256, storage.read_if_exists])
def test_a_disk_that_fails_makes_a_file_unreadable(read: Callable[[str], object]):
    """The first bytes of this file cannot be read, like a bad sector."""
    with pytest.raises(storage.UnreadableFile, match="/proc/self/mem: cannot be read"):
        read("/proc/self/mem")


# --- Listing ---


def test_a_dangling_link_is_listed(tmp_path: Path):
    (tmp_path / "x").symlink_to("nowhere")
    assert names(str(tmp_path)) == ["x"]


def test_links_that_lead_nowhere_or_round_are_files(tmp_path: Path):
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert names(str(tmp_path)) == ["gone", "round"]


def test_the_etag_changes_with_the_content_though_the_size_does_not(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/x", b"one")
    os.utime(tmp_path / "x", ns=(1, 1))
    before = storage.list_files(str(tmp_path))
    assert storage.list_files(str(tmp_path)) == before
    storage.write_bytes(f"{tmp_path}/x", b"two")
    assert storage.list_files(str(tmp_path)) != before


def test_a_folder_is_listed_while_it_is_written_to(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for number in range(50):
        (tmp_path / "deep" / str(number)).touch()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            storage.write_bytes(f"{tmp_path}/writer.json", b"{}")
            storage.write_bytes(f"{tmp_path}/passing", b"{}")
            storage.remove(f"{tmp_path}/passing")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            found = {file.name for file in storage.list_files(str(tmp_path))}
            assert found - {"writer.json", "passing"} == {f"deep/{number}" for number in range(50)}
    finally:
        ended.set()
        writer.join()


# --- Writing ---


def test_a_folder_is_published_whole_too(tmp_path: Path):
    with storage.write_whole(f"{tmp_path}/last") as staged:
        staged.mkdir()
        (staged / "weights").write_bytes(b"w")
    assert (tmp_path / "last" / "weights").read_bytes() == b"w"


def test_unfinished_files_of_a_killed_writer_do_not_count_and_can_be_removed(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "deep"):
        (folder / ".partial-abc").mkdir(parents=True)
        (folder / ".partial-abc" / "x").touch()
    assert storage.is_empty(f"{tmp_path}/deep")
    (tmp_path / "x").touch()
    assert not storage.is_empty(str(tmp_path))
    assert names(str(tmp_path)) == ["x"]
    storage.remove_unfinished(str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "x"]


def test_after_a_block_that_raises_or_a_removal_no_folder_is_left(tmp_path: Path):
    with pytest.raises(RuntimeError), storage.write_whole(f"{tmp_path}/x") as staged:
        staged.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    storage.write_bytes(f"{tmp_path}/a/deep/x", b"")
    storage.write_bytes(f"{tmp_path}/y", b"")
    for name in ("a", "y", "none"):
        storage.remove(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [storage.write_bytes, storage.create])
def test_a_full_disk_is_reported_with_the_path(tmp_path: Path, write: Callable[[str, bytes], object]):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"x: cannot be written \(File too large\); make room"):
            write(f"{tmp_path}/x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["mkdir", "TemporaryDirectory"])
@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, RunError, r"x: cannot be written \(.*\); make room"),
        (errno.EDQUOT, RunError, r"x: cannot be written \(.*\); make room"),
        (errno.EROFS, InputError, "cannot be (made a folder|written to) "),
    ],
)
def test_a_disk_without_room_for_a_folder_is_reported_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[Exception], said: str
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, call) if call == "mkdir" else (disk, call)), refuse)
        with pytest.raises(kind, match=said):
            storage.write_bytes(f"{tmp_path}/x", b"")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_nothing_is_written_below_a_file(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"/{name}: cannot be made a folder \("):
        storage.write_bytes(f"{tmp_path}/{name}/x", b"")


def test_without_hard_links_what_exists_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    url = f"{tmp_path}/x"
    assert [storage.create(url, data) for data in (b"first", b"second")] == [b"first", b"first"]


def test_removing_a_linked_folder_removes_its_content_and_keeps_the_link(tmp_path: Path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "x").touch()
    (tmp_path / "real" / "y").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "real" / "photos").symlink_to(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.remove(f"{tmp_path}/link")
    assert (tmp_path / "link").is_symlink() and list((tmp_path / "real").iterdir()) == []
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_links_are_followed_to_tell_what_lies_within_a_folder(tmp_path: Path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert storage.lies_within(f"{tmp_path}/link/deep", f"{tmp_path}/real")
    assert not storage.lies_within(f"{tmp_path}/link/deep", f"{tmp_path}/deep")
