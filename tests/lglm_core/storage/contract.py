"""What every location keeps: tests that a test class per medium inherits.

Which classes a medium inherits tells what it offers:

- :class:`LocationContract`: its files are read. Every medium keeps this.
- :class:`ListingContract`: its folders are listed, too.
- :class:`WritableContract`: it is also written to.
- :class:`CreatingContract`: of several writers that create one file, one wins.
- :class:`ReadOnlyContract`: it refuses to be written to.
"""

import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import ClassVar

import pyarrow as pa
import pytest

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage.location import UnreadableFile

MB = 1 << 20
BODY = random.Random(0).randbytes(300_000)
LARGE = random.Random(1).randbytes(MB + MB // 2)  # more than is read at a time
TABLE = pa.table({"key": ["a", "b"], "labels": [[1], []]})
ODD_NAMES = (
    *("x", "a b", "a?b", "a#b", "a%b", "a%20b", "a+b", "a&b=c", "ü", "ü 50%25.jpg", "e\u0301", "😀", "a..b"),
    *("#", "'\"<>*:\\", " y ", "x" * 200),
)
FILES: Mapping[str, bytes] = {
    "abc": b"abc",
    "body": BODY,
    "deep/er/text": b"ab" * 40_000,
    "deep/x": b"1",
    "empty": b"",
    "large": LARGE,
    "no.parquet": b"PAR1 but no more",
    "table.parquet": storage.to_parquet(TABLE),
    **{f"odd/{name}": name.encode() for name in ODD_NAMES},
}


def refusal(action: Callable[..., object], *arguments: object, kind: type[Exception] = InputError) -> str:
    """Return the message of the error, whose type is exactly *kind*: one line without a secret of S3."""
    with pytest.raises(kind) as refused:
        action(*arguments)
    assert type(refused.value) is kind
    message = str(refused.value)
    assert "\n" not in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert name not in os.environ or os.environ[name] not in message
    return message


def names(folder: str) -> list[str]:
    return [file.name for file in storage.list_files(folder)]


class LocationContract:
    """Files are read, and a missing one is one unreadable file."""

    missing: ClassVar[str]
    """What the message about a missing file says after the address."""
    on_disk: ClassVar[bool] = False
    """A local copy of a file is the file itself."""

    @pytest.fixture
    def stored(self) -> str:
        """The address of a folder that holds :data:`FILES`, which no test changes."""
        raise NotImplementedError

    def address(self, folder: str, name: str) -> str:
        return storage.join(folder, name)

    def test_a_file_exists_and_a_missing_one_does_not(self, stored: str):
        assert storage.is_file(self.address(stored, "deep/x"))
        assert storage.is_file(self.address(stored, "empty"))
        assert not storage.is_file(self.address(stored, "none"))
        assert not storage.is_file(self.address(stored, "deep/none"))

    def test_a_file_is_read_whole_whatever_its_name(self, stored: str):
        for name, data in FILES.items():
            url = self.address(stored, name)
            assert storage.is_file(url), name
            assert storage.read_bytes(url) == data, name
        assert storage.read_if_exists(self.address(stored, "deep/x")) == b"1"

    def test_a_range_ends_where_the_file_does(self, stored: str):
        size = len(BODY)
        for offset, length in (
            *((0, 5), (10, 5), (4990, 50), (0, size), (0, 10**6), (12_345, 250_000)),
            *((size - 2, 5), (size - 1, 1), (size, 5), (10**6, 5), (7, 0)),
        ):
            found = storage.read_range(self.address(stored, "body"), offset, length)
            assert found == BODY[offset : offset + length], (offset, length)
        text = FILES["deep/er/text"]
        assert storage.read_range(self.address(stored, "deep/er/text"), 1001, 50) == text[1001:1051]
        for offset in (0, 3):
            assert storage.read_range(self.address(stored, "empty"), offset, 5) == b""

    def test_a_stream_is_read_piece_by_piece(self, stored: str):
        with storage.open_stream(self.address(stored, "large")) as stream:
            pieces = [stream.read(1), stream.read(MB), stream.read(), stream.read(5)]
        assert pieces == [LARGE[:1], LARGE[1 : MB + 1], LARGE[MB + 1 :], b""]

    def test_name_size_and_etag_are_told_without_reading(self, stored: str):
        location = storage.locate(self.address(stored, "deep/er/text"))
        found = location.stat()
        assert (found.name, found.size) == ("text", 80_000)
        assert found.etag and found == location.stat()
        assert storage.locate(self.address(stored, "empty")).stat().size == 0

    def test_sizes_are_told_in_order_and_0_of_a_missing_file(self, stored: str):
        wanted = ["large", "none", "abc", "body", "empty"]
        urls = [self.address(stored, name) for name in wanted]
        assert list(storage.sizes(urls)) == [len(FILES.get(name, b"")) for name in wanted]

    def test_the_digest_of_a_file_is_the_digest_of_its_bytes(self, stored: str):
        expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
        assert storage.sha256(self.address(stored, "abc")) == expected
        assert storage.sha256(self.address(stored, "large")) == sha256(LARGE).hexdigest()

    def test_a_local_copy_lives_as_long_as_its_block(self, stored: str):
        with storage.local_copy(self.address(stored, "large")) as path:
            assert path.read_bytes() == LARGE
        assert path.exists() == self.on_disk
        assert path.parent.exists() == self.on_disk

    def test_many_threads_read_at_once(self, stored: str):
        wanted = ["body", "deep/x", "deep/er/text", "empty", "abc"] * 4
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(storage.read_bytes, [self.address(stored, name) for name in wanted])
            assert list(found) == [FILES[name] for name in wanted]

    def test_a_missing_file_is_one_unreadable_file(self, stored: str):
        for name in ("none", "deep/none"):
            url = self.address(stored, name)
            for read in (
                storage.read_bytes,
                storage.sha256,
                storage.open_stream,
                storage.read_parquet,
                lambda url: storage.read_range(url, 3, 4),
                lambda url: storage.locate(url).stat(),
                *(() if self.on_disk else (lambda url: storage.local_copy(url).__enter__(),)),
            ):
                with pytest.raises(UnreadableFile) as refused:
                    read(url)
                assert type(refused.value) is UnreadableFile
                assert str(refused.value) == f"{url}: {self.missing}"
                assert refused.value.missing and refused.value.status == "missing"
            assert storage.read_if_exists(url) is None

    def test_a_table_is_read_as_a_whole_or_by_column(self, stored: str):
        url = self.address(stored, "table.parquet")
        assert storage.read_parquet(url).equals(TABLE)
        assert storage.read_parquet(url, ["key"]).column_names == ["key"]
        assert storage.read_parquet_footer(url, len(FILES["table.parquet"])).num_rows == 2

    def test_a_file_that_is_no_table_is_refused_by_name(self, stored: str):
        for name in ("no.parquet", "empty"):
            url = self.address(stored, name)
            message = refusal(storage.read_parquet, url)
            assert message.startswith(f"{url}: not a readable Parquet file (")

    def test_a_file_lies_within_its_folders_and_in_no_other(self, stored: str):
        folder, file = self.address(stored, "deep"), self.address(stored, "deep/er/text")
        for inner, outer in (
            *((file, stored), (file, folder), (folder, stored), (file, f"{folder}/")),
            *((stored, stored), (file, file), (folder, f"{folder}/"), (f"{folder}/", folder)),
        ):
            assert storage.lies_within(inner, outer), (inner, outer)
        for inner, outer in (
            *((folder, file), (stored, folder), (f"{folder}er/x", folder), (f"{stored}-2/x", stored)),
            *((file, "deep"), (file, "s3://other/deep"), (file, "http://other/deep"), ("deep/x", stored)),
            *(("s3://other/deep/x", stored), ("http://other/deep/x", stored)),
        ):
            assert not storage.lies_within(inner, outer), (inner, outer)


class ListingContract(LocationContract):
    """Folders are listed, at any depth."""

    def test_files_are_listed_at_any_depth_by_name_with_their_sizes(self, stored: str):
        found = storage.list_files(stored)
        assert {file.name: file.size for file in found} == {name: len(data) for name, data in FILES.items()}
        assert [file.name for file in found] == sorted(FILES)
        assert storage.list_files(f"{stored}/") == found
        assert names(f"{stored}/deep") == names(f"{stored}/deep/") == ["er/text", "x"]
        assert names(f"{stored}/odd") == sorted(ODD_NAMES)

    def test_a_listing_tells_what_each_file_tells_itself(self, stored: str):
        for file in storage.list_files(f"{stored}/deep"):
            alone = storage.locate(f"{stored}/deep/{file.name}").stat()
            assert (alone.size, alone.etag) == (file.size, file.etag)

    def test_a_file_is_no_folder_and_a_folder_no_file(self, stored: str):
        for folder in ("", "/", "/deep", "/deep/", "/deep/er"):
            assert storage.is_folder(f"{stored}{folder}"), folder
        for other in ("/de", "/deep/x", "/abc", "/none"):
            assert not storage.is_folder(f"{stored}{other}"), other
        for folder in ("/deep", "/deep/er", "/none"):
            assert not storage.is_file(f"{stored}{folder}"), folder

    def test_a_missing_folder_is_not_an_empty_one(self, stored: str):
        for name in ("none", "de"):
            message = refusal(storage.list_files, f"{stored}/{name}")
            assert message.startswith(f"{stored}/{name}") and ": no such folder" in message


class WritableContract(ListingContract):
    """Files are written, each as a whole, and removed."""

    @pytest.fixture
    def out(self) -> str:
        """The address of a folder of the test's own, in which nothing is stored yet."""
        raise NotImplementedError

    def test_a_written_file_is_read_listed_and_removed_whatever_its_name(self, out: str):
        written = sorted([*ODD_NAMES, "deep/er/x"])
        for name in written:
            storage.write_bytes(storage.join(out, name), name.encode())
        assert names(out) == written
        for number, name in enumerate(written):
            url = storage.join(out, name)
            assert storage.is_file(url)
            assert storage.read_bytes(url) == name.encode()
            storage.remove(url)
            assert not storage.is_file(url)
            if left := written[number + 1 :]:
                assert names(out) == left
        assert storage.read_if_exists(storage.join(out, "x")) is None

    def test_writing_again_replaces_a_file_and_changes_its_etag(self, out: str):
        for name in ("x", "y"):
            storage.write_bytes(f"{out}/{name}", b"old and long")
        assert storage.read_bytes(f"{out}/x") == b"old and long"
        before = storage.list_files(out)
        assert storage.list_files(out) == before
        storage.write_bytes(f"{out}/x", b"new")
        assert storage.read_bytes(f"{out}/x") == b"new"
        after = storage.list_files(out)
        assert [file.name for file in after] == ["x", "y"]
        assert before[0].etag != after[0].etag and before[1] == after[1]

    def test_a_large_file_and_an_empty_one_come_back(self, out: str):
        for name, data in (("new/folder/large", LARGE), ("empty", b"")):
            storage.write_bytes(f"{out}/{name}", data)
            assert storage.read_bytes(f"{out}/{name}") == data

    def test_a_block_that_raises_publishes_nothing_and_leaves_what_was_there(self, out: str):
        storage.write_bytes(f"{out}/old", b"old")
        for name in ("old", "new"):
            with pytest.raises(RuntimeError), storage.write_whole(f"{out}/{name}") as staged:
                staged.write_bytes(b"half")
                raise RuntimeError
        assert names(out) == ["old"]
        assert storage.read_bytes(f"{out}/old") == b"old"
        assert not staged.parent.exists()

    def test_nothing_exists_under_its_name_before_it_is_whole(self, out: str):
        with storage.write_whole(f"{out}/x") as staged:
            staged.write_bytes(b"all")
            assert not storage.is_file(f"{out}/x")
        assert storage.read_bytes(f"{out}/x") == b"all"
        assert not staged.parent.exists()

    def test_a_folder_is_empty_until_a_file_is_in_it(self, out: str):
        assert storage.is_empty(out) and storage.is_empty(f"{out}/none")
        storage.write_bytes(f"{out}/x", b"")
        assert not storage.is_empty(out)

    def test_removing_takes_files_folders_and_nothing(self, out: str):
        for name in ("keep", "x", "room/y", "room/deep/z", "room-2/x", "room.json"):
            storage.write_bytes(f"{out}/{name}", b"")
        for name in ("x", "room", "none"):
            storage.remove(f"{out}/{name}")
        assert names(out) == ["keep", "room-2/x", "room.json"]

    def test_a_folder_whose_name_begins_alike_is_another(self, out: str):
        storage.write_bytes(f"{out}/room-2/x", b"")
        storage.write_bytes(f"{out}/room.json", b"")
        assert storage.is_empty(f"{out}/room") and not storage.is_folder(f"{out}/room")
        storage.write_bytes(f"{out}/room/y", b"")
        assert names(f"{out}/room") == ["y"]

    def test_a_created_file_comes_back(self, out: str):
        assert storage.create(f"{out}/x", b"first") == b"first"
        assert storage.read_bytes(f"{out}/x") == b"first"

    def test_a_table_that_was_written_comes_back(self, out: str):
        storage.write_parquet(f"{out}/x.parquet", TABLE)
        assert storage.read_parquet(f"{out}/x.parquet").equals(TABLE)

    def test_removing_what_is_unfinished_leaves_the_files(self, out: str):
        storage.write_bytes(f"{out}/deep/x", b"1")
        storage.remove_unfinished(out)
        assert names(out) == ["deep/x"]


class CreatingContract(WritableContract):
    """A file that exists is never replaced by one that is created, not even by writers at the same moment."""

    def test_creating_returns_an_existing_file_and_does_not_replace_it(self, out: str):
        assert storage.create(f"{out}/x", b"first") == b"first"
        assert storage.create(f"{out}/x", b"second") == b"first"
        assert storage.read_bytes(f"{out}/x") == b"first"

    def test_one_of_many_writers_at_once_wins_and_all_are_told(self, out: str):
        for attempt in range(3):
            told = create_at_once(f"{out}/{attempt}")
            assert told == {storage.read_bytes(f"{out}/{attempt}")}


def create_at_once(url: str, writers: int = 6) -> set[bytes]:
    """Let several writers create one file together, and return what they were told is there."""
    together = threading.Barrier(writers)

    def create(number: int) -> bytes:
        together.wait()
        return storage.create(url, b"%d" % number)

    with ThreadPoolExecutor(writers) as pool:
        return set(pool.map(create, range(writers)))


class ReadOnlyContract(LocationContract):
    """Writing is refused, and changes nothing."""

    @pytest.fixture
    def state(self, stored: str) -> Callable[[], object]:
        """What writing might change."""
        return lambda: storage.read_bytes(self.address(stored, "body"))

    def test_writing_is_refused(self, stored: str, state: Callable[[], object]):
        before = state()
        for url in (self.address(stored, "out"), self.address(stored, "abc")):
            for write in (
                lambda url: storage.write_bytes(url, b""),
                lambda url: storage.create(url, b""),
                lambda url: storage.write_parquet(url, TABLE),
                storage.remove,
                storage.remove_unfinished,
                storage.is_empty,
            ):
                assert refusal(write, url) == (
                    f"{url}: archives and web servers are only read; name a folder on a disk or in a bucket"
                )
        assert state() == before
