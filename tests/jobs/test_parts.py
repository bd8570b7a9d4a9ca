"""A table in parts: each is whole, of its recipe and of as many rows as pictures, or is made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import parts
from jobs.parts import PartMaker, made_parts, plan_parts, read_parts
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
    """Have an actor write the parts of these numbers; return what it says of each."""
    actor = parts._WritePart(maker, {}, plan_parts(str(folder), TOTAL), "of this recipe")
    return [actor({"part": [number]}) for number in numbers]


def made(folder: Path, recipe: str = "of this recipe") -> set[int]:
    return made_parts(str(folder), plan_parts(str(folder), TOTAL), recipe)


def test_parts_are_read_back_in_order_whenever_each_was_made(tmp_path: Path):
    assert made(tmp_path / "out") == set()
    assert [said["error"] for said in write(tmp_path / "out", [2, 0, 1])] == [[""]] * 3
    assert made(tmp_path / "out") == {0, 1, 2}
    assert read_parts(str(tmp_path / "out"), TOTAL).column("number").to_pylist() == list(range(TOTAL))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_other_rows(path: Path) -> None:
    table = storage.read_parquet(str(path))
    storage.write_parquet(str(path), table.slice(1))


def of_nothing(path: Path) -> None:
    path.write_bytes(b"")


def of_no_recipe(path: Path) -> None:
    storage.write_parquet(str(path), storage.read_parquet(str(path)).replace_schema_metadata(None))


@pytest.mark.parametrize("damage", [cut, of_other_rows, of_nothing, of_no_recipe, Path.unlink])
def test_a_part_that_is_not_whole_counts_as_none(tmp_path: Path, damage: Callable[[Path], None]):
    write(tmp_path, [0, 1, 2])
    damage(tmp_path / "part-00001.parquet")
    assert made(tmp_path) == {0, 2}


def test_a_part_of_another_recipe_counts_as_none(tmp_path: Path):
    write(tmp_path, [0, 1, 2])
    assert made(tmp_path, "of another recipe") == set()


def test_of_a_part_that_is_made_already_its_footer_alone_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Wide:
        def table(self, start: int, stop: int) -> pa.Table:
            return pa.table({"bytes": [bytes(range(256)) * 4000 for _ in range(start, stop)]})

    write(tmp_path, [0], Wide)
    read: list[int] = []
    read_range = DiskLocation.read_range

    def counted(place: DiskLocation, offset: int, size: int) -> bytes:
        read.append(size)
        return read_range(place, offset, size)

    monkeypatch.setattr(DiskLocation, "read_range", counted)
    monkeypatch.setattr(storage, "read_bytes", lambda _: pytest.fail("read whole"))
    assert made(tmp_path) == {0}
    assert 0 < sum(read) < 1 << 18


def test_rows_that_are_lost_on_the_way_are_damage(tmp_path: Path):
    class Forgetful:
        def table(self, start: int, stop: int) -> pa.Table:
            return pa.table({"number": range(start, stop - 1)})

    (said,) = write(tmp_path, [2], Forgetful)
    assert said["error"] == ["DamageError"]
    assert said["message"] == [f"{tmp_path}/part-00002.parquet: 5 rows expected, 4 made"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [InputError, storage.UnreadableFile, DamageError, RunError])
def test_what_is_wrong_comes_back_as_what_it_is(tmp_path: Path, kind: type[Exception]):
    class Refusing:
        def table(self, start: int, stop: int) -> pa.Table:
            raise kind("x.jpg: wrong")

    (said,) = write(tmp_path, [0], Refusing)
    assert (parts.ERRORS[said["error"][0]], said["message"]) == (kind, ["x.jpg: wrong"])


def test_parts_that_do_not_add_up_are_damage(tmp_path: Path):
    write(tmp_path, [0, 1, 2])
    of_other_rows(tmp_path / "part-00002.parquet")
    with pytest.raises(DamageError, match="25 rows expected, 24 found"):
        read_parts(str(tmp_path), TOTAL)
