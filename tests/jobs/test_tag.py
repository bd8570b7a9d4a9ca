"""``lglm tag``: pictures in archives, and files that cannot be read."""

import shutil
from pathlib import Path

import pytest

from jobs.tag import TagRows
from lglm_core import storage
from lglm_core.storage.location import StoredFile


def test_pictures_in_an_archive_get_the_tags_that_they_get_in_a_folder(
    tiny_model: Path, coco: Path, tmp_path: Path
):
    (folder,) = coco.glob("train*")
    archives = [
        shutil.make_archive(str(tmp_path / "photos"), suffix, coco, folder.name) for suffix in ("zip", "tar")
    ]
    expected = None
    for images in (str(folder), f"{archives[0]}/{folder.name}", f"{archives[1]}/{folder.name}/"):
        files = storage.list_files(images)
        rows = TagRows(str(tiny_model), images, files, threads=1).table(0, len(files)).to_pylist()
        assert all(storage.is_file(row["uri"]) and row["status"] == "ok" for row in rows)
        found = [(row["uri"].rpartition("/")[2], row["size"], row["labels"], row["scores"]) for row in rows]
        expected = expected or found
        assert found == expected


def test_a_file_that_cannot_be_read_is_a_row_without_the_password_of_the_address(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    """The uri of a row does not hold the password; a file that cannot be read is a row, too."""
    files = [StoredFile("mem", 10, "")]
    monkeypatch.setattr(
        storage, "join", lambda url, name: f"/proc/self/{name}" if "secret" in url else f"{url}/{name}"
    )
    rows = TagRows(str(tiny_model), "http://me:secret@host/photos.zip", files, threads=1).table(0, 1)
    (row,) = rows.to_pylist()
    assert (row["uri"], row["status"]) == ("http://host/photos.zip/mem", "unreadable")
