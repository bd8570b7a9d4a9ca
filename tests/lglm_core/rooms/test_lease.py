"""One process writes a room at a time; a dead one does not stand in the way."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lglm_core import rooms, storage
from lglm_core.errors import InputError
from lglm_core.rooms import lease

pytestmark = pytest.mark.process

HOLD = """
import sys, time
from lglm_core.rooms import lease
lease.take(sys.argv[1])
print("taken", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(room: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(room)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "taken\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)


def test_another_living_process_is_refused_by_name(room: Path):
    with another_process(room) as other, pytest.raises(InputError) as refused:
        lease.take(str(room))
    assert f"another run is writing there (process {other.pid} on" in str(refused.value)


def test_what_a_killed_process_left_is_taken_over_at_once(room: Path, monkeypatch: pytest.MonkeyPatch):
    with another_process(room):
        pass
    assert (room / lease.FILE).exists()
    monkeypatch.setattr(lease, "BEAT_S", 100.0)
    started = time.monotonic()
    lease.take(str(room))
    assert time.monotonic() - started < 5
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    lease.release(str(room))
    assert not (room / lease.FILE).exists()


def test_another_process_of_the_same_number_is_another(room: Path):
    """Numbers of processes come again; when one began does not, whatever the clock on the wall says."""
    with another_process(room):
        record = json.loads((room / lease.FILE).read_text())
        earlier = record | {"started": record["started"] - 1, "token": "gone"}
        (room / lease.FILE).write_text(json.dumps(earlier))
        lease.take(str(room))
        lease.release(str(room))


def test_of_two_that_take_a_dead_ones_place_one_is_refused(room: Path, monkeypatch: pytest.MonkeyPatch):
    """The second sees the dead one, and removes what it takes for it when the first has just come in."""
    with another_process(room):
        pass
    first, second = lease.Lease(str(room)), lease.Lease(str(room))
    remove = lease.storage.remove
    with ThreadPoolExecutor(1) as pool:
        took: list[Future[None]] = []

        def late(url: str) -> None:
            if not took:
                took.append(pool.submit(first.take))
                while json.loads((room / lease.FILE).read_text() or "{}").get("token") != first._token:
                    time.sleep(0.01)
            remove(url)

        monkeypatch.setattr(lease.storage, "remove", late)
        second.take()
        with pytest.raises(InputError, match="another run is writing there"):
            took[0].result()
    assert second.holds()
    second.release()


def test_a_process_has_it_once_and_may_ask_again(room: Path):
    lease.take(str(room))
    lease.take(str(room))
    lease.confirm(str(room))
    lease.release(str(room))
    lease.release(str(room))
    assert list(room.iterdir()) == []


def test_threads_of_one_process_do_not_refuse_each_other(room: Path):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lease.take, [str(room)] * 64)) == [None] * 64
    lease.release(str(room))


def test_all_of_them_are_given_back_at_the_end_of_a_job(room: Path):
    lease.take(str(room))
    lease.release_all()
    with another_process(room):
        pass


def elsewhere(room: Path, beat: int) -> None:
    record = {"token": "t", "beat": beat, "machine": ["other", "pid:[1]"], "host": "far", "process": 7}
    room.mkdir(exist_ok=True)
    (room / lease.FILE).write_text(json.dumps(record))


def test_on_another_machine_silence_is_death(room: Path):
    elsewhere(room, 3)
    lease.take(str(room))
    lease.release(str(room))


def test_on_another_machine_a_beat_is_life(room: Path, monkeypatch: pytest.MonkeyPatch):
    elsewhere(room, 3)
    beats = iter(range(4, 9))
    monkeypatch.setattr(lease.time, "sleep", lambda _: elsewhere(room, next(beats)))
    with pytest.raises(InputError, match=r"another run is writing there \(process 7 on far\)"):
        lease.take(str(room))


def test_who_was_taken_for_dead_and_is_not_finds_out_at_once(room: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "BEAT_S", 100.0)
    lease.take(str(room))
    elsewhere(room, 1)
    with pytest.raises(InputError, match="another run took over this room meanwhile"):
        lease.confirm(str(room))
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    lease.release(str(room))
    assert json.loads((room / lease.FILE).read_text())["token"] == "t"


def test_a_lease_of_another_is_not_given_back(room: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "BEAT_S", 100.0)
    lease.take(str(room))
    elsewhere(room, 1)
    lease.release(str(room))
    assert json.loads((room / lease.FILE).read_text())["token"] == "t"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_record_is_nobodys(room: Path, content: str):
    room.mkdir()
    (room / lease.FILE).write_text(content)
    lease.take(str(room))
    lease.release(str(room))


def test_looking_at_a_room_leaves_it_to_who_writes_there(room: Path):
    """As it is while a complete dataset is written anew: the manifest stands, and so does what was begun."""
    provenance = rooms.Provenance(rooms.TagsManifest, {}, {})
    manifest = rooms.TagsManifest(fingerprint="f", inputs={}, options={}, counts={}, labels={})
    with another_process(room):
        for name, data in (
            (rooms.MANIFEST, manifest.to_json()),
            (rooms.UNFINISHED, provenance.to_json()),
        ):
            (room / name).write_bytes(data)
        (room / ".partial-x").mkdir()
        before = sorted(path.name for path in room.iterdir())
        assert rooms.Room(str(room), provenance).find() == manifest
        assert sorted(path.name for path in room.iterdir()) == before
    rooms.Room(str(room), provenance).find()
    assert [path.name for path in room.iterdir()] == [rooms.MANIFEST]


def test_a_disk_that_fails_once_is_no_sign_of_another_process(room: Path, monkeypatch: pytest.MonkeyPatch):
    lease.take(str(room))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_if_exists", fail)
        with pytest.raises(storage.UnreadableFile, match="cannot be read"):
            lease.confirm(str(room))
    lease.confirm(str(room))
    lease.release(str(room))


def fail(url: str) -> bytes:
    raise storage.UnreadableFile(f"{url}: cannot be read (Input/output error)")
