import gc
import io
import itertools
import pickle
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage import files
from lglm_core.storage.arrow_filesystem import storage_filesystem

numbers = itertools.count()


@dataclass(frozen=True)
class Rooted:
    """A filesystem, and a folder of the test's own in it."""

    root: str
    base: str

    @property
    def filesystem(self) -> fs.FileSystem:
        return storage_filesystem(self.root)

    def path(self, name: str) -> str:
        """Return the path that the filesystem has for a file."""
        return f"{self.base}/{name}"

    def url(self, name: str) -> str:
        """Return the URL that storage has for a file."""
        return f"{self.root}{self.base}/{name}"

    def put(self, **contents: bytes) -> None:
        """Write files without the filesystem; ``__`` is a slash in their names."""
        for name, content in contents.items():
            storage.write_bytes(self.url(name.replace("__", "/")), content)

    @property
    def files(self) -> dict[str, bytes]:
        """All files in the folder, read without the filesystem."""
        folder = self.url("").rstrip("/")
        found = storage.list_files(folder) if storage.is_folder(folder) else []
        return {file.name: storage.read_bytes(self.url(file.name)) for file in found}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["disk", "bucket", "s3://"])
def rooted(
    request: pytest.FixtureRequest, tmp_path: Path, scratch: Path, connect_to: Callable[..., None]
) -> Rooted:
    """On a disk, in one bucket, and over all buckets, as Ray Train gets it."""
    if request.param == "disk":
        return Rooted(f"{tmp_path}/", "disk")
    connect_to(request.getfixturevalue("moto"))
    folder = f"arrow-{next(numbers)}"
    if request.param == "bucket":
        return Rooted("s3://bucket/", folder)
    return Rooted("s3://", f"bucket/{folder}")


def kinds(found: list[fs.FileInfo]) -> dict[str, fs.FileType]:
    return {info.path: info.type for info in found}


# --- Listing ---


def test_it_knows_files_and_folders_and_what_is_neither(rooted: Rooted):
    rooted.put(folder__x=b"word", folderx=b"")
    paths = [rooted.path(name) for name in ("folder", "folder/x", "fold", "folder/x/y")]
    types = (fs.FileType.Directory, fs.FileType.File, fs.FileType.NotFound, fs.FileType.NotFound)
    assert kinds(rooted.filesystem.get_file_info(paths)) == dict(zip(paths, types, strict=True))


def test_a_folder_is_listed_with_the_folders_in_it(rooted: Rooted):
    rooted.put(a__deep__x=b"123", a__y=b"", z=b"1")
    for base in (rooted.base, f"{rooted.base}/"):
        found = rooted.filesystem.get_file_info(fs.FileSelector(base, recursive=True))
        assert {info.path.removeprefix(rooted.path("")): (info.type, info.size) for info in found} == {
            "a": (fs.FileType.Directory, None),
            "a/deep": (fs.FileType.Directory, None),
            "a/deep/x": (fs.FileType.File, 3),
            "a/y": (fs.FileType.File, 0),
            "z": (fs.FileType.File, 1),
        }


def test_a_listing_without_depth_stops_at_the_folders(rooted: Rooted):
    rooted.put(a__deep__x=b"123", a__y=b"", z=b"1")
    found = rooted.filesystem.get_file_info(fs.FileSelector(rooted.base))
    assert kinds(found) == {rooted.path("a"): fs.FileType.Directory, rooted.path("z"): fs.FileType.File}


def test_a_missing_folder_is_refused_unless_it_may_be_missing(rooted: Rooted):
    rooted.put(x=b"")
    for missing in (rooted.path("none"), rooted.path("x")):
        with pytest.raises(FileNotFoundError, match=missing):
            rooted.filesystem.get_file_info(fs.FileSelector(missing))
        assert rooted.filesystem.get_file_info(fs.FileSelector(missing, allow_not_found=True)) == []


# --- Writing ---


def test_a_written_file_appears_when_it_is_closed_and_not_before(rooted: Rooted, scratch: Path):
    rooted.put(x=b"old")
    stream = rooted.filesystem.open_output_stream(rooted.path("x"))
    stream.write(b"new and ")
    stream.write(b"longer")
    stream.flush()
    assert rooted.files == {"x": b"old"}
    stream.close()
    assert rooted.files == {"x": b"new and longer"}
    stream.close()
    assert list(scratch.iterdir()) == []


def test_a_file_that_cannot_be_published_is_not_kept(tmp_path: Path, scratch: Path):
    (tmp_path / "file").touch()
    stream = storage_filesystem("").open_output_stream(f"{tmp_path}/file/below")
    stream.write(b"x")
    with pytest.raises(InputError):
        stream.close()
    assert list(scratch.iterdir()) == []


def test_a_stream_that_is_dropped_is_not_published(rooted: Rooted, scratch: Path):
    stream = rooted.filesystem.open_output_stream(rooted.path("x"))
    stream.write(b"half")
    del stream
    gc.collect()
    assert rooted.files == {}
    assert list(scratch.iterdir()) == []


def test_a_folder_needs_no_making(rooted: Rooted):
    rooted.filesystem.create_dir(rooted.path("a/b"), recursive=True)
    with rooted.filesystem.open_output_stream(rooted.path("a/b/x")) as stream:
        stream.write(b"word")
    assert rooted.files == {"a/b/x": b"word"}


def test_a_file_does_not_grow(rooted: Rooted):
    rooted.put(x=b"word")
    with pytest.raises(NotImplementedError):
        rooted.filesystem.open_append_stream(rooted.path("x"))
    assert rooted.files == {"x": b"word"}


# --- Reading ---


def test_a_file_is_read_as_a_stream_and_from_anywhere(rooted: Rooted):
    body = random.Random(0).randbytes(3 << 20)
    rooted.put(x=body)
    with rooted.filesystem.open_input_stream(rooted.path("x")) as stream:
        assert stream.read(10) + stream.read() == body
    with rooted.filesystem.open_input_file(rooted.path("x")) as file:
        assert file.size() == len(body)
        assert file.read_at(100, 1 << 20) == body[1 << 20 :][:100]


def test_a_file_that_is_missing_is_refused_by_its_address(rooted: Rooted):
    for read in (rooted.filesystem.open_input_stream, rooted.filesystem.open_input_file):
        with pytest.raises(storage.UnreadableFile, match=f"^{rooted.url('none')}: "):
            read(rooted.path("none"))


# --- Copying ---


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A local folder like those that Ray Train uploads, and its contents by name."""
    body = random.Random(0).randbytes(9 << 20)
    contents = {"checkpoint.pt": body, "deep/er/shard": body[:12345], "empty": b""}
    for name, content in contents.items():
        path = tmp_path / "checkpoint" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "checkpoint", contents


def test_a_folder_is_copied_to_it_and_back(
    rooted: Rooted, checkpoint: tuple[Path, dict[str, bytes]], tmp_path: Path
):
    folder, contents = checkpoint
    ours, local = rooted.filesystem, fs.LocalFileSystem()
    fs.copy_files(
        str(folder),
        rooted.path("up"),
        source_filesystem=local,
        destination_filesystem=ours,
        chunk_size=10_000,
    )
    assert rooted.files == {f"up/{name}": content for name, content in contents.items()}
    fs.copy_files(
        rooted.path("up"), str(tmp_path / "back"), source_filesystem=ours, destination_filesystem=local
    )
    back = {path for path in (tmp_path / "back").rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "back").as_posix(): path.read_bytes() for path in back} == contents


def test_a_folder_is_copied_within_it(rooted: Rooted):
    rooted.put(a__x=b"1", a__deep__y=b"22")
    ours = rooted.filesystem
    fs.copy_files(rooted.path("a"), rooted.path("b"), source_filesystem=ours, destination_filesystem=ours)
    assert rooted.files == {"a/deep/y": b"22", "a/x": b"1", "b/deep/y": b"22", "b/x": b"1"}


class BreaksOff(io.RawIOBase):
    """A stream that gives some bytes, then fails."""

    given = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.given:
            raise OSError("broken off")
        self.given = True
        buffer[:4] = b"half"
        return 4


def test_a_copy_that_fails_half_way_publishes_nothing(
    rooted: Rooted, scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    rooted.put(x=b"half and half")
    ours = rooted.filesystem
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_stream", lambda url: BreaksOff())
        with pytest.raises(storage.UnreadableFile, match="broken off"):
            fs.copy_files(
                rooted.path("x"), rooted.path("y"), source_filesystem=ours, destination_filesystem=ours
            )
    gc.collect()
    assert rooted.files == {"x": b"half and half"}
    assert list(scratch.iterdir()) == []


def test_a_file_is_copied_and_moved(rooted: Rooted):
    rooted.put(x=b"word")
    rooted.filesystem.copy_file(rooted.path("x"), rooted.path("y"))
    assert rooted.files == {"x": b"word", "y": b"word"}
    rooted.filesystem.move(rooted.path("x"), rooted.path("deep/z"))
    assert rooted.files == {"deep/z": b"word", "y": b"word"}


def test_tables_are_written_and_read_through_it(rooted: Rooted):
    table = pa.table({"key": [f"k{number}" for number in range(1000)], "score": [0.5] * 1000})
    pq.write_table(table, rooted.path("room/part.parquet"), filesystem=rooted.filesystem)
    assert storage.read_parquet(rooted.url("room/part.parquet")).equals(table)
    for path in (rooted.path("room/part.parquet"), rooted.path("room")):
        found = pq.read_table(path, columns=["key"], filesystem=rooted.filesystem)
        assert found.column("key").to_pylist() == table.column("key").to_pylist()


# --- Deleting ---


def test_a_folder_is_deleted_and_no_other(rooted: Rooted):
    rooted.put(a__x=b"", a__deep__y=b"", ab__z=b"", b=b"")
    rooted.filesystem.delete_dir(rooted.path("a"))
    assert sorted(rooted.files) == ["ab/z", "b"]
    rooted.filesystem.delete_dir_contents(rooted.path("ab"))
    rooted.filesystem.delete_file(rooted.path("b"))
    assert rooted.files == {}


def test_the_root_is_not_deleted(rooted: Rooted):
    rooted.put(x=b"")
    with pytest.raises(NotImplementedError):
        rooted.filesystem.delete_dir_contents("/", accept_root_dir=True)
    assert list(rooted.files) == ["x"]


# --- Travelling ---


def test_it_is_the_same_in_another_process(rooted: Rooted):
    rooted.put(x=b"word")
    travelled = pickle.loads(pickle.dumps(rooted.filesystem))
    assert travelled == rooted.filesystem
    with travelled.open_input_stream(rooted.path("x")) as stream:
        assert stream.read() == b"word"


def test_two_are_equal_if_their_roots_are():
    ours = storage_filesystem("s3://bucket/")
    assert ours == storage_filesystem("s3://bucket/")
    assert hash(ours.handler) == hash(storage_filesystem("s3://bucket/").handler)
    assert ours != storage_filesystem("s3://bucket-2/")
    assert ours != fs.LocalFileSystem()
    assert ours.type_name == "py::lglm-storage"
