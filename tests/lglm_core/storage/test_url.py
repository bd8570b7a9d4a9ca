"""URLs as text."""

from pathlib import Path

import pytest

from lglm_core import storage


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


@pytest.mark.parametrize(
    ("url", "local"),
    [("a/b", True), ("file:///a", True), ("S3://b/k", False), ("http://h/x", False), ("HTTPS://h/x", False)],
)
def test_the_scheme_tells_whether_a_url_is_local(url: str, local: bool):
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
def test_the_secret_parts_of_a_web_address_are_not_shown(url: str, shown: str):
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
def test_the_secret_parts_of_an_address_in_a_text_are_not_shown(text: str, shown: str):
    assert storage.redact(text) == shown


def test_joining_takes_one_slash():
    assert storage.join("s3://b/room/", "a", "b.txt") == "s3://b/room/a/b.txt"


def test_an_absolute_url_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    for url in ("file:///a/b", "https://host/a/b"):
        assert storage.absolute(url) == url
