"""The frame that every job runs in: parse, run, print a summary; an error becomes one line and an exit code.

A job is a function from its options to an :class:`Outcome`. What it raises becomes one line on stderr and an
exit code: 2 for bad usage or input, 1 for a failure while running.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jobs.arguments import Choices, parse, with_flags
from jobs.options import Options
from lglm_core import __version__, storage
from lglm_core.errors import DamageError, InputError, RunError
from lglm_core.rooms import release_all

REQUIRED_VERSION = "LGLM_REQUIRED_VERSION"
"""Environment variable by which a flow tells a job on a cluster which lglm it expects to find there."""

WRITTEN_BY = {
    "dataset": "shard",
    "label-embeddings": "label-embeddings",
    "run": "train",
    "model": "train",
    "evaluation": "evaluate",
    "embeddings": "embed",
    "tags": "tag",
    "explanation": "explain",
}
"""The verb that writes each kind of room."""


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    ``status`` is ``done`` or ``already complete``; ``summary`` is for people, the rest also for ``--json``.
    """

    status: str
    out: str | None
    summary: str
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def main(
    verb: str,
    options: type[Options] | Choices,
    run: Callable[[Any], Outcome],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one job from its command line and return the exit code.

    Args:
        verb: The job's name.
        options: Its options class, or one by name where the first argument chooses.
        run: The job.
        argv: Arguments; default those of the process.
    """
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    kind: type[Options] = Options  # until the arguments are parsed
    _log_to_stderr()
    try:
        with _sigterm_interrupts() as terminated:
            _refuse_another_version()
            chosen, as_json = parse(verb, options, argv)
            kind = type(chosen)
            outcome = run(chosen)
    except KeyboardInterrupt:
        code = 143 if terminated.is_set() else 130
        return _fail(verb, "interrupted; run the same command again to continue", code)
    except Exception as error:  # the one place where an error becomes a line
        return _report(verb, error, kind)
    finally:
        release_all()
    print(outcome.summary)
    if as_json:
        result = {
            "verb": verb,
            "status": outcome.status,
            "out": outcome.out,
            "counts": dict(outcome.counts),
            "metrics": dict(outcome.metrics),
            "seconds": round(time.perf_counter() - started, 3),
        }
        print(json.dumps(result), flush=True)
    return 0


@contextmanager
def _sigterm_interrupts() -> Iterator[threading.Event]:
    """Let SIGTERM interrupt as Ctrl-C does, so that a job can clean up; yield an event that tells of it."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated  # only the main thread may handle signals
        return

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        terminated.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_another_version() -> None:
    required = os.environ.get(REQUIRED_VERSION, __version__)
    if required != __version__:
        raise InputError(
            f"lglm {__version__} is installed here, but the flow that started this job is lglm {required}; "
            "bring both to one version, or let the flow send its code along (--code sent)"
        )


def _log_to_stderr() -> None:
    """Show our own log lines, and none of the libraries'."""
    logger = logging.getLogger("lglm")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _report(verb: str, error: Exception, kind: type[Options]) -> int:
    """Print the one line that an error ends with, in the words of the command line; return the exit code."""
    cause = _known_cause(error)
    if cause is None:
        traceback.print_exception(error)  # a fault of ours: the whole story, then one line
        return _fail(verb, f"failed: {type(error).__name__}: {_last_line(error)}", 1)
    message = with_flags(" ".join(str(cause).split()), kind)
    if writer := WRITTEN_BY.get(getattr(cause, "missing_kind", "")):
        message += f"; lglm {writer} writes one"
    return _fail(verb, message, 2 if isinstance(cause, InputError) else 1)


def _known_cause(error: BaseException) -> Exception | None:
    """Return the outermost error of ours: one that was raised from another says more than the other."""
    return next(
        (cause for cause in _causes(error) if isinstance(cause, InputError | DamageError | RunError)), None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first.

    An error that Ray has wrapped comes before its wrapper, which may be of the same type.
    """
    if error is None:
        return
    # Ray Train keeps its workers' errors in worker_failures, Ray's tasks theirs in cause.
    failures = getattr(error, "worker_failures", None) or {}
    for wrapped in (*failures.values(), getattr(error, "cause", None)):
        if isinstance(wrapped, BaseException) and wrapped is not error:
            yield from _causes(wrapped)
    yield error
    yield from _causes(error.__cause__)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else ""


def _fail(verb: str, message: str, code: int) -> int:
    print(f"lglm {verb}: {storage.redact(message)}", file=sys.stderr, flush=True)
    return code
