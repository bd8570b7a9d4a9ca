"""Connect a job to Ray, a cluster by address or a local Ray of its own; run tasks on it."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from lglm_core.errors import InputError

OBJECT_STORE_BYTES = 256 << 20  # data lies in rooms; the object store only passes lists of work
LONGEST_TEMPORARY_PATH = 40  # characters; Ray's sockets below it must stay under 108
SECONDS_TO_ANSWER = 10.0
Result = TypeVar("Result")


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to Ray while the block runs.

    Args:
        address: Address of a cluster; default $RAY_ADDRESS, else a local Ray is started and ends with the
            block. A cluster that merely happens to run on this machine is never used.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    temporary = None if address else _temporary_folder()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default; silences a warning
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its failures reach us as exceptions
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else a wrong token is tried for 20 s
    elif "RAY_AUTH_TOKEN" not in os.environ:
        # A token for this Ray alone; without one, Ray would write a token into the user's home.
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    import ray

    local: dict[str, Any] = {
        "num_cpus": len(os.sched_getaffinity(0)),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": temporary,
    }
    try:
        _connect(address, {} if address else local)
        yield
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _connect(address: str | None, options: dict[str, Any]) -> None:
    """Initialise Ray; refuse, in one line, a cluster that does not answer or does not let us in."""
    if address:
        _refuse_unreachable(address)
        logging.getLogger("lglm.cluster").info(f"connecting to Ray at {address}")
    import ray
    from ray.exceptions import AuthenticationError

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet_stderr():
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
    except (AuthenticationError, ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        if not address:
            raise InputError(f"the local Ray does not start ({reason})") from error
        raise InputError(
            f"{address}: something listens there, but Ray cannot connect to it ({reason}); if the cluster "
            "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as there"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets its own handler, which does not clean up


def _refuse_unreachable(address: str) -> None:
    """Refuse an address at which nothing listens, before Ray tries for a long time."""
    if address in ("auto", "local"):
        return
    scheme, _, rest = address.rpartition("://")
    if scheme.startswith("http"):
        raise InputError(
            f"{address}: this is the address of a Jobs API; send this command there with ray job submit, or "
            "give the address of the cluster itself, as host:6379 or ray://host:10001"
        )
    host, _, port = rest.partition("/")[0].rpartition(":")
    if not port.isdecimal():
        raise InputError(
            f"{address}: not the address of a Ray cluster; host:6379 or ray://host:10001 was expected"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER):
            pass
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address} ({error})") from error


def cpus() -> int:
    """Return how many CPUs the connected cluster has."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def cpus_of_smallest_node() -> int:
    """Return how many CPUs the smallest node that has any can offer to one actor."""
    import ray

    nodes = [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Resources"].get("CPU")]
    return min(nodes, default=1)


def gpus() -> int:
    """Return how many GPUs the connected cluster has."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def refuse_more_workers_than_cpus(workers: int, address: str | None) -> None:
    """Refuse more workers than a local Ray can ever start; a cluster may still grow."""
    here = len(os.sched_getaffinity(0))
    if not (address or os.environ.get("RAY_ADDRESS")) and workers > here:
        raise InputError(f"--num-workers {workers}: this machine has {here} CPUs; start {here} at most")


def run_tasks(
    function: Callable[..., Result],
    calls: Sequence[tuple[Any, ...]],
    progress: str,
    after_each: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Run ``function(*call)`` for every call as Ray tasks, one CPU each; return results in call order.

    Args:
        function: Runs on the workers.
        calls: The arguments of each call.
        progress: What the progress bar says.
        after_each: Called here after each result; may raise to stop.
    """
    import ray

    remote = ray.remote(num_cpus=1)(function)
    window = 2 * cpus()  # bounded: a plan of 10,000 shards must not be queued as a whole
    pending: dict[Any, int] = {}
    results: dict[int, Result] = {}
    with progress_bar(len(calls), progress) as bar:
        for number, call in enumerate(calls):
            if len(pending) >= window:
                _collect_one(pending, results, bar)
                after_each()
            pending[remote.remote(*call)] = number
        while pending:
            _collect_one(pending, results, bar)
            after_each()
    return [results[number] for number in range(len(calls))]


def _collect_one(pending: dict[Any, int], results: dict[int, Result], bar: tqdm) -> None:
    import ray

    (ready,), _ = ray.wait(list(pending), num_returns=1)
    results[pending.pop(ready)] = ray.get(ready)
    bar.update()


def progress_bar(total: int, description: str) -> tqdm:
    """Return a progress bar on stderr that also reads well in a log file."""
    seconds = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(total=total, desc=description, mininterval=seconds, file=sys.stderr, dynamic_ncols=True)


@contextmanager
def lines_from_workers(log: Callable[[str], None]) -> Iterator[Any]:
    """Yield a queue; every line that a worker puts into it is logged here while the block runs."""
    from ray.exceptions import RayError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    def relay() -> None:
        while (line := queue.get()) is not None:
            log(line)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        with suppress(RayError):  # where Ray is gone, the error that ended the block says why
            queue.put(None)
            thread.join(timeout=10)
            queue.shutdown()


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr, where Ray's core announces its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _temporary_folder() -> str:
    """Make a folder for Ray's files whose path is short enough for its sockets."""
    wanted = os.environ.get("RAY_TMPDIR")
    if wanted and len(str(Path(wanted).absolute())) <= LONGEST_TEMPORARY_PATH:
        Path(wanted).mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(dir=Path(wanted).absolute())
    return tempfile.mkdtemp(prefix="lglm-ray-", dir="/tmp")
