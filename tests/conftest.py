"""No test may leave a process behind: the session fails if one does."""

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

MARK = "LGLM_TEST_SESSION"
SECONDS_TO_VANISH = 20.0  # Ray's helpers notice the end of their driver after a while


def pytest_configure() -> None:
    os.environ.setdefault(MARK, uuid4().hex)  # every process started from here inherits it


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the controlling process looks, once all workers are done
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while (left := processes_left()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nprocesses left behind:", *left, sep="\n  ")


def processes_left() -> list[str]:
    """Describe the processes that carry this session's mark, apart from this one and its own."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile, or another user's
        if marked and int(folder.name) != os.getpid() and command.strip():
            found.append(f"{folder.name}: {command[:200]}")
    return found
