"""What all tests share: verbs, servers and rooms; the order in which they run, and what they may leave.

Tests whose fixtures start a process or a server get the mark ``process``, and those that train a model the
mark ``weighty``. pytest-xdist hands out whole files, as tests of one file share what their module makes, and
those that start processes first, so that the many quick ones fill up what time is left on either core.
"""

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.jobs.commands import Commands, Here
from tests.servers.ray_in_process import ray_in_process
from tests.servers.s3 import S3Server, moto_s3, rclone_s3

MARK = "LGLM_TEST_SESSION"
SECONDS_TO_VANISH = 20.0  # Ray's helpers notice the end of their driver after a while
# Fixtures; files that start processes or train by themselves say so.
STARTING_PROCESSES = {"lglm", "rclone", "moto", "connect_to"}
TRAINING = {"tiny_run"}
# Files whose tests start several nodes or servers: two at once would wait for each other on two cores.
CLUSTERS = ("test_buckets", "test_on_a_cluster", "test_deployments", "test_flows")
LONGEST_FIRST = ("test_train_evaluate_tag", "test_demo", "test_shuffled_labels", "test_shard_killed")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(MARK, uuid4().hex)  # every process started from here inherits it
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share few cores
    if not is_worker():
        config.pluginmanager.register(MinutesPerFolder())


def is_worker() -> bool:
    """Whether this is a process that pytest-xdist started."""
    return "PYTEST_XDIST_WORKER" in os.environ


# --- Which test runs where, and when ---


@pytest.hookimpl(tryfirst=True)  # pytest selects by marks in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" not in config.option.markexpr:
        left_out = {item for item in items if "chaos" in item.keywords and "diagonal" not in item.keywords}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        fixtures = {*getattr(item, "fixturenames", ())}
        if fixtures & STARTING_PROCESSES:
            item.add_marker("process")
        if fixtures & TRAINING:
            item.add_marker("weighty")
    rank = {name: place for place, name in enumerate((*CLUSTERS, *LONGEST_FIRST))}
    starting = {item.path for item in items if "process" in item.keywords}
    items.sort(key=lambda item: (rank.get(item.path.stem, len(rank)), item.path not in starting))


class ByFile(LoadScopeScheduling):
    """Hands out the tests of a file together, in the order of collection, and all clusters to one process."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clusters" if Path(file).stem in CLUSTERS else file


@pytest.hookimpl(optionalhook=True)  # also without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


# --- How long they took ---


class MinutesPerFolder:
    """Adds up what the tests of each folder took, in whatever process they ran, and prints it at the end."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folder = report.nodeid.partition("::")[0].rpartition("/")[0]
        self.seconds[folder] += report.duration
        self.tests[folder] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self.seconds) < 2:
            return
        terminalreporter.section("minutes per folder")
        for folder, seconds in self.seconds.most_common():
            terminalreporter.line(f"{seconds / 60:6.2f}  {folder} ({self.tests[folder]} tests)")
        terminalreporter.line(f"{self.seconds.total() / 60:6.2f}  in all, on as many cores as there were")


# --- What they share ---


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Here:
    """Verbs in this process: those that need no Ray, or that :func:`without_ray` gives one."""
    return Here(capfd)


@pytest.fixture
def without_ray() -> Iterator[None]:
    """Carry out in this process what jobs ask of Ray; a job in it costs a second in place of fifteen."""
    with ray_in_process():
        yield


@pytest.fixture(scope="session")
def lglm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Verbs as processes of their own."""
    ray_temporary = Path(mkdtemp(prefix="lglm-test-", dir="/tmp"))  # Ray's sockets need a short path
    yield Commands(tmp_path_factory.mktemp("cwd"), tmp_path_factory.mktemp("tmp"), ray_temporary)
    shutil.rmtree(ray_temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with a bucket ``bucket``; every test writes below a prefix of its own."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        server.put_bucket("bucket")
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """Another S3 server with a bucket ``bucket``; every test writes below a prefix of its own."""
    with moto_s3() as server:
        server.put_bucket("bucket")
        yield server


@pytest.fixture
def connect_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Reach a server as a user does: ``connect_to(server, AWS_…="changed")``; None takes a variable away."""
    import botocore.session

    from lglm_core.storage import retry
    from lglm_core.storage.s3_client import connect

    def to(server: S3Server, **changed: str | None) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**server.environment, **changed}.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        connect.cache_clear()

    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.01)  # otherwise the tests wait most of their time
    monkeypatch.setattr(botocore.session, "create_loader", shared_loader)
    yield to
    connect.cache_clear()


@cache
def shared_loader(search_path: str | None = None) -> Any:
    """Botocore's loader, which reads its description of S3 once and not once for each client."""
    from botocore.loaders import create_loader

    return create_loader(search_path)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A folder that all workers of pytest-xdist share, held by one at a time.

    What makes a room in it may simply be run by each: the second finds it complete.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if is_worker() else base

    @contextmanager
    def hold(name: str) -> Iterator[Path]:
        folder = base / "made-once"
        folder.mkdir(exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder / name

    return hold


# --- Nothing may be left behind ---


def pytest_sessionfinish(session: pytest.Session) -> None:
    if is_worker():
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
