"""A member's header says its size, or there is no member."""

import io
import tarfile

import pytest

from lglm_core.data.tar import LARGEST, TarWriter, _header
from lglm_core.errors import InputError


def test_the_largest_member_s_header_says_its_size():
    """As tarfile reads it."""
    header = tarfile.TarInfo.frombuf(_header("a.jpg", LARGEST), "ascii", "strict")
    assert (header.name, header.size) == ("a.jpg", 8 * 2**30 - 1)


def test_a_larger_member_is_refused_and_nothing_written():
    class Larger(bytes):
        def __len__(self) -> int:
            return LARGEST + 1

    file = io.BytesIO()
    with pytest.raises(InputError, match=r"a\.jpg: has 8589934592 bytes, a tar takes at most 8589934591"):
        TarWriter(file).add("a.jpg", Larger())
    assert file.getvalue() == b""
