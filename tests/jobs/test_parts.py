"""A table in parts: a part that is cut, of another provenance or of other rows is written again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import parts
from jobs.parts import PartMaker, plan_parts, read_parts, written_parts
from lglm_core import storage
from lglm_core.errors import DamageError, InputError, RunError
from lglm_core.storage.disk import DiskLocation

TOTAL = 25


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "IMAGES_PER_PART", 10)


class Numbers:
    """Makes one row of each picture: its number."""

    def table(self, start: int, stop: int) -> pa.Table:
        return pa.table({"number": range(start, stop)})


def write(folder: Path, numbers: list[int], maker: type[PartMaker] = Numbers) -> list[dict[str, Any]]:
    """Let an actor write the parts of these numbers; return its answers."""
    actor = parts._PartWriter(maker, {}, plan_parts(str(folder), TOTAL), "this provenance")
    return [actor({"part": [number]}) for number in numbers]


def written(folder: Path, provenance: str = "this provenance") -> set[int]:
    return written_parts(str(folder), plan_parts(str(folder), TOTAL), provenance)


def test_parts_are_read_in_order_whenever_each_was_written(tmp_path: Path):
    assert written(tmp_path / "out") == set()
    assert [answer["error"] for answer in write(tmp_path / "out", [2, 0, 1])] == [[""]] * 3
    assert written(tmp_path / "out") == {0, 1, 2}
    assert read_parts(str(tmp_path / "out"), TOTAL).column("number").to_pylist() == list(range(TOTAL))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def drop_row(path: Path) -> None:
    table = storage.read_parquet(str(path))
    storage.write_parquet(str(path), table.slice(1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_provenance(path: Path) -> None:
    storage.write_parquet(str(path), storage.read_parquet(str(path)).replace_schema_metadata(None))


@pytest.mark.parametrize("damage", [cut, drop_row, empty, drop_provenance, Path.unlink])
def test_a_part_that_is_not_whole_does_not_count(tmp_path: Path, damage: Callable[[Path], None]):
    write(tmp_path, [0, 1, 2])
    damage(tmp_path / "part-00001.parquet")
    assert written(tmp_path) == {0, 2}


def test_a_part_of_another_provenance_does_not_count(tmp_path: Path):
    write(tmp_path, [0, 1, 2])
    assert written(tmp_path, "another provenance") == set()


def test_only_the_footer_of_a_part_that_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Wide:
        def table(self, start: int, stop: int) -> pa.Table:
            return pa.table({"bytes": [bytes(range(256)) * 4000 for _ in range(start, stop)]})

    write(tmp_path, [0], Wide)
    read: list[int] = []
    read_range = DiskLocation.read_range

    def counted(location: DiskLocation, offset: int, size: int) -> bytes:
        read.append(size)
        return read_range(location, offset, size)

    monkeypatch.setattr(DiskLocation, "read_range", counted)
    monkeypatch.setattr(storage, "read_bytes", lambda _: pytest.fail("read whole"))
    assert written(tmp_path) == {0}
    assert 0 < sum(read) < 1 << 18


def test_rows_that_get_lost_are_damage(tmp_path: Path):
    class Forgetful:
        def table(self, start: int, stop: int) -> pa.Table:
            return pa.table({"number": range(start, stop - 1)})

    (answer,) = write(tmp_path, [2], Forgetful)
    assert answer["error"] == ["DamageError"]
    assert answer["message"] == [f"{tmp_path}/part-00002.parquet: 5 rows expected, 4 made"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [InputError, storage.UnreadableFile, DamageError, RunError])
def test_an_error_comes_back_as_what_it_was(tmp_path: Path, kind: type[Exception]):
    class Refusing:
        def table(self, start: int, stop: int) -> pa.Table:
            raise kind("x.jpg: wrong")

    (answer,) = write(tmp_path, [0], Refusing)
    assert (parts.ERRORS[answer["error"][0]], answer["message"]) == (kind, ["x.jpg: wrong"])


def test_parts_that_do_not_add_up_are_damage(tmp_path: Path):
    write(tmp_path, [0, 1, 2])
    drop_row(tmp_path / "part-00002.parquet")
    with pytest.raises(DamageError, match="25 rows expected, 24 found"):
        read_parts(str(tmp_path), TOTAL)
