import errno
import io
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core import storage
from lglm_core.errors import InputError, RunError
from lglm_core.storage import disk
from lglm_core.storage.disk import DiskLocation


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("a/b.txt", "a/b.txt"),
        ("/a/b c.txt", "/a/b c.txt"),
        ("file:///a/b%20c.txt", "/a/b c.txt"),
        ("file://localhost/a", "/a"),
        ("file:a", "file:a"),
        ("C#/50%", "C#/50%"),
    ],
)
def test_paths_and_file_urls_name_the_local_disk(url: str, path: str):
    assert storage.local_path(url) == Path(path)


@pytest.mark.parametrize("url", ["ftp://host/x", "gs://b/k", "gs://b/k.zip/x"])
def test_another_scheme_is_refused_by_name(url: str):
    with pytest.raises(InputError, match="is not a place lglm can reach"):
        storage.locate(url)


@pytest.mark.parametrize("url", ["file://photos", "file://photos/2026", "file://server/share/x"])
def test_a_file_of_another_machine_is_refused(url: str):
    with pytest.raises(InputError, match=r"names a file of the machine .(photos|server)."):
        storage.locate(url)


@pytest.mark.parametrize(
    ("url", "local"),
    [("a/b", True), ("file:///a", True), ("S3://b/k", False), ("http://h/x", False), ("HTTPS://h/x", False)],
)
def test_what_is_local_is_told_by_the_scheme(url: str, local: bool):
    assert storage.is_local(url) == local


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host/a/b@c.jpg?sig=secret#part", "https://host/a/b@c.jpg"),
        ("http://host:80/a", "http://host:80/a"),
        ("s3://bucket/a?b#c@d", "s3://bucket/a?b#c@d"),
        ("a?b#c@d", "a?b#c@d"),
    ],
)
def test_of_a_web_address_what_may_be_secret_is_not_shown(url: str, shown: str):
    assert storage.redact_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@h/x.zip?sig=secret: holds 2 texts", "http://h/x.zip: holds 2 texts"),
        ("'https://h/x?sig=secret', row 3; see https://h:80/a.", "'https://h/x', row 3; see https://h:80/a."),
        ("s3://b/k?x: no such object", "s3://b/k?x: no such object"),
        ("http://me:it's@h/x?sig=it's: gone", "http://h/x: gone"),
        ("(http://[::1]:80/a?b), http://h/c?d", "(http://[::1]:80/a), http://h/c"),
        ("http://" + ":" * 100_000 + "x", "http://" + ":" * 100_000 + "x"),
    ],
    ids=range(6),
)
def test_nor_is_it_within_a_text(text: str, shown: str):
    assert storage.redact(text) == shown


def test_joining_takes_one_slash():
    assert storage.join("s3://b/room/", "a", "b.txt") == "s3://b/room/a/b.txt"


def test_an_absolute_url_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    for url in ("file:///a/b", "https://host/a/b"):
        assert storage.absolute(url) == url


def test_what_was_written_is_read(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/new/folder/x", b"\x00hello")
    assert storage.read_bytes(f"{tmp_path}/new/folder/x") == b"\x00hello"


def test_a_range_is_read(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/x", bytes(range(100)))
    assert storage.read_range(f"{tmp_path}/x", 10, 5) == bytes(range(10, 15))
    assert storage.read_range(f"{tmp_path}/x", 98, 5) == bytes([98, 99])


def test_a_block_that_raises_publishes_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), storage.write_whole(f"{tmp_path}/x") as staged:
        staged.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/x", b"old")
    with pytest.raises(RuntimeError), storage.write_whole(f"{tmp_path}/x") as staged:
        staged.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_bytes() == b"old"


def test_nothing_is_there_under_its_name_before_it_is_whole(tmp_path: Path):
    with storage.write_whole(f"{tmp_path}/x") as staged:
        staged.write_bytes(b"all")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_bytes() == b"all"


def test_a_folder_is_published_whole_too(tmp_path: Path):
    with storage.write_whole(f"{tmp_path}/last") as staged:
        staged.mkdir()
        (staged / "weights").write_bytes(b"w")
    assert (tmp_path / "last" / "weights").read_bytes() == b"w"


def test_what_a_killed_writer_left_counts_as_nothing(tmp_path: Path):
    (tmp_path / ".partial-abc").mkdir()
    assert storage.is_empty(str(tmp_path)) and storage.is_empty(f"{tmp_path}/none")
    (tmp_path / "x").touch()
    assert not storage.is_empty(str(tmp_path))


def test_removing_takes_files_folders_and_nothing(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/a/x", b"")
    storage.write_bytes(f"{tmp_path}/y", b"")
    for name in ("a", "y", "none"):
        storage.remove(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []


def test_files_are_listed_at_any_depth_by_name(tmp_path: Path):
    for name in ("b.txt", "a/z.txt", "a/b/c.txt"):
        storage.write_bytes(f"{tmp_path}/{name}", name.encode())
    found = storage.list_files(str(tmp_path))
    assert [(file.name, file.size) for file in found] == [("a/b/c.txt", 9), ("a/z.txt", 7), ("b.txt", 5)]


def test_a_dangling_link_is_listed(tmp_path: Path):
    (tmp_path / "x").symlink_to("nowhere")
    assert [file.name for file in storage.list_files(str(tmp_path))] == ["x"]


def test_the_etag_changes_with_the_content(tmp_path: Path):
    storage.write_bytes(f"{tmp_path}/x", b"one")
    os.utime(tmp_path / "x", ns=(1, 1))
    before = storage.list_files(str(tmp_path))
    assert storage.list_files(str(tmp_path)) == before
    storage.write_bytes(f"{tmp_path}/x", b"two")
    assert storage.list_files(str(tmp_path)) != before


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert storage.sha256(f"{tmp_path}/x") == expected


@pytest.mark.parametrize("name", ["none", "folder"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    for read in (storage.read_bytes, storage.sha256, lambda url: storage.read_range(url, 0, 1)):
        with pytest.raises(InputError, match=f"/{name}: "):
            read(f"{tmp_path}/{name}")


def test_a_missing_folder_is_not_an_empty_one(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        storage.list_files(f"{tmp_path}/none")


def test_tables_come_back(tmp_path: Path):
    table = pa.table({"key": ["a", "b"], "labels": [[1], []]})
    storage.write_parquet(f"{tmp_path}/x.parquet", table)
    assert storage.read_parquet(f"{tmp_path}/x.parquet").equals(table)
    assert storage.read_parquet(f"{tmp_path}/x.parquet", ["key"]).column_names == ["key"]


def test_no_thread_holds_a_table_that_was_read():
    """While Python ends, such a thread aborts the process; ``pq.read_table`` fails here nearly every time."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), sink)
    for _ in range(1000):
        data = bytes(bytearray(sink.getvalue()))  # bytes of its own each time
        storage.parse_parquet(data, "x.parquet")
        assert sys.getrefcount(data) == 2  # the name, and the argument


@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no more"])
def test_a_table_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.parquet: (not a readable Parquet file|cannot be read)"):
        storage.read_parquet(f"{tmp_path}/x.parquet")


@pytest.mark.parametrize("name", ["a%41.jpg", "x#1.jpg", "y?1.jpg", "z é.jpg", "plus+.jpg", "\udcff.jpg"])
def test_below_a_file_url_a_name_is_taken_as_it_is(tmp_path: Path, name: str):
    """Else one picture would be read in the place of another."""
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


def test_who_writes_to_a_named_pipe_is_not_disturbed(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["dd", "if=/dev/zero", f"of={pipe}", "count=1", "status=none"]) as writer:
        with pytest.raises(storage.UnreadableFile, match="pipe: not a regular file"):
            storage.open_stream(str(pipe))
        with pipe.open("rb") as reader:
            assert reader.read() == bytes(512)
    assert writer.returncode == 0


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_slash_behind_a_file_changes_nothing(tmp_path: Path, scheme: str):
    (tmp_path / "a.jpg").write_bytes(b"A")
    url = f"{scheme}{tmp_path}/a.jpg/"
    assert storage.is_file(url) and storage.read_bytes(url) == b"A" == storage.read_range(url, 0, 1)


def test_a_range_of_a_named_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(storage.UnreadableFile, match="pipe: cannot be read"):
        storage.read_range(str(tmp_path / "pipe"), 0, 1)


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


def test_links_that_lead_nowhere_or_round_are_files(tmp_path: Path):
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert [file.name for file in storage.list_files(str(tmp_path))] == ["gone", "round"]


@pytest.mark.parametrize("read", [storage.read_bytes, storage.sha256])
def test_a_disk_that_fails_makes_a_file_unreadable(read: Callable[[str], object]):
    """Of this file the first bytes cannot be read, as of a bad sector."""
    with pytest.raises(storage.UnreadableFile, match="/proc/self/mem: cannot be read"):
        read("/proc/self/mem")


@pytest.mark.parametrize("write", [storage.write_bytes, storage.create])
def test_a_disk_that_takes_no_more_is_told_of_by_the_place(
    tmp_path: Path, write: Callable[[str, bytes], object]
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"x: cannot be written \(File too large\); make room"):
            write(f"{tmp_path}/x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_is_created_stands_though_another_one_was_removed_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url, create = f"{tmp_path}/x", DiskLocation.create

    def after_another(place: DiskLocation, staged: Path) -> bool:
        monkeypatch.setattr(DiskLocation, "create", create)
        return False  # that one is gone again when it is to be read

    monkeypatch.setattr(DiskLocation, "create", after_another)
    assert storage.create(url, b"ours") == b"ours" == storage.read_bytes(url)


def test_at_a_link_that_leads_nowhere_nothing_is_created(tmp_path: Path):
    (tmp_path / "x").symlink_to(tmp_path / "nothing")
    with pytest.raises(storage.UnreadableFile, match="x: cannot be read"):
        storage.create(f"{tmp_path}/x", b"ours")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, RunError, r"x: cannot be written \(.*\); make room"),
        (errno.EROFS, InputError, "cannot be written to"),
    ],
)
def test_a_disk_without_room_for_a_folder_is_full_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], said: str
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk, "TemporaryDirectory", refuse)
    with pytest.raises(kind, match=said):
        storage.write_bytes(f"{tmp_path}/x", b"")


def test_without_hard_links_what_stands_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    url = f"{tmp_path}/x"
    assert [storage.create(url, data) for data in (b"first", b"second")] == [b"first", b"first"]


def test_of_a_linked_folder_the_content_is_removed_and_the_link_kept(tmp_path: Path):
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
