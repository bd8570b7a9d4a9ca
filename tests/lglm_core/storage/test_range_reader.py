"""A file over a location is sought and read like one on disk."""

import io
import random
from io import BufferedReader
from pathlib import Path

import pytest

from lglm_core import storage
from lglm_core.storage.range_reader import RangeReader

DATA = random.Random(0).randbytes(1000)


@pytest.fixture
def reader(tmp_path: Path) -> RangeReader:
    (tmp_path / "x").write_bytes(DATA)
    return RangeReader(storage.locate(f"{tmp_path}/x"), len(DATA))


@pytest.mark.parametrize("buffered", [False, True])
def test_it_seeks_and_reads_as_bytes_in_memory_do(reader: RangeReader, buffered: bool):
    ours, reference = BufferedReader(reader, 64) if buffered else reader, io.BytesIO(DATA)
    rng = random.Random(1)
    for _ in range(300):
        seek = rng.choice([(rng.randrange(1100), 0), (rng.randrange(50), 1), (-rng.randrange(1000), 2)])
        assert ours.seek(*seek) == reference.seek(*seek) == ours.tell()
        size = rng.randrange(200)
        assert ours.read(size) == reference.read(size)


def test_a_position_before_the_start_is_an_error_as_of_a_file(reader: RangeReader):
    reader.seek(10)
    with pytest.raises(OSError, match="a position of -1"):
        reader.seek(-1001, io.SEEK_END)
    assert reader.tell() == 10
