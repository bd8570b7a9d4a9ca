"""A member's header says its size, or there is no member."""

import tarfile

import pytest

from lglm_core.dataset.tar import LARGEST, _header, frame
from lglm_core.errors import InputError


@pytest.mark.parametrize(
    ("name", "size"), [("a.jpg", 0), ("Zz-_9" * 19 + ".json", 148_213), ("k.jpg", LARGEST)]
)
def test_a_header_is_tarfile_s_own(name: str, size: int):
    member = tarfile.TarInfo(name)
    member.mode, member.mtime, member.size = 0o644, 0, size
    assert _header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_the_largest_member_s_header_says_its_size():
    """As tarfile reads it."""
    header = tarfile.TarInfo.frombuf(_header("a.jpg", LARGEST), "ascii", "strict")
    assert (header.name, header.size) == ("a.jpg", 8 * 2**30 - 1)


def test_a_larger_member_is_refused():
    class Larger(bytes):
        def __len__(self) -> int:
            return LARGEST + 1

    with pytest.raises(InputError, match=r"a\.jpg: has 8589934592 bytes, a tar takes at most 8589934591"):
        frame("a.jpg", Larger())
