"""Start a job by its command line, as a person would, and follow it to its end."""

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

from jobs.command_line import to_arguments
from jobs.options import Options
from lglm_core.errors import InputError, RunError
from pipelines.options import Cluster
from pipelines.ray_jobs import run_on_cluster

SECONDS_TO_STOP = 8.0


class _OneLine(logging.Filter):
    """Keeps Prefect from telling the traceback of an error whose message already says all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], InputError | RunError):
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneLine())


def run_job(verb: str, options: Options, cluster: Cluster, *, choice: str | None = None) -> None:
    """Run one job as a task of the flow, named after its verb.

    Raises:
        InputError, RunError: the job's own last line, by its exit code.
    """
    _job.with_options(name=verb)(verb, options, cluster, choice)


@task
def _job(verb: str, options: Options, cluster: Cluster, choice: str | None) -> None:
    launch(verb, options, cluster, choice=choice, say=get_run_logger().info)


def launch(
    verb: str,
    options: Options,
    cluster: Cluster,
    *,
    choice: str | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Run ``lglm VERB``: as a job of the cluster whose Jobs API is named, else as a process of its own.

    Args:
        verb: The job.
        options: Its options.
        cluster: Where; without an http address, the process finds its Ray by itself.
        choice: The kind of source, for ``shard``.
        say: Gets every line the job prints.

    Raises:
        InputError, RunError: the job's own last line, by its exit code.
    """
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        say(line)

    given = [choice] if choice else []
    address = cluster.ray_address or os.environ.get("RAY_ADDRESS") or ""
    if address.startswith(("http://", "https://")):
        given += to_arguments(options.absolute())
        code = run_on_cluster(address, verb, given, code=cluster.code, say=hear)
    else:
        if "ray_address" in type(options).model_fields and cluster.ray_address:
            given.append(f"--ray-address={cluster.ray_address}")
        code = _run_here(verb, [*given, *to_arguments(options)], hear)
    if code:
        ours = [line for line in lines if line.startswith(f"lglm {verb}: ")]  # others may speak after it
        message = ours[-1] if ours else f"lglm {verb}: ended with exit code {code}"
        raise InputError(message) if code == 2 else RunError(message)


def _run_here(verb: str, arguments: Sequence[str], hear: Callable[[str], None]) -> int:
    command = [sys.executable, "-m", f"jobs.{verb.replace('-', '_')}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    reader = Thread(target=_follow, args=(process.stderr, hear), daemon=True)
    reader.start()
    try:
        _follow(process.stdout, hear)
        return process.wait()
    finally:
        if process.poll() is None:  # the flow is cancelled
            _stop(process)
        reader.join(timeout=5)  # what the job started may outlive a killed job, and hold the pipe


def _stop(process: "subprocess.Popen[str]") -> None:
    """Let the job tidy up, which ends its local Ray too; kill what takes too long about it."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_STOP)
    process.kill()  # of one that has ended, nothing
    for other in started:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()


def _follow(stream: IO[str], hear: Callable[[str], None]) -> None:
    for line in stream:
        if text := line.rstrip():
            hear(text)
