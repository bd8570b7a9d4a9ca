import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lglm_core import rooms, storage
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import digest
from lglm_core.rooms.manifest import Manifest, Provenance, read_manifest, require
from lglm_core.rooms.room import begin, commit, find

RECIPE = Provenance("dataset", {"table": "abc"}, {"source": "table", "share": 0.2})
MANIFEST = Manifest("dataset", "f" * 64, RECIPE.inputs, RECIPE.options, {"written": 3})


class KilledError(Exception):
    pass


def names(room: Path) -> set[str]:
    return {path.name for path in room.iterdir()}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


def test_a_room_goes_from_begun_to_complete(room: Path):
    assert find(str(room), RECIPE) is None
    begin(str(room), RECIPE)
    assert names(room) == {"unfinished.json", "writer.json"}
    commit(str(room), MANIFEST)
    assert names(room) == {"manifest.json"}
    assert find(str(room), RECIPE) == MANIFEST


def test_a_complete_room_is_begun_again_though_an_addition_to_it_was_begun(room: Path):
    begin(str(room), RECIPE)
    commit(str(room), MANIFEST)
    rooms.begin_addition(str(room), Provenance("dataset", {"table": "def"}, {}), MANIFEST)
    begin(str(room), RECIPE)
    assert json.loads((room / "unfinished.json").read_text())["inputs"] == RECIPE.inputs
    mended = replace(MANIFEST, details={"rejects": "for other reasons"})
    assert commit(str(room), mended) == mended == read_manifest(str(room))
    assert names(room) == {"manifest.json"}


def test_looking_writes_nothing(room: Path):
    find(str(room), RECIPE)
    assert not room.exists()
    room.mkdir()
    find(str(room), RECIPE)
    assert names(room) == set()


def test_an_unfinished_room_is_not_complete(room: Path):
    begin(str(room), RECIPE)
    assert read_manifest(str(room)) is None
    with pytest.raises(InputError, match=r"no complete dataset room there.*lglm shard writes one"):
        require(str(room), "dataset")


def test_the_same_recipe_goes_on_with_an_unfinished_room(room: Path):
    begin(str(room), RECIPE)
    (room / "shards").mkdir()
    assert find(str(room), RECIPE) is None
    begin(str(room), RECIPE)
    assert names(room) == {"unfinished.json", "writer.json", "shards"}


OTHER = Provenance("dataset", {"table": "xyz"}, {"source": "table", "share": 0.3})


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_of_another_recipe_is_refused_with_the_differences_by_name(room: Path, finish: bool):
    begin(str(room), RECIPE)
    if finish:
        commit(str(room), MANIFEST)
    with pytest.raises(InputError) as refused:
        find(str(room), OTHER)
    message = str(refused.value)
    assert 'table was "abc", now "xyz"; share was 0.2, now 0.3' in message
    assert "source" not in message and "\n" not in message


def test_an_option_that_is_new_or_gone_is_a_difference(room: Path):
    begin(str(room), RECIPE)
    with pytest.raises(InputError, match=r"share was 0\.2, now null; year was null, now 2017"):
        find(str(room), Provenance("dataset", RECIPE.inputs, {"source": "table", "year": 2017}))


def test_a_room_of_another_kind_is_refused(room: Path):
    begin(str(room), RECIPE)
    with pytest.raises(InputError, match="holds a dataset room; a tags room needs a folder of its own"):
        find(str(room), Provenance("tags", RECIPE.inputs, RECIPE.options))


def test_options_that_json_writes_alike_are_the_same(room: Path):
    """A manifest has lists where the options had tuples."""
    begin(str(room), Provenance("dataset", {}, {"widths": (1, 2)}))
    assert find(str(room), Provenance("dataset", {}, {"widths": (1, 2)})) is None


def test_a_folder_with_foreign_files_is_refused(room: Path):
    room.mkdir()
    (room / "holiday.jpg").touch()
    with pytest.raises(InputError, match="the folder holds other files"):
        find(str(room), RECIPE)


def test_a_file_in_place_of_the_folder_is_refused(room: Path):
    room.touch()
    with pytest.raises(InputError, match="a file is there"):
        find(str(room), RECIPE)


def test_what_a_killed_writer_left_is_nothing_and_is_cleared_away(room: Path):
    (room / "shards" / ".partial-b").mkdir(parents=True)
    (room / ".partial-a").mkdir()
    (room / ".partial-a" / "half").touch()
    (room / "shards" / "whole.tar").touch()
    begin(str(room), RECIPE)
    assert {path.name for path in room.rglob("*")} == {
        "shards",
        "whole.tar",
        "unfinished.json",
        "writer.json",
    }


def test_a_required_room_of_another_kind_is_refused(room: Path):
    commit(str(room), MANIFEST)
    with pytest.raises(InputError, match="a dataset room was found where a model room was expected"):
        require(str(room), "model")


def test_a_required_room_is_returned_with_its_manifest(room: Path):
    commit(str(room), MANIFEST)
    assert require(str(room), "dataset") == MANIFEST


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("{}", "not the manifest of an lglm room"),
        ('{"a": 1}', "not the manifest of an lglm"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_name(room: Path, content: str, complaint: str):
    room.mkdir()
    (room / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=rf"manifest\.json: {complaint}"):
        read_manifest(str(room))


def test_another_format_version_is_refused(room: Path):
    commit(str(room), MANIFEST)
    path = room / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(InputError, match="format version 1; this lglm reads version 2"):
        require(str(room), "dataset")


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
        begin(str(room), RECIPE)
        (room / "shard.tar").touch()
        commit(str(room), MANIFEST)

    finished = writes(make, monkeypatch, survive)
    assert finished == (survive == 7)
    found = find(str(room), RECIPE)
    assert found in (None, MANIFEST)
    if found is None:
        make()
    assert find(str(room), RECIPE) == MANIFEST


def test_a_complete_room_whose_note_was_not_cleared_is_complete(room: Path):
    begin(str(room), RECIPE)
    commit(str(room), MANIFEST)
    rooms.storage.write_bytes(f"{room}/unfinished.json", b"{}")
    assert find(str(room), RECIPE) == MANIFEST


def test_the_fingerprint_does_not_depend_on_the_order_of_the_options():
    turned = Provenance("dataset", {"table": "abc"}, {"share": 0.2, "source": "table"})
    assert turned.fingerprint == RECIPE.fingerprint


def test_digests_stay_what_they_were():
    """sha256 of the bytes themselves, and of JSON with one space of indent and a line end."""
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert rooms.to_json({"b": 1, "a": "é"}) == '{\n "a": "é",\n "b": 1\n}\n'.encode()
    assert digest({"a": "é", "b": 1}) == digest('{\n "a": "é",\n "b": 1\n}\n'.encode())


def test_what_a_kill_at_the_very_end_left_behind_is_removed_when_the_room_is_found_complete(room: Path):
    """Between the manifest and the removal of unfinished.json, and while the manifest itself was staged."""
    begin(str(room), RECIPE)
    begun = (room / "unfinished.json").read_bytes()
    commit(str(room), MANIFEST)
    (room / "unfinished.json").write_bytes(begun)
    (room / ".partial-killed").mkdir()
    assert find(str(room), RECIPE) == MANIFEST
    assert names(room) == {"manifest.json"}


@pytest.mark.parametrize("add", [True, False])
def test_who_lost_the_room_to_another_process_completes_nothing(room: Path, add: bool):
    begin(str(room), RECIPE)
    if add:
        commit(str(room), MANIFEST)
        rooms.begin_addition(str(room), RECIPE, MANIFEST)
    (room / "writer.json").write_text('{"token": "another"}')
    before = {path.name: path.read_bytes() for path in room.iterdir()}
    with pytest.raises(InputError, match="another run took over this room meanwhile"):
        if add:
            rooms.commit_addition(str(room), replace(MANIFEST, counts={}), MANIFEST, "earlier.json")
        else:
            commit(str(room), MANIFEST)
    assert {path.name: path.read_bytes() for path in room.iterdir()} == before
