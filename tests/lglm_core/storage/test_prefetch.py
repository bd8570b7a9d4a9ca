"""Files come whole and in order, wherever each of them lies."""

import os
import threading
import zipfile
from pathlib import Path

import pytest

from lglm_core.storage.files import READERS
from lglm_core.storage.location import UnreadableFile
from lglm_core.storage.prefetch import read_ahead

FILES = 5 * READERS


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    """Files on disk and in an archive in turn; file number n has n bytes."""
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for number in range(0, FILES, 2):
            archive.writestr(str(number), bytes(number))
    for number in range(1, FILES, 2):
        (tmp_path / str(number)).write_bytes(bytes(number))
    return [str(tmp_path / ("" if number % 2 else "packed.zip") / str(number)) for number in range(FILES)]


def test_files_come_in_order_from_disk_and_archive(urls: list[str]):
    assert list(read_ahead(urls)) == [bytes(number) for number in range(FILES)]


def test_an_unreadable_file_is_replaced_by_its_error(urls: list[str], tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    missing = [str(tmp_path / name) for name in ("missing", "packed.zip/missing")]
    odd = [str(tmp_path / name) for name in ("pipe", "folder")]
    first, *found, last = read_ahead([urls[3], *missing, *odd, urls[4]])
    assert (first, last) == (bytes(3), bytes(4))
    assert all(isinstance(reason, UnreadableFile) for reason in found)
    assert [str(reason).partition(": ")[0] for reason in found] == missing + odd
    assert [reason.missing for reason in found] == [True, True, False, False]


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "\ud800", "http://[oops/x.jpg", "ftp://host/x", "//[x"])
def test_an_invalid_name_is_one_unreadable_file(urls: list[str], tmp_path: Path, name: str):
    url = name if "//" in name else f"{tmp_path}/{name}"
    first, reason, last = read_ahead([urls[3], url, urls[4]])
    assert (first, last) == (bytes(3), bytes(4))
    assert isinstance(reason, UnreadableFile) and str(reason)


def test_a_failing_disk_makes_a_file_unreadable():
    """The first bytes of this file cannot be read, like a bad sector."""
    (reason,) = read_ahead(["/proc/self/mem"])
    assert isinstance(reason, UnreadableFile) and "cannot be read" in str(reason)


def test_stopping_early_leaves_no_thread(urls: list[str]):
    before = {*threading.enumerate()}
    reading = read_ahead(urls)
    next(reading)
    reading.close()
    started = {*threading.enumerate()} - before
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


def test_a_file_larger_than_the_limit_is_not_read_whole(urls: list[str]):
    found = list(read_ahead(urls[:8], max_bytes=5))
    assert found[:6] == [bytes(number) for number in range(6)]
    assert all(isinstance(reason, UnreadableFile) and reason.too_large for reason in found[6:])
    assert [str(reason) for reason in found[6:]] == [f"{url}: more than 5 bytes" for url in urls[6:8]]
