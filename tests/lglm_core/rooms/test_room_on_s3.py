"""Rooms in buckets, on real servers: rclone checks signatures, moto keeps to conditions."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from lglm_core import rooms, storage
from lglm_core.errors import InputError
from lglm_core.rooms import Provenance, Room, TagsManifest, read_manifest, require
from tests.servers.s3 import S3Server, faulty

Connect = Callable[..., None]
PROVENANCE = Provenance(TagsManifest, {"table": "abc"}, {"source": "table", "share": 0.2})
OTHER = Provenance(TagsManifest, {"table": "xyz"}, {"source": "table", "share": 0.3})
DIFFERENCES = (  # as the second process reads them, by which of the two was first
    'table was "abc", now "xyz"; share was 0.2, now 0.3',
    'table was "xyz", now "abc"; share was 0.3, now 0.2',
)
MANIFEST = TagsManifest(
    fingerprint="f" * 64,
    inputs=PROVENANCE.inputs,
    options=PROVENANCE.options,
    counts={"files": 3},
    labels={"dog": 2},
)
numbers = itertools.count()


@pytest.fixture(autouse=True)
def leases(connect_to: Connect) -> Iterator[None]:
    """Give back the leases of rooms that a test leaves unfinished, while their server can be reached."""
    yield
    rooms.release_all()


@pytest.fixture(params=["rclone", "moto"])
def folder(request: pytest.FixtureRequest, connect_to: Connect) -> str:
    """A prefix of the test's own on each of both servers in turn."""
    connect_to(request.getfixturevalue(request.param))
    return f"s3://bucket/room-{next(numbers)}"


@pytest.fixture
def moto_folder(moto: S3Server, connect_to: Connect) -> str:
    """A prefix of the test's own on moto."""
    connect_to(moto)
    return f"s3://bucket/room-{next(numbers)}"


def refusal(action: Callable[..., object], *arguments: object) -> str:
    """Return the message of the InputError: one line, and no credentials in it."""
    with pytest.raises(InputError) as refused:
        action(*arguments)
    assert type(refused.value) is InputError
    message = str(refused.value)
    assert "\n" not in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in message
    return message


def names(folder: str) -> list[str]:
    return [file.name for file in storage.list_files(folder)]


def both_at_once(actions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Start them together; return what each of them raised."""
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


def test_a_room_goes_from_begun_to_complete(folder: str):
    assert Room(folder, PROVENANCE).find() is None
    assert storage.is_empty(folder)
    Room(folder, PROVENANCE).begin()
    assert names(folder) == ["unfinished.json", "writer.json"]
    assert Room(folder, PROVENANCE).find() is None
    Room(folder, PROVENANCE).commit(MANIFEST)
    assert names(folder) == ["manifest.json"]
    assert Room(folder, PROVENANCE).find() == require(folder, TagsManifest) == MANIFEST


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_made_from_something_else_is_refused_with_the_differences(folder: str, finish: bool):
    Room(folder, PROVENANCE).begin()
    if finish:
        Room(folder, PROVENANCE).commit(MANIFEST)
    message = refusal(Room(folder, OTHER).find)
    assert message.startswith(f"{folder}: made from something else: {DIFFERENCES[0]}")


def test_a_folder_with_foreign_files_and_a_file_in_place_of_one_are_refused(folder: str):
    storage.write_bytes(f"{folder}/holiday.jpg", b"")
    assert "the folder holds other files" in refusal(Room(folder, PROVENANCE).find)
    assert "a file is there" in refusal(Room(f"{folder}/holiday.jpg", PROVENANCE).find)


def test_the_mark_that_a_console_puts_for_a_folder_is_no_file_in_the_room(moto: S3Server, moto_folder: str):
    key = f"{moto_folder.rpartition('/')[2]}/"
    moto.client().put_object(Bucket="bucket", Key=key, Body=b"")
    for room in (moto_folder, f"{moto_folder}/"):
        assert Room(room, PROVENANCE).find() is None


def test_of_two_that_begin_one_room_differently_at_once_one_is_refused(moto_folder: str):
    for attempt in range(3):
        url = f"{moto_folder}/{attempt}"
        writers: list[Room[Any]] = [Room(url, provenance) for provenance in (PROVENANCE, OTHER)]
        raised = both_at_once([writer.begin for writer in writers])
        winner = raised.index(None)
        refused = raised[1 - winner]
        assert isinstance(refused, InputError)
        assert f"{url}: made from something else: {DIFFERENCES[winner]}" in str(refused)
        assert writers[winner].find() is None  # and it may go on


def test_two_may_begin_one_room_alike(moto_folder: str):
    assert both_at_once([Room(moto_folder, PROVENANCE).begin] * 2) == [None, None]


def test_a_manifest_is_never_replaced_by_another(moto_folder: str):
    room = Room(moto_folder, PROVENANCE)
    manifests = [replace(MANIFEST, fingerprint="e" * 64), MANIFEST]
    raised = both_at_once([partial(room.commit, one) for one in manifests])
    winner = raised.index(None)
    message = refusal(room.commit, manifests[1 - winner])  # and once more, afterwards
    assert message == f"{moto_folder}: another run completed this room meanwhile; name another folder"
    assert str(raised[1 - winner]) == message
    assert read_manifest(moto_folder) == manifests[winner]
    assert room.commit(manifests[winner]) == manifests[winner]  # the same again is no other


def test_a_process_whose_answers_get_lost_begins_and_completes_its_room(
    moto_folder: str, moto: S3Server, connect_to: Connect
):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connect_to(bad)
        Room(moto_folder, PROVENANCE).begin()
        Room(moto_folder, PROVENANCE).commit(MANIFEST)
        assert bad.proxy.faults["drop_after"] > 0
    connect_to(moto)
    assert names(moto_folder) == ["manifest.json"]


def test_a_room_that_was_completed_meanwhile_is_not_begun_anew(folder: str):
    late = Room(folder, OTHER)
    assert late.find() is None
    Room(folder, PROVENANCE).begin()
    Room(folder, PROVENANCE).commit(MANIFEST)
    assert "made from something else" in refusal(late.begin)
    assert Room(folder, PROVENANCE).find() == MANIFEST
    assert names(folder) == ["manifest.json"]
