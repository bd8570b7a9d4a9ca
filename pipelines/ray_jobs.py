"""Jobs on a Ray cluster: submit the command line that a person would, by the Jobs API, and follow it.

This is the only module outside ``jobs`` that imports Ray, and it imports only this client.
"""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.command_line import REQUIRED_VERSION
from lglm_core import __version__
from lglm_core.errors import InputError, RunError
from pipelines.options import Code
from pipelines.servers import refuse_unreachable, without_secrets

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PACKAGES = ("lglm_core", "jobs")  # what a job on the cluster imports
SECONDS_TO_STOP = 12.0
SECONDS_WITHOUT_CONTACT = 120.0
BETWEEN_ATTEMPTS_S = 2.0
CHATTY = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")


def run_on_cluster(
    address: str, verb: str, arguments: Sequence[str], *, code: Code, on_line: Callable[[str], Any]
) -> int:
    """Run ``lglm VERB`` as a job of the cluster, or attach to the same job if it is running.

    Args:
        address: Address of the Jobs API, such as ``http://head:8265``.
        verb: The job.
        arguments: The arguments of the command line; URLs in them must mean the same on the cluster.
        code: Whether our packages are sent along, or those in the cluster's image are used.
        on_line: Gets every line of the job's log.

    Returns:
        The job's exit code.

    Raises:
        InputError: no cluster answers there, or it denies access.
        RunError: contact with the cluster was lost, or the cluster lost the job.
    """
    client = _connect(address)
    command = shlex.join(["python", "-m", f"jobs.{verb.replace('-', '_')}", *arguments])
    identity = hashlib.sha256("\n".join([command, __version__, _digest_of_code()]).encode()).hexdigest()
    job = f"lglm-{verb}-{identity[:16]}"
    with _refusals(address):
        _submit_unless_running(client, job, command, code)
    on_line(f"{job} on {without_secrets(address)}")
    try:
        return asyncio.run(_follow(client, job, on_line))
    except RunError:
        raise
    except BaseException:  # the flow is cancelled
        with suppress(Exception):  # the cause of the cancellation must not be replaced by another error
            _stop(client, job)
        raise


def _connect(address: str) -> "JobSubmissionClient":
    refuse_unreachable(f"{address.rstrip('/')}/api/version", without_secrets(address), "Ray Jobs API")
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:  # our own lines say it better
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # the client prefers the environment to its argument
    with _refusals(address):
        return JobSubmissionClient(address)


def _submit_unless_running(client: "JobSubmissionClient", job: str, command: str, code: Code) -> None:
    known = {details.submission_id: details.status for details in client.list_jobs()}
    if job in known:
        if not known[job].is_terminal():
            return
        client.delete_job(job)  # whether a room is complete decides, not an earlier attempt
    runtime: dict[str, Any] = {"env_vars": {REQUIRED_VERSION: __version__}}
    if code == "sent":
        runtime |= {
            "py_modules": [str(folder) for folder in _folders()],
            "excludes": ["__pycache__", "*.pyc"],
        }
    client.submit_job(entrypoint=command, submission_id=job, runtime_env=runtime)


def _folders() -> Iterator[Path]:
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec and spec.origin
        yield Path(spec.origin).parent


def _digest_of_code() -> str:
    digest = hashlib.sha256()
    for folder in _folders():
        for file in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".j2")):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


async def _follow(client: "JobSubmissionClient", job: str, on_line: Callable[[str], Any]) -> int:
    """Pass on the job's log line by line until the job has ended; reconnect where the connection is lost."""
    from aiohttp import ClientError

    passed_on, lost_since = 0, None
    while True:
        try:
            read, rest = 0, ""
            async for chunk in client.tail_job_logs(job):
                *lines, rest = re.split(r"[\r\n]", rest + chunk)
                for line in lines:
                    read += 1
                    if read > passed_on and line.strip():
                        on_line(line.rstrip())
                passed_on, lost_since = max(passed_on, read), None
            details = client.get_job_info(job)
            if details.status.is_terminal():
                if rest.strip():
                    on_line(rest.rstrip())
                return _exit_code(job, details)
        except (ClientError, OSError, RuntimeError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > SECONDS_WITHOUT_CONTACT:
                raise RunError(
                    f"{job}: contact with the Ray cluster is lost ({error}); the job may still run there; "
                    "run the same command again to attach to it"
                ) from error
        await asyncio.sleep(BETWEEN_ATTEMPTS_S)


def _stop(client: "JobSubmissionClient", job: str) -> None:
    """Stop the job and wait until it has ended."""
    client.stop_job(job)
    deadline = time.monotonic() + SECONDS_TO_STOP
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.2)


def _exit_code(job: str, details: "JobDetails") -> int:
    if details.status == "SUCCEEDED":
        return 0
    if details.driver_exit_code is None:  # it never ran, or its process was lost
        reason = " ".join(str(details.message).split())
        raise RunError(f"{job}: {details.status.lower()} on the Ray cluster ({reason})")
    return int(details.driver_exit_code)


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError

    where = without_secrets(address)
    try:
        yield
    except AuthenticationError as error:
        token = "the given one is wrong" if "RAY_AUTH_TOKEN" in os.environ else "none is given"
        raise InputError(
            f"{where}: the Ray cluster asks for a token, and {token}; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as on the cluster, before Ray is imported"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: the Ray Jobs API refuses the request ({reason})") from error
