"""Samples that are read are cached on disk, up to a limit, and never used unchecked."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core import storage
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.errors import DamageError, InputError
from lglm_core.loading.cache import ShardCache, with_cache
from lglm_core.rooms import ReceiptRecord, ShardRecord

PICTURES = 12


@pytest.fixture
def dataset(tmp_path: Path, encode: Callable[..., bytes], write_dataset: Callable[..., Dataset]) -> Dataset:
    rng = np.random.default_rng(0)
    rows = [
        ("train", encode(Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))), ["a"], [])
        for _ in range(PICTURES)
    ]
    return write_dataset(tmp_path, ["a", "b"], rows)  # three shards of four


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that were read at their own location, one entry per read."""
    seen: list[str] = []
    read_range = storage.read_range

    def counted(url: str, offset: int, size: int) -> bytes:
        seen.append(url.rpartition("/")[2])
        return read_range(url, offset, size)

    monkeypatch.setattr(storage, "read_range", counted)
    return seen


def read_all(split: Split) -> list[bytes]:
    return [split.read_image(row) for row in range(len(split))]


def copy_of(name: str) -> str:
    """Return a name like that of the copy of another dataset's shard."""
    return f"{hashlib.sha256(name.encode()).hexdigest()}.tar"


def taken_up(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_every_picture_is_fetched_once(dataset: Dataset, tmp_path: Path, reads: list[str]):
    plain = read_all(dataset.split("train"))
    reads.clear()
    for _ in range(3):  # the later ones stand for other processes and later runs
        split = with_cache(dataset, str(tmp_path / "cache"), 10**9).split("train")
        assert read_all(split) == plain
    assert len(reads) == PICTURES
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_the_copies_take_up_at_most_the_given_bytes(dataset: Dataset, tmp_path: Path, reads: list[str]):
    sizes = [shard.bytes for shard in dataset.manifest.shards]
    bound = sizes[0] + sizes[1] + sizes[2] // 2
    split = with_cache(dataset, str(tmp_path / "cache"), bound).split("train")
    assert read_all(split) == read_all(split)
    assert taken_up(tmp_path / "cache") <= bound + 2 * 4096
    assert sorted(reads)[-8:] == ["train-000002.tar"] * 8  # the shard that is not cached, read twice
    assert len(reads) == PICTURES + 4


def test_copies_of_other_shards_are_removed_the_oldest_first(dataset: Dataset, tmp_path: Path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for age, name in enumerate(("newest", "newer", "old")):
        path = folder / copy_of(name)
        path.write_bytes(os.urandom(1 << 20))
        os.utime(path, (10**9 - age, 10**9 - age))
    own = sum(shard.bytes for shard in dataset.manifest.shards)
    with_cache(dataset, str(folder), own + (5 << 19))
    assert {path.name for path in folder.iterdir()} == {copy_of("newest"), copy_of("newer")}


def test_a_file_that_is_no_copy_is_never_removed(dataset: Dataset, tmp_path: Path):
    names = ("my_backup.tar", "notes.txt", f"{'A' * 64}.tar", f"{'a' * 63}.tar")
    for name in names:
        (tmp_path / name).write_bytes(bytes(10_000))
    with_cache(dataset, str(tmp_path), 1)
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("digest", ["../escaped", "/tmp/escaped", "a" * 63, ""])
def test_a_manifest_cannot_name_a_path_outside_the_folder(tmp_path: Path, digest: str):
    receipt = ReceiptRecord(bytes=10, sha256="0" * 64, name="receipts/train-000000.json")
    shard = ShardRecord(10, digest, "train-000000", "train", 1, receipt)
    assert ShardCache.create([shard], str(tmp_path), 100).copies == {}


@pytest.mark.parametrize(
    "folder", ["s3://bucket/cache", "http://host/cache", "{dataset}", "{dataset}/shards/train"]
)
def test_a_cache_is_on_this_disk_and_outside_the_dataset(dataset: Dataset, folder: str):
    with pytest.raises(InputError, match="shards cannot be cached here"):
        with_cache(dataset, folder.format(dataset=dataset.url), 10**9)


def test_a_cache_may_be_named_by_a_file_url(dataset: Dataset, tmp_path: Path):
    read_all(with_cache(dataset, (tmp_path / "a cache").as_uri(), 10**9).split("train"))
    assert len(list((tmp_path / "a cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "hole"])
def test_a_damaged_copy_is_fetched_again(dataset: Dataset, tmp_path: Path, reads: list[str], damage: str):
    split = with_cache(dataset, str(tmp_path / "cache"), 10**9).split("train")
    plain = read_all(split)
    for copy in (tmp_path / "cache").iterdir():
        data = bytearray(copy.read_bytes())
        if damage == "flip":
            data[700] ^= 1
        copy.write_bytes({"flip": data, "cut": data[:900], "empty": b"", "hole": bytes(len(data))}[damage])
    reads.clear()
    assert read_all(split) == plain == read_all(split)
    assert len(reads) == (3 if damage == "flip" else PICTURES)


def test_a_damaged_shard_is_not_cached(dataset: Dataset, tmp_path: Path):
    split = with_cache(dataset, str(tmp_path / "cache"), 10**9).split("train")
    path = Path(dataset.url, "shards/train/train-000001.tar")
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(DamageError, match=r"train-000001\.tar, sample s4"):
            split.read_image(4)


def test_reading_continues_if_the_disk_cannot_be_written(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cached = with_cache(dataset, str(tmp_path / "cache"), 10**9)
    split = cached.split("train")
    assert split.cache
    gone = dict.fromkeys(split.cache.copies, tmp_path / "gone" / "x.tar")
    broken = replace(split, cache=replace(split.cache, copies=gone))
    for _ in range(2):
        assert read_all(broken) == read_all(dataset.split("train"))
    (record,) = caplog.records  # not one per picture and epoch
    assert "cannot be written (No such file or directory)" in record.message


def test_reading_continues_if_copies_cannot_be_removed(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    for name in ("old", "older"):
        (tmp_path / copy_of(name)).write_bytes(os.urandom(1 << 16))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with_cache(dataset, str(tmp_path), 0)
    (record,) = caplog.records
    assert "cannot be removed (Read-only file system)" in record.message


def test_a_copy_that_another_process_removes_at_the_same_time_is_skipped(dataset: Dataset, tmp_path: Path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / copy_of("gone")).symlink_to("nowhere")  # listed, but stat fails
    split = with_cache(dataset, str(folder), 10**9).split("train")
    assert read_all(split) == read_all(dataset.split("train"))


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_place_of_the_folder_is_refused(dataset: Dataset, tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{name}: the folder for cached shards cannot be created \("):
        with_cache(dataset, str(tmp_path / name), 10**9)


def test_two_datasets_at_once_may_fill_the_limit_each_and_the_next_makes_room(
    dataset: Dataset, tmp_path: Path, encode: Callable[..., bytes], write_dataset: Callable[..., Dataset]
):
    picture = encode(Image.fromarray(np.zeros((40, 50, 3), np.uint8)))
    (tmp_path / "other").mkdir()
    other = write_dataset(tmp_path / "other", ["a", "b"], [("train", picture, ["a"], [])])
    folder = tmp_path / "cache"
    ours = sum(shard.bytes for shard in dataset.manifest.shards)
    splits = [with_cache(one, str(folder), ours).split("train") for one in (dataset, other)]
    for split in splits:
        read_all(split)
    assert taken_up(folder) > ours
    with_cache(dataset, str(folder), ours)
    assert len(list(folder.iterdir())) == len(dataset.manifest.shards)
