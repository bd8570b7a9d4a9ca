"""Tables in Parquet files; what every location keeps of them is in the contract."""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core import storage
from lglm_core.errors import InputError


def test_no_thread_holds_a_table_that_was_read():
    """Such a thread aborts the process when Python exits; ``pq.read_table`` fails this test nearly always."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), sink)
    for _ in range(1000):
        data = bytes(bytearray(sink.getvalue()))  # bytes of its own each time
        storage.parse_parquet(data, "x.parquet")
        assert sys.getrefcount(data) == 2  # the name, and the argument


@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no more"])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.parquet: (not a readable Parquet file|cannot be read)"):
        storage.read_parquet(f"{tmp_path}/x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: (not a readable Parquet file|cannot be read)"):
        storage.read_parquet_footer(f"{tmp_path}/x.parquet", 12)


def test_the_names_of_the_columns_are_read_from_the_bytes():
    data = storage.to_parquet(pa.table({"b": [1], "a": [2]}))
    assert storage.parquet_names(data, "x.parquet") == ["b", "a"]
    with pytest.raises(InputError, match=r"x\.parquet: not a readable Parquet file"):
        storage.parquet_names(data[:-1], "x.parquet")
