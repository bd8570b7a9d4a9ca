"""The lease of a room: the right to write it, which one process at a time holds for as long as it lives."""

import atexit
import json
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from lglm_core import storage
from lglm_core.errors import InputError, RunError

FILE = "writer.json"
BEAT_S = 5.0
BEATS_OF_SILENCE = 3
SETTLING_S = 0.5
logger = logging.getLogger("lglm.lease")
_held: dict[str, "Lease"] = {}
_taking = threading.Lock()


class Lease:
    """A file in the room that names the process that writes there, renewed every few seconds.

    A lease that a killed process left is taken over: on the same machine once that process is gone, from
    another machine once the file no longer changes. Clocks of two machines are never compared.
    """

    def __init__(self, room: str) -> None:
        self.room = room
        self.lost = False
        self._url = storage.join(room, FILE)
        self._token = uuid4().hex
        self._beat = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        """Take the lease; raise an InputError if another process holds it."""
        removed = False
        while (existing := self._create(removed)).get("token") != self._token:
            if _is_alive(self._url, existing):
                raise InputError(
                    f"{self.room}: another run is writing there (process {existing.get('process')} on "
                    f"{existing.get('host')}); wait for it to end, or name another folder"
                )
            if removed := _read(self._url) == existing:  # else another process did, and may hold it now
                storage.remove(self._url)
        self._thread.start()

    def _create(self, removed: bool) -> dict[str, Any]:
        """Return the current record, which is ours if there was none.

        After a stale record was removed, ours is read once more: another process may have seen the stale one
        too, and may have removed ours instead.
        """
        record = _parse(storage.create(self._url, self._record()))
        if removed and record.get("token") == self._token:
            time.sleep(SETTLING_S)
            return _read(self._url) or self._create(removed)
        return record

    def release(self) -> None:
        """Give the lease back, if it still is ours."""
        self._ended.set()
        self._thread.join(BEAT_S)
        if not self._thread.is_alive() and self.holds():  # else the storage does not answer
            storage.remove(self._url)

    def holds(self) -> bool:
        """Tell whether the lease still is ours."""
        self.lost = self.lost or _read(self._url).get("token") != self._token
        return not self.lost

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_S) and not self.lost:
            try:
                if self.holds():
                    self._beat += 1
                    storage.write_bytes(self._url, self._record())
            except (InputError, RunError, OSError) as error:  # the next beat may come through
                logger.debug(f"{self._url}: not renewed ({error})")

    def _record(self) -> bytes:
        return json.dumps({"token": self._token, "beat": self._beat, **_this_process()}).encode()


def take(room: str) -> None:
    """Take the lease of *room* for this process, which may hold it already.

    Raises:
        InputError: another process holds it.
    """
    key = storage.absolute(room)
    with _taking:  # else two threads of one process refuse each other
        if key in _held and not _held[key].lost:
            return
        lease = Lease(room)
        lease.take()
        _held[key] = lease


def confirm(room: str) -> None:
    """Raise an InputError if another process took the lease over because this one seemed dead."""
    lease = _held.get(storage.absolute(room))
    if lease is not None and not lease.holds():
        raise InputError(f"{room}: another run took over this room meanwhile; run the same command again")


def release(room: str) -> None:
    """Give the lease of *room* back, if this process holds it."""
    lease = _held.pop(storage.absolute(room), None)
    if lease is not None:
        lease.release()


@atexit.register
def release_all() -> None:
    """Give back all leases of this process: those of rooms that it did not complete."""
    for room in list(_held):
        with suppress(InputError, RunError, OSError):  # the next process notices that this one is gone
            _held.pop(room).release()


def _this_process() -> dict[str, Any]:
    """Return what identifies this process among those of all machines and containers."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    machine = [boot.read_text().strip(), str(namespace.readlink())] if boot.exists() else None
    started = _started(os.getpid()) if machine else None
    return {"machine": machine, "host": os.uname().nodename, "process": os.getpid(), "started": started}


def _started(process: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if it is gone."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])


def _is_alive(url: str, record: dict[str, Any]) -> bool:
    """Tell whether the process that wrote *record* still runs; of another machine, wait for its next beat."""
    machine = _this_process()["machine"]
    if machine is not None and record.get("machine") == machine:
        started = _started(record.get("process", 0))
        return started is not None and started == record.get("started")
    logger.info(f"{url}: held by a run on {record.get('host')}; checking whether it still runs")
    for _ in range(BEATS_OF_SILENCE):
        time.sleep(BEAT_S)
        if (now := _read(url)) != record:
            return bool(now)
    return False


def _read(url: str) -> dict[str, Any]:
    """Return the current record, an empty one where there is none.

    A failing read is raised: it is no sign that another process took the lease.
    """
    data = storage.read_if_exists(url)
    return {} if data is None else _parse(data)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
