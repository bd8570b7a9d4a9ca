"""The right to write a room: one process has it at a time, for as long as it lives."""

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
    """A file in the room that says who writes there, renewed every few seconds.

    One that a killed process left is recognised: on the same machine by that process being gone, from
    another one by the file no longer changing. No clock is compared with another machine's.
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
        """Take the lease, or refuse because another process has it."""
        removed = False
        while (standing := self._create(removed)).get("token") != self._token:
            if _is_alive(self._url, standing):
                raise InputError(
                    f"{self.room}: another run is writing there (process {standing.get('process')} on "
                    f"{standing.get('host')}); wait for it to end, or name another folder"
                )
            if removed := _read(self._url) == standing:  # else another one did, and may be there now
                storage.remove(self._url)
        self._thread.start()

    def _create(self, removed: bool) -> dict[str, Any]:
        """Return the record that stands there, which is ours if there was none.

        After one was removed it is looked at again: another process may have seen that one too, and have
        removed ours in its place.
        """
        standing = _parse(storage.create(self._url, self._record()))
        if removed and standing.get("token") == self._token:
            time.sleep(SETTLING_S)
            return _read(self._url) or self._create(removed)
        return standing

    def release(self) -> None:
        """Give it back, if it still is ours."""
        self._ended.set()
        self._thread.join(BEAT_S)
        if not self._thread.is_alive() and self.holds():  # else the place does not answer
            storage.remove(self._url)

    def holds(self) -> bool:
        """Look whether it still is ours."""
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
    """Take the right to write *room* for this process, which may have it already.

    Raises:
        InputError: another process has it.
    """
    key = storage.absolute(room)
    with _taking:  # else two threads of one process refuse each other
        if key in _held and not _held[key].lost:
            return
        lease = Lease(room)
        lease.take()
        _held[key] = lease


def confirm(room: str) -> None:
    """Refuse if another process took the right over, because this one seemed dead."""
    lease = _held.get(storage.absolute(room))
    if lease is not None and not lease.holds():
        raise InputError(f"{room}: another run took over this room meanwhile; run the same command again")


def release(room: str) -> None:
    """Give the right back, if this process has it."""
    lease = _held.pop(storage.absolute(room), None)
    if lease is not None:
        lease.release()


@atexit.register
def release_all() -> None:
    """Give back all that this process has, of rooms that it did not complete."""
    for room in list(_held):
        with suppress(InputError, RunError, OSError):  # who comes next finds out that this process is gone
            _held.pop(room).release()


def _this_process() -> dict[str, Any]:
    """What tells this process from all others, on all machines and in all containers."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    machine = [boot.read_text().strip(), str(namespace.readlink())] if boot.exists() else None
    started = _started(os.getpid()) if machine else None
    return {"machine": machine, "host": os.uname().nodename, "process": os.getpid(), "started": started}


def _started(process: int) -> int | None:
    """When a process began, in ticks since its machine did, as clocks may be set; None if it is gone."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[19])


def _is_alive(url: str, standing: dict[str, Any]) -> bool:
    machine = _this_process()["machine"]
    if machine is not None and standing.get("machine") == machine:
        started = _started(standing.get("process", 0))
        return started is not None and started == standing.get("started")
    logger.info(f"{url}: left by a run on {standing.get('host')}; looking whether it still runs")
    for _ in range(BEATS_OF_SILENCE):
        time.sleep(BEAT_S)
        if (now := _read(url)) != standing:
            return bool(now)
    return False


def _read(url: str) -> dict[str, Any]:
    """The record; an empty one where there is none."""
    try:
        return _parse(storage.read_bytes(url))
    except storage.UnreadableFile as error:
        if not error.missing:  # which is no sign that another process is there
            raise
        return {}


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
