"""What storage does by URL, whichever location it is."""

from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.storage.disk import DiskLocation


def test_a_file_is_created_although_another_one_was_removed_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url, create = f"{tmp_path}/x", DiskLocation.create

    def after_another(location: DiskLocation, staged: Path) -> bool:
        monkeypatch.setattr(DiskLocation, "create", create)
        return False  # the other one is gone again when it is to be read

    monkeypatch.setattr(DiskLocation, "create", after_another)
    assert storage.create(url, b"ours") == b"ours" == storage.read_bytes(url)


def test_nothing_is_created_at_a_link_that_leads_nowhere(tmp_path: Path):
    (tmp_path / "x").symlink_to(tmp_path / "nothing")
    with pytest.raises(storage.UnreadableFile, match="x: cannot be read"):
        storage.create(f"{tmp_path}/x", b"ours")


def test_a_file_that_exists_but_cannot_be_read_is_an_error_and_not_none(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    assert storage.read_if_exists(f"{tmp_path}/none") is None
    with pytest.raises(storage.UnreadableFile, match="folder: not a regular file"):
        storage.read_if_exists(f"{tmp_path}/folder")


def test_the_size_of_an_invalid_url_is_0():
    assert list(storage.sizes(["ftp://host/x", "http://[oops/x.jpg", "a\0b"])) == [0, 0, 0]
