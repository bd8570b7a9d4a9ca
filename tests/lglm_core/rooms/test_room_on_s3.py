"""Rooms in buckets, on real servers: rclone checks signatures, moto honours conditional requests."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import Provenance, Room, TagsManifest, read_manifest, release_all, require
from tests.servers.s3 import S3Server, faulty

Connect = Callable[..., None]
numbers = itertools.count()


@pytest.fixture(autouse=True)
def released(connect_to: Connect) -> Iterator[None]:
    """Give back all leases while the server is there: otherwise threads keep asking for it."""
    yield
    release_all()


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


PROVENANCE = Provenance(TagsManifest, {"table": "abc"}, {"source": "table", "share": 0.2})
OTHER = Provenance(TagsManifest, {"table": "xyz"}, {"source": "table", "share": 0.3})
DIFFERENCES = (  # that the second is told, by which of the two came first
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


def manifest(fingerprint: str) -> TagsManifest:
    return TagsManifest(
        fingerprint=fingerprint * 64,
        inputs=PROVENANCE.inputs,
        options=PROVENANCE.options,
        counts={"files": 3},
        labels={"dog": 2},
    )


def test_a_room_goes_from_begun_to_complete(folder: str):
    assert Room(folder, PROVENANCE).find() is None
    assert storage.is_empty(folder)
    Room(folder, PROVENANCE).begin()
    assert names(folder) == ["unfinished.json", "writer.json"]
    assert Room(folder, PROVENANCE).find() is None
    Room(folder, PROVENANCE).commit(manifest("f"))
    assert names(folder) == ["manifest.json"]
    assert Room(folder, PROVENANCE).find() == require(folder, TagsManifest) == manifest("f")


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_with_another_provenance_is_refused_with_the_differences(folder: str, finish: bool):
    Room(folder, PROVENANCE).begin()
    if finish:
        Room(folder, PROVENANCE).commit(manifest("f"))
    message = refusal(Room(folder, OTHER).find)
    assert message.startswith(f"{folder}: made from something else: {DIFFERENCES[0]}")


def test_a_folder_with_foreign_files_and_a_file_in_place_of_one_are_refused(folder: str):
    storage.write_bytes(f"{folder}/holiday.jpg", b"")
    assert "the folder holds other files" in refusal(Room(folder, PROVENANCE).find)
    assert "a file is there" in refusal(Room(f"{folder}/holiday.jpg", PROVENANCE).find)


def both_at_once(actions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Run the actions at the same moment, and return what each of them raised."""
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


def test_one_of_two_processes_that_begin_a_room_differently_at_once_is_refused(moto_folder: str):
    for attempt in range(3):
        room = f"{moto_folder}/{attempt}"
        raised = both_at_once([Room(room, provenance).begin for provenance in (PROVENANCE, OTHER)])
        winner = raised.index(None)
        refused = raised[1 - winner]
        assert isinstance(refused, InputError)
        assert f"{room}: made from something else: {DIFFERENCES[winner]}" in str(refused)
        assert Room(room, (PROVENANCE, OTHER)[winner]).find() is None  # and it may go on


def test_two_processes_may_begin_a_room_alike(moto_folder: str):
    assert both_at_once([Room(moto_folder, PROVENANCE).begin for _ in range(2)]) == [None, None]


def test_a_manifest_is_never_replaced_by_another(moto_folder: str):
    manifests = [manifest("e"), manifest("f")]
    room = Room(moto_folder, PROVENANCE)
    raised = both_at_once([partial(Room(moto_folder, PROVENANCE).commit, one) for one in manifests])
    winner = raised.index(None)
    message = refusal(room.commit, manifests[1 - winner])  # and once more, afterwards
    assert message == f"{moto_folder}: another run completed this room meanwhile; name another folder"
    assert str(raised[1 - winner]) == message
    assert read_manifest(moto_folder) == manifests[winner]
    assert room.commit(manifests[winner]) == manifests[winner]  # the same again is no other


def test_a_room_is_begun_and_completed_although_answers_are_lost(
    moto_folder: str, moto: S3Server, connect_to: Connect
):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connect_to(bad)
        Room(moto_folder, PROVENANCE).begin()
        Room(moto_folder, PROVENANCE).commit(manifest("f"))
        assert bad.proxy.faults["drop_after"] > 0
    connect_to(moto)
    assert names(moto_folder) == ["manifest.json"]


def test_a_room_that_was_completed_meanwhile_is_not_begun_anew(folder: str):
    assert Room(folder, OTHER).find() is None
    Room(folder, PROVENANCE).begin()
    Room(folder, PROVENANCE).commit(manifest("f"))
    assert "made from something else" in refusal(Room(folder, OTHER).begin)
    assert Room(folder, PROVENANCE).find() == manifest("f")
    assert names(folder) == ["manifest.json"]


def test_the_placeholder_of_a_folder_is_no_room(moto: S3Server, moto_folder: str):
    key = f"{moto_folder.rpartition('/')[2]}/"
    moto.client().put_object(Bucket="bucket", Key=key, Body=b"")
    for room in (moto_folder, f"{moto_folder}/"):
        assert Room(room, PROVENANCE).find() is None
