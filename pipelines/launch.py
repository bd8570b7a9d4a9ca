"""Start a job by its command line, as a person would, and follow it until it ends."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import IO, Any

import psutil
from prefect import get_run_logger, task

from jobs.arguments import to_arguments
from jobs.options import Options
from lglm_core.errors import InputError, RunError
from pipelines.flow_jobs import Job
from pipelines.options import Cluster
from pipelines.ray_jobs import run_on_cluster

SECONDS_TO_STOP = 8.0


class _OneLine(logging.Filter):
    """Drops the traceback of an error whose message says everything."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], InputError | RunError):
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneLine())


def run_job(job: Job, cluster: Cluster) -> None:
    """Run one job as a task of the flow, named after its verb.

    Raises:
        InputError, RunError: the job's own last line, by its exit code.
    """
    _job.with_options(name=job.verb)(job, cluster)


@task
def _job(job: Job, cluster: Cluster) -> None:
    launch(job.verb, job.options, cluster, source=job.source, on_line=get_run_logger().info)


def launch(
    verb: str,
    options: Options,
    cluster: Cluster,
    *,
    source: str | None = None,
    on_line: Callable[[str], Any] = print,
) -> None:
    """Run ``lglm VERB``: as a job of the cluster whose Jobs API is named, else as a process of its own.

    Args:
        verb: The job.
        options: Its options.
        cluster: Where it runs; without an http address, the process finds its Ray by itself.
        source: The kind of source, for verbs that take one.
        on_line: Gets every line that the job prints.

    Raises:
        InputError, RunError: the job's own last line, by its exit code.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        on_line(line)

    given = [source] if source else []
    address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or ""
    if address.startswith(("http://", "https://")):
        given += to_arguments(options.absolute())
        code = run_on_cluster(address, verb, given, code=cluster.code, on_line=keep)
    else:
        if "ray_address" in type(options).model_fields and cluster.ray_address:
            given.append(f"--ray-address={cluster.ray_address}")
        code = _run_here(verb, [*given, *to_arguments(options)], keep)
    if code:
        ours = [line for line in lines if line.startswith(f"lglm {verb}: ")]  # other lines may follow it
        message = ours[-1] if ours else f"lglm {verb}: ended with exit code {code}"
        raise InputError(message) if code == 2 else RunError(message)


def _run_here(verb: str, arguments: Sequence[str], on_line: Callable[[str], None]) -> int:
    """Run a job as a process on this machine and return its exit code."""
    command = [sys.executable, "-m", f"jobs.{verb.replace('-', '_')}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    reader = Thread(target=_follow, args=(process.stderr, on_line), daemon=True)
    reader.start()
    try:
        _follow(process.stdout, on_line)
        return process.wait()
    finally:
        if process.poll() is None:  # the flow is cancelled
            _stop(process)
        reader.join(timeout=5)  # a process that outlives a killed job may hold the pipe


def _stop(process: "subprocess.Popen[str]") -> None:
    """Let the job clean up, which also ends its local Ray; kill what does not end in time."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_STOP)
    process.kill()  # does nothing to a process that has ended
    for other in started:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()


def _follow(stream: IO[str], on_line: Callable[[str], None]) -> None:
    for line in stream:
        if text := line.rstrip():
            on_line(text)
