"""A server as a process in a session of its own, ready when the block begins and gone when it ends."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from uuid import uuid4

MARK = "LGLM_TEST_SERVER"  # in the environment of a server and of all that it starts
PORTS = range(20_000, 32_000)  # below those that the kernel hands out, above Ray's for its workers
ATTEMPTS = 3


class ServerFailed(Exception):
    """It did not come up; the message shows the end of its log."""


class EndedEarly(ServerFailed):
    """It ended before it was ready."""


class PortTaken(EndedEarly):
    """Because somebody else was quicker to take its port."""


class Server:
    """A process and all that it starts, whatever sessions, groups or titles these give themselves."""

    def __init__(self, command: Sequence[object], environment: Mapping[str, str], cwd: Path | None) -> None:
        self.name = Path(str(command[0])).name
        self.log: IO[bytes] = TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        mark = f"{MARK}={uuid4().hex}"
        self._mark = mark.encode()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**environment, MARK: mark.partition("=")[2]},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._sessions = {self.process.pid}

    def processes(self) -> set[int]:
        """Those alive: with our mark, below ours, or in a session that one of ours began.

        Three ways, because a process that changes its title loses its environment in /proc, and one
        whose parent ended loses its parent.
        """
        family = dict(living())
        found = {pid for pid in family if self._mark in environment_of(pid)}
        while True:
            self._sessions |= {family[pid][1] for pid in found}
            more = {
                pid
                for pid, (parent, session) in family.items()
                if session in self._sessions or parent in found
            }
            if more <= found:
                return found
            found |= more

    def listens(self, port: int) -> bool:
        """Whether the port is ours, and not that of another who took it meanwhile."""
        held = {f"socket:[{inode}]" for inode in listeners(port)}
        return bool(held) and any(held & descriptors(pid) for pid in self.processes())

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        self.log.seek(0)
        return b"\n".join(self.log.read().splitlines()[-lines:]).decode(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll until *ready*; a server that ends before, or takes too long, is an error with its log."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                tail = self.tail()
                kind = PortTaken if "in use" in tail.lower() else EndedEarly
                raise kind(f"{self.name} ended with {self.process.returncode} before it was ready:\n{tail}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} was not ready after {timeout_s:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def end(self, grace_s: float) -> None:
        """SIGTERM to the process, a while to tidy up, SIGKILL to whatever is left."""
        self.processes()  # notes their sessions while their parents still stand
        if self.process.poll() is None:
            self.process.terminate()
        deadline = time.monotonic() + grace_s
        while (remaining := self.processes()) and time.monotonic() < deadline:
            self.process.poll()  # reaps it
            time.sleep(0.02)
        while remaining:
            for pid in remaining:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.poll()
            time.sleep(0.02)
            remaining = self.processes()
        self.process.wait()
        self.log.close()


@contextmanager
def started(
    command: Sequence[object],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    grace_s: float = 5.0,
) -> Iterator[Server]:
    """Start a server; when the block ends, however it ends, nothing of it is left."""
    server = Server(command, environment, cwd)
    try:
        yield server
    finally:
        server.end(grace_s)


@contextmanager
def listening(
    command: Callable[[int], Sequence[object]],
    environment: Mapping[str, str],
    ready: Callable[[int], bool],
    *,
    timeout_s: float,
    grace_s: float = 5.0,
) -> Iterator[int]:
    """Start a server on a free port and yield the port once it listens there and is *ready*."""
    for attempt in range(1, ATTEMPTS + 1):
        (port,) = free_ports(1)
        with started(command(port), environment, grace_s=grace_s) as server:
            try:
                server.wait_until(lambda: server.listens(port) and ready(port), timeout_s)  # noqa: B023
            except PortTaken:
                if attempt == ATTEMPTS:
                    raise
                continue
            yield port
            return


def with_our_commands(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which ``python`` and ``lglm`` are those that run the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return {**environment, "PATH": path}


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens now; drawn at random, so that parallel tests rarely draw the same."""
    free: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError(f"{count} free ports wanted, {len(free)} found")


def living() -> Iterator[tuple[int, tuple[int, int]]]:
    """Each process that is no zombie, with its parent and its session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session, *_ = (folder / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # ended meanwhile
        if state not in "ZX":
            yield int(folder.name), (int(parent), int(session))


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def descriptors(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(str(link.readlink()))
    except OSError:
        pass  # ended, or closed one, meanwhile
    return found


def listeners(port: int) -> list[str]:
    """The inodes of the sockets that listen on a port."""
    rows = []
    for table in ("tcp", "tcp6"):
        try:
            rows += [row.split() for row in Path("/proc/net", table).read_text().splitlines()[1:]]
        except OSError:
            continue  # no IPv6 here
    return [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
