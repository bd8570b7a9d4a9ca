"""Which location a URL names."""

from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.storage.archive import ArchiveLocation
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.http import HttpLocation


@pytest.mark.parametrize("url", ["ftp://host/x", "gs://b/k", "gs://b/k.zip/x"])
def test_another_scheme_is_refused_by_name(url: str):
    with pytest.raises(InputError, match="is not a place lglm can reach"):
        storage.locate(url)


@pytest.mark.parametrize("url", ["file://photos", "file://photos/2026", "file://server/share/x"])
def test_a_file_of_another_machine_is_refused(url: str):
    with pytest.raises(InputError, match=r"names a file of the machine .(photos|server)."):
        storage.locate(url)


def test_on_disk_only_a_file_is_an_archive(tmp_path: Path):
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "a.tar").touch()
    url = f"{tmp_path}/folder.zip/a.tar"
    assert isinstance(storage.locate(f"{tmp_path}/folder.zip/x"), DiskLocation)
    assert isinstance(storage.locate(url), DiskLocation)
    found = storage.locate(f"{url}/b.zip/x")
    assert isinstance(found, ArchiveLocation)
    assert (found.archive.url, found.name, found.url) == (url, "b.zip/x", f"{url}/b.zip/x")


def test_on_a_web_server_the_name_decides():
    found = storage.locate("http://me:secret@host/a.zip/b.jpg")
    assert isinstance(found, ArchiveLocation)
    assert (found.archive.url, found.name, found.url) == (
        "http://host/a.zip",
        "b.jpg",
        "http://host/a.zip/b.jpg",
    )
    assert isinstance(storage.locate("http://host.zip/b.jpg"), HttpLocation)
