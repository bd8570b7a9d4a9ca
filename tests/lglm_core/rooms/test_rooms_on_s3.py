"""Rooms in buckets, against real servers: rclone checks signatures, moto keeps to conditions."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from lglm_core import rooms, storage
from lglm_core.errors import InputError
from lglm_core.rooms.manifest import Manifest, Provenance
from tests.servers.s3 import S3Server, faulty

Connect = Callable[..., None]
numbers = itertools.count()


@pytest.fixture(params=["rclone", "moto"])
def folder(request: pytest.FixtureRequest, connect_to: Connect) -> str:
    """A prefix of the test's own on each of both servers."""
    connect_to(request.getfixturevalue(request.param))
    return f"s3://bucket/rooms-{next(numbers)}"


@pytest.fixture
def moto_folder(moto: S3Server, connect_to: Connect) -> str:
    """A prefix of the test's own on moto."""
    connect_to(moto)
    return f"s3://bucket/rooms-{next(numbers)}"


RECIPE = Provenance("dataset", {"table": "abc"}, {"source": "table", "share": 0.2})
OTHER = Provenance("dataset", {"table": "xyz"}, {"source": "table", "share": 0.3})
DIFFERENCES = (  # to who comes second, by which of the two came first
    'table was "abc", now "xyz"; share was 0.2, now 0.3',
    'table was "xyz", now "abc"; share was 0.3, now 0.2',
)


def names(folder: str) -> list[str]:
    return [file.name for file in storage.list_files(folder)]


def refusal(action: Callable[..., object], *arguments: object) -> str:
    """Return the message of an InputError: one line."""
    with pytest.raises(InputError) as refused:
        action(*arguments)
    assert type(refused.value) is InputError
    assert "\n" not in str(refused.value)
    return str(refused.value)


def manifest(recipe: Provenance, fingerprint: str) -> Manifest:
    return Manifest(recipe.kind, fingerprint * 64, recipe.inputs, recipe.options, {"written": 3})


def test_a_room_goes_from_begun_to_complete(folder: str):
    assert rooms.find(folder, RECIPE) is None
    assert storage.is_empty(folder)
    rooms.begin(folder, RECIPE)
    assert names(folder) == ["unfinished.json", "writer.json"]
    assert rooms.find(folder, RECIPE) is None
    rooms.commit(folder, manifest(RECIPE, "f"))
    assert names(folder) == ["manifest.json"]
    assert rooms.find(folder, RECIPE) == rooms.require(folder, "dataset") == manifest(RECIPE, "f")


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_of_another_recipe_is_refused_with_the_differences(folder: str, finish: bool):
    rooms.begin(folder, RECIPE)
    if finish:
        rooms.commit(folder, manifest(RECIPE, "f"))
    message = refusal(rooms.find, folder, OTHER)
    assert message.startswith(f"{folder}: made from something else: {DIFFERENCES[0]}")


def test_a_folder_with_foreign_files_and_a_file_in_place_of_one_are_refused(folder: str):
    storage.write_bytes(f"{folder}/holiday.jpg", b"")
    assert "the folder holds other files" in refusal(rooms.find, folder, RECIPE)
    assert "a file is there" in refusal(rooms.find, f"{folder}/holiday.jpg", RECIPE)


def both_at_once(actions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Start them together; what each of them raised."""
    together = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> Exception | None:
        together.wait()
        try:
            action()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def test_of_two_that_begin_one_room_differently_at_once_one_is_refused(moto_folder: str):
    for attempt in range(3):
        room = f"{moto_folder}/{attempt}"
        raised = both_at_once([partial(rooms.begin, room, recipe) for recipe in (RECIPE, OTHER)])
        winner = raised.index(None)
        refused = raised[1 - winner]
        assert isinstance(refused, InputError)
        assert f"{room}: made from something else: {DIFFERENCES[winner]}" in str(refused)
        assert rooms.find(room, (RECIPE, OTHER)[winner]) is None  # and it may go on


def test_two_may_begin_one_room_alike(moto_folder: str):
    assert both_at_once([partial(rooms.begin, moto_folder, RECIPE)] * 2) == [None, None]


def test_a_manifest_is_never_replaced_by_another(moto_folder: str):
    manifests = [manifest(RECIPE, "e"), manifest(RECIPE, "f")]
    raised = both_at_once([partial(rooms.commit, moto_folder, one) for one in manifests])
    winner = raised.index(None)
    message = refusal(rooms.commit, moto_folder, manifests[1 - winner])  # and once more, afterwards
    assert message == f"{moto_folder}: another run completed this room meanwhile; name another folder"
    assert str(raised[1 - winner]) == message
    assert rooms.read_manifest(moto_folder) == manifests[winner]
    assert rooms.commit(moto_folder, manifests[winner]) == manifests[winner]  # the same again is no other


def test_whose_answers_get_lost_begins_and_completes_its_room(
    moto_folder: str, moto: S3Server, connect_to: Connect
):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connect_to(bad)
        rooms.begin(moto_folder, RECIPE)
        rooms.commit(moto_folder, manifest(RECIPE, "f"))
        assert bad.proxy.faults["drop_after"] > 0
    connect_to(moto)
    assert names(moto_folder) == ["manifest.json"]


def test_a_room_that_was_completed_meanwhile_is_not_begun_anew(folder: str):
    assert rooms.find(folder, OTHER) is None
    rooms.begin(folder, RECIPE)
    rooms.commit(folder, manifest(RECIPE, "f"))
    assert "made from something else" in refusal(rooms.begin, folder, OTHER)
    assert rooms.find(folder, RECIPE) == manifest(RECIPE, "f")
    assert names(folder) == ["manifest.json"]


def test_the_mark_that_a_console_puts_for_a_folder_is_no_room(moto: S3Server, moto_folder: str):
    key = f"{moto_folder.rpartition('/')[2]}/"
    moto.client().put_object(Bucket="bucket", Key=key, Body=b"")
    for room in (moto_folder, f"{moto_folder}/"):
        assert rooms.find(room, RECIPE) is None
