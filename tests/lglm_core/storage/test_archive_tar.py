"""What a tar may hold, and how it may be damaged."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.storage.archive_member import DamagedArchive
from tests.lglm_core.storage.contract import names, refusal
from tests.lglm_core.storage.pack import pack_tar, patched


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
def test_archives_of_gnu_tar_are_read(tmp_path: Path):
    name = f"{'long' * 40}/{'name' * 40}.jpg"
    storage.write_bytes(f"{tmp_path}/in/{name}", b"content")
    for format in ("gnu", "posix"):
        url = f"{tmp_path}/{format}.tar"
        subprocess.run(["tar", "-C", f"{tmp_path}/in", f"--format={format}", "-cf", url, "."], check=True)
        assert names(url) == [name]
        assert storage.read_bytes(f"{url}/{name}") == b"content"


@pytest.mark.parametrize("left", [10, 512, 513, 600, 1024, 1536, 2048, 6000])
def test_a_tar_that_was_cut_off_is_refused_also_between_two_files(tmp_path: Path, left: int):
    url = pack_tar(tmp_path / "a.tar", {"a": b"a", "b": b"b" * 5000})
    Path(url).write_bytes(Path(url).read_bytes()[:left])
    assert refusal(storage.list_files, url, kind=DamagedArchive).startswith(f"{url}: not a whole tar file (")


def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path):
    url = pack_tar(tmp_path / "a.tar", {"a": b"a", "b": b"b"})
    patched(url, at=b"ustar", offset=-100, to=b"XX")
    message = refusal(storage.list_files, url, kind=DamagedArchive)
    assert "at byte 1024 neither a file begins nor the tar ends" in message
