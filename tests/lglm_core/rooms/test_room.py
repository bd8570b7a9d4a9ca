import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lglm_core import rooms, storage
from lglm_core.errors import InputError
from lglm_core.rooms import EvaluationManifest, Provenance, Room, TagsManifest, digest, read_manifest, require
from tests.lglm_core.rooms.samples import MANIFEST, PROVENANCE, complete


class KilledError(BaseException):
    """Nothing is tidied up after it, as after a SIGKILL."""


def names(room: Path) -> set[str]:
    return {path.name for path in room.iterdir()}


def test_a_room_goes_from_begun_to_complete(room: Path):
    assert Room(str(room), PROVENANCE).find() is None
    Room(str(room), PROVENANCE).begin()
    assert names(room) == {"unfinished.json", "writer.json"}
    Room(str(room), PROVENANCE).commit(MANIFEST)
    assert names(room) == {"manifest.json"}
    assert Room(str(room), PROVENANCE).find() == MANIFEST


def test_a_complete_room_is_begun_again_though_an_append_to_it_was_begun(room: Path):
    complete(room)
    Room(str(room), Provenance(TagsManifest, {"table": "def"}, {})).append(MANIFEST, "earlier.json")
    begun = Room(str(room), PROVENANCE)
    begun.begin()
    assert json.loads((room / "unfinished.json").read_text())["inputs"] == PROVENANCE.inputs
    mended = replace(MANIFEST, labels={"dog": 1})
    assert begun.commit(mended) == mended == read_manifest(str(room))
    assert names(room) == {"manifest.json"}


def test_looking_writes_nothing(room: Path):
    Room(str(room), PROVENANCE).find()
    assert not room.exists()
    room.mkdir()
    Room(str(room), PROVENANCE).find()
    assert names(room) == set()


def test_an_unfinished_room_is_not_complete(room: Path):
    Room(str(room), PROVENANCE).begin()
    assert read_manifest(str(room)) is None
    with pytest.raises(InputError, match=r"no complete tags room there \(no manifest\.json\)"):
        require(str(room), TagsManifest)


def test_the_same_recipe_goes_on_with_an_unfinished_room(room: Path):
    Room(str(room), PROVENANCE).begin()
    (room / "shards").mkdir()
    assert Room(str(room), PROVENANCE).find() is None
    Room(str(room), PROVENANCE).begin()
    assert names(room) == {"unfinished.json", "writer.json", "shards"}


OTHER = Provenance(TagsManifest, {"table": "xyz"}, {"source": "table", "share": 0.3})


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_of_another_recipe_is_refused_with_the_differences_by_name(room: Path, finish: bool):
    Room(str(room), PROVENANCE).begin()
    if finish:
        Room(str(room), PROVENANCE).commit(MANIFEST)
    with pytest.raises(InputError) as refused:
        Room(str(room), OTHER).find()
    message = str(refused.value)
    assert 'table was "abc", now "xyz"; share was 0.2, now 0.3' in message
    assert "source" not in message and "\n" not in message


def test_an_option_that_is_new_or_gone_is_a_difference(room: Path):
    Room(str(room), PROVENANCE).begin()
    with pytest.raises(InputError, match=r"share was 0\.2, now null; year was null, now 2017"):
        Room(str(room), Provenance(TagsManifest, PROVENANCE.inputs, {"source": "table", "year": 2017})).find()


def test_a_room_of_another_kind_is_refused(room: Path):
    Room(str(room), PROVENANCE).begin()
    with pytest.raises(InputError, match="holds a tags room; an evaluation room needs a folder of its own"):
        Room(str(room), Provenance(EvaluationManifest, PROVENANCE.inputs, PROVENANCE.options)).find()


def test_options_that_json_writes_alike_are_the_same(room: Path):
    """A manifest has lists where the options had tuples."""
    Room(str(room), Provenance(TagsManifest, {}, {"widths": (1, 2)})).begin()
    assert Room(str(room), Provenance(TagsManifest, {}, {"widths": (1, 2)})).find() is None


def test_a_folder_with_foreign_files_is_refused(room: Path):
    room.mkdir()
    (room / "holiday.jpg").touch()
    with pytest.raises(InputError, match="the folder holds other files"):
        Room(str(room), PROVENANCE).find()


def test_a_file_in_place_of_the_folder_is_refused(room: Path):
    room.touch()
    with pytest.raises(InputError, match="a file is there"):
        Room(str(room), PROVENANCE).find()


def test_what_a_killed_writer_left_is_nothing_and_is_cleared_away(room: Path):
    (room / "shards" / ".partial-b").mkdir(parents=True)
    (room / ".partial-a").mkdir()
    (room / ".partial-a" / "half").touch()
    (room / "shards" / "whole.tar").touch()
    Room(str(room), PROVENANCE).begin()
    assert {path.name for path in room.rglob("*")} == {
        "shards",
        "whole.tar",
        "unfinished.json",
        "writer.json",
    }


def writes(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch, survive: int) -> bool:
    """Run *action*, but die at the storage operation after *survive*; tell whether it came to its end."""
    left = survive

    def mortal(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: object) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return operation(*arguments)

        return run

    with monkeypatch.context() as patch:
        for name in ("remove_unfinished", "create", "remove"):
            patch.setattr(storage, name, mortal(getattr(storage, name)))
        try:
            action()
        except KilledError:
            return False
    return True


@pytest.mark.parametrize("survive", range(8))
def test_a_kill_between_any_two_steps_leaves_a_room_that_can_be_completed(
    room: Path, monkeypatch: pytest.MonkeyPatch, survive: int
):
    def make() -> None:
        Room(str(room), PROVENANCE).begin()
        (room / "shard.tar").touch()
        Room(str(room), PROVENANCE).commit(MANIFEST)

    finished = writes(make, monkeypatch, survive)
    assert finished == (survive == 7)
    found = Room(str(room), PROVENANCE).find()
    assert found in (None, MANIFEST)
    if found is None:
        make()
    assert Room(str(room), PROVENANCE).find() == MANIFEST


def test_a_complete_room_whose_note_was_not_cleared_is_complete(room: Path):
    Room(str(room), PROVENANCE).begin()
    Room(str(room), PROVENANCE).commit(MANIFEST)
    storage.write_bytes(f"{room}/unfinished.json", b"{}")
    assert Room(str(room), PROVENANCE).find() == MANIFEST


def test_what_a_kill_at_the_very_end_left_behind_is_removed_when_the_room_is_found_complete(room: Path):
    """Between the manifest and the removal of unfinished.json, and while the manifest itself was staged."""
    Room(str(room), PROVENANCE).begin()
    begun = (room / "unfinished.json").read_bytes()
    Room(str(room), PROVENANCE).commit(MANIFEST)
    (room / "unfinished.json").write_bytes(begun)
    (room / ".partial-killed").mkdir()
    assert Room(str(room), PROVENANCE).find() == MANIFEST
    assert names(room) == {"manifest.json"}


@pytest.mark.parametrize("append", [True, False])
def test_a_process_that_lost_the_room_completes_nothing(room: Path, append: bool):
    writer = Room(str(room), PROVENANCE)
    writer.begin()
    if append:
        writer.commit(MANIFEST)
        writer.append(MANIFEST, "earlier.json")
    (room / "writer.json").write_text('{"token": "another"}')
    before = {path.name: path.read_bytes() for path in room.iterdir()}
    with pytest.raises(InputError, match="another run took over this room meanwhile"):
        writer.commit(replace(MANIFEST, counts={}) if append else MANIFEST)
    assert {path.name: path.read_bytes() for path in room.iterdir()} == before


def test_an_append_keeps_the_manifest_that_it_replaces(room: Path):
    complete(room)
    writer = Room(str(room), PROVENANCE)
    writer.append(MANIFEST, "earlier.json")
    grown = replace(MANIFEST, fingerprint="e" * 64, counts={"files": 4})
    writer.commit(grown)
    assert (room / "earlier.json").read_bytes() == MANIFEST.to_json()
    assert read_manifest(str(room)) == grown
    assert names(room) == {"manifest.json", "earlier.json"}


def test_an_append_to_what_has_changed_meanwhile_is_refused(room: Path):
    complete(room)
    with pytest.raises(InputError, match="another run changed this room meanwhile"):
        Room(str(room), PROVENANCE).append(replace(MANIFEST, counts={}), "earlier.json")
    assert names(room) == {"manifest.json"}


def test_an_append_that_is_rolled_back_leaves_the_room_as_it_was(room: Path):
    complete(room)
    before = {path.name: path.read_bytes() for path in room.iterdir()}
    writer = Room(str(room), PROVENANCE)
    writer.append(MANIFEST, "earlier.json")
    writer.write("new.tar", b"new")
    writer.rollback(["new.tar"])
    assert {path.name: path.read_bytes() for path in room.iterdir()} == before


def test_a_room_that_was_never_complete_is_rolled_back_to_nothing(room: Path):
    writer = Room(str(room), PROVENANCE)
    writer.begin()
    writer.write("new.tar", b"new")
    writer.rollback()
    assert not room.exists()


def test_a_file_of_the_room_is_recorded_as_it_was_written(room: Path):
    record = Room(str(room), PROVENANCE).write("a/b.txt", b"text")
    assert (room / "a" / "b.txt").read_bytes() == b"text"
    assert record == rooms.FileRecord(4, digest(b"text"))


@pytest.mark.parametrize("content", ['{"kind": "tags", "inputs": [], "options": 3}', '{"kind": "x"}', "[]"])
def test_an_unfinished_room_that_does_not_say_what_it_is_made_from_is_refused(room: Path, content: str):
    room.mkdir()
    (room / "unfinished.json").write_text(content)
    with pytest.raises(InputError, match=r"unfinished\.json: does not say what the room is made from"):
        Room(str(room), PROVENANCE).find()
