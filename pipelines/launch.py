"""Start a job by its command line, as a person would, and follow it to its end."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from threading import Thread
from typing import IO, Any

from prefect import get_run_logger, task

from jobs.command_line import to_arguments
from jobs.options import Options
from lglm_core.errors import InputError, RunError


class _OneLine(logging.Filter):
    """Keeps Prefect from telling the traceback of an error whose message already says all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], InputError | RunError):
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneLine())


def run_job(verb: str, options: Options, *, choice: str | None = None) -> dict[str, Any]:
    """Run one job as a task of the flow, named after its verb.

    Returns:
        The object that the job's ``--json`` prints.

    Raises:
        InputError, RunError: the job's own last line, by its exit code.
    """
    result: Any = _job.with_options(name=verb)(verb, options, choice)
    return result


@task
def _job(verb: str, options: Options, choice: str | None) -> Any:
    return launch(verb, options, choice=choice, say=get_run_logger().info)


def launch(
    verb: str, options: Options, *, choice: str | None = None, say: Callable[[str], Any] = print
) -> dict[str, Any]:
    """Run ``lglm VERB`` as a process of its own.

    Args:
        verb: The job.
        options: Its options.
        choice: The kind of source, for ``shard``.
        say: Gets every line the job prints.

    Returns, raises: as :func:`run_job`.
    """
    module = f"jobs.{verb.replace('-', '_')}"
    command = [sys.executable, "-m", module, *([choice] if choice else []), *to_arguments(options), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    errors: list[str] = []
    printed: list[str] = []
    reader = Thread(target=_follow, args=(process.stderr, errors, say))
    reader.start()
    try:
        _follow(process.stdout, printed, lambda line: None if line.startswith("{") else say(line))
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        reader.join()
    if code:
        ours = [line for line in errors if line.startswith(f"lglm {verb}: ")]  # others may speak after it
        message = ours[-1] if ours else f"lglm {verb}: ended with exit code {code}"
        raise InputError(message) if code == 2 else RunError(message)
    result: dict[str, Any] = json.loads(printed[-1])
    return result


def _follow(stream: IO[str], lines: list[str], say: Callable[[str], Any]) -> None:
    for line in stream:
        if text := line.rstrip():
            lines.append(text)
            say(text)
