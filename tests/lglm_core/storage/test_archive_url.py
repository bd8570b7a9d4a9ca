"""URLs that lead into archives, taken apart."""

import pytest

from lglm_core import storage
from lglm_core.storage.archive_url import ArchiveUrl, is_zip, splits


@pytest.mark.parametrize(
    ("url", "archive", "member"),
    [
        ("photos.zip/cats/1.jpg", "photos.zip", "cats/1.jpg"),
        ("/a/PHOTOS.Tar/x", "/a/PHOTOS.Tar", "x"),
        ("a.zip/", "a.zip", ""),
        ("a.zip//x", "a.zip", "/x"),
        ("a.zip/../x", "a.zip", "../x"),
        ("s3://bucket.zip/a.zip/b?c#d%20e", "s3://bucket.zip/a.zip", "b?c#d%20e"),
        ("http://host.zip/a.tar/b%20c?d", "http://host.zip/a.tar", "b%20c?d"),
        ("file:///a%20b.zip/c%20d.jpg", "file:///a%20b.zip", "c d.jpg"),
    ],
)
def test_the_archive_and_the_name_in_it_are_told_apart(url: str, archive: str, member: str):
    assert list(splits(url)) == [ArchiveUrl(archive, member, compressed_tar=False)]


@pytest.mark.parametrize(
    "url",
    [
        *("a.zip", "s3://bucket/a.tar", "a.zipped/x", "azip/x", ".zip/x", "a/.tar/x", "a.tar.lz/x", "a.7z/x"),
        *("s3://bucket.zip/x", "http://host.zip/x", "http://host.zip", "http://host/get?file=a.zip/b.jpg"),
    ],
)
def test_a_url_that_leads_into_no_archive_is_not_taken_apart(url: str):
    assert list(splits(url)) == []


def test_an_archive_may_lie_in_a_folder_or_an_archive_named_like_one():
    found = [(split.archive, split.member) for split in splits("a.zip/b.tar/c.ZIP/d")]
    assert found == [("a.zip", "b.tar/c.ZIP/d"), ("a.zip/b.tar", "c.ZIP/d"), ("a.zip/b.tar/c.ZIP", "d")]


@pytest.mark.parametrize(
    "suffix", ["tgz", "tbz", "tbz2", "TXZ", "tzst", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"]
)
def test_a_tar_that_is_compressed_as_a_whole_is_told(suffix: str):
    assert list(splits(f"a.{suffix}/x")) == [ArchiveUrl(f"a.{suffix}", "x", compressed_tar=True)]


def test_a_zip_is_told_by_its_name():
    assert is_zip("a.zip") and is_zip("s3://b/A.ZIP") and not is_zip("a.tar")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/a%20b.jpg?c#d", True),
        ("HTTPS://host/a.zip", True),
        ("http://host.zip/a%20b.jpg", True),
        ("http://host/get?file=a.zip/b", True),
        ("http://host/a.zip/b%20c", False),
        ("s3://bucket/a%20b", False),
        ("a/b", False),
    ],
)
def test_a_name_in_an_archive_is_no_part_of_a_web_address(url: str, expected: bool):
    assert storage.is_address(url) == expected
