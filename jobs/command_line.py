"""From an options class to a command line, and back; the frame that every job runs in.

A job is a function from its options to an :class:`Outcome`. What it raises becomes one line on stderr
and an exit code: 2 for bad usage or input, 1 for a failure while running.
"""

import argparse
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
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from jobs.options import Options
from lglm_core import __version__, storage
from lglm_core.errors import DamageError, InputError, RunError
from lglm_core.rooms import lease

OptionsType = TypeVar("OptionsType", bound=Options)
Choices = Mapping[str, type[Options]]

REQUIRED_VERSION = "LGLM_REQUIRED_VERSION"
"""Environment variable by which a flow tells a job on a cluster which lglm it expects to find there."""


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    ``status`` is ``done`` or ``already complete``; ``summary`` is for people, the rest also for ``--json``.
    """

    status: str
    out: str | None
    summary: str
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse in one line."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


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
    _log_to_stderr()
    try:
        with _sigterm_interrupts() as terminated:
            _refuse_another_version()
            chosen, as_json = parse(verb, options, argv)
            outcome = run(chosen)
    except KeyboardInterrupt:
        code = 143 if terminated.is_set() else 130
        return _fail(verb, "interrupted; the same command again goes on from here", code)
    except Exception as error:  # the one place where an error becomes a line
        return _report(verb, error)
    finally:
        lease.release_all()
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
    """Let SIGTERM do what Ctrl-C does, so that what is running tidies up; yield whether it came."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated  # only the main thread may handle signals
        return

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; tidying up is not interrupted
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
    """Show our own log lines; what libraries have to say stays with them."""
    logger = logging.getLogger("lglm")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def parse(verb: str, options: type[Options] | Choices, argv: Sequence[str]) -> tuple[Options, bool]:
    """Parse arguments into options; the second value tells whether ``--json`` was given."""
    parser = _Parser(prog=f"lglm {verb}", allow_abbrev=False)
    if isinstance(options, Mapping):
        choices = parser.add_subparsers(dest="_choice", required=True, metavar="|".join(options))
        for name, kind in options.items():
            _add_options(
                choices.add_parser(name, help=kind.__doc__, description=kind.__doc__, allow_abbrev=False),
                kind,
            )
    else:
        parser.description = options.__doc__
        _add_options(parser, options)
    namespace, unknown = parser.parse_known_args(argv)
    given = vars(namespace)
    choice = given.pop("_choice", None)
    kind = options[choice] if isinstance(options, Mapping) else options
    if unknown:  # parse_args would point to the help of the verb, which lists no options of a choice
        parser.prog += f" {choice}" if choice else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_as_option(unknown, kind)}")
    as_json, config = given.pop("_json"), given.pop("_config")
    from_config = _read_config(config) if config else {}
    places = {name: config for name in from_config if name not in given}
    command = f"lglm {verb}{f' {choice}' if choice else ''}"
    return validate(command, kind, {**from_config, **given}, places), as_json


def _as_option(unknown: Sequence[str], kind: type[Options]) -> str:
    """Advise how to give a lone word to the one option that must be given."""
    required = [name for name, info in kind.model_fields.items() if info.is_required()]
    if len(unknown) > 1 or unknown[0].startswith("-") or len(required) != 1:
        return ""
    return f"; expected {_flag(required[0])} {unknown[0]}"


def to_arguments(options: Options) -> list[str]:
    """Write options as the arguments that give them; those at their defaults are left out."""
    arguments = []
    for name, value in options.model_dump(exclude_defaults=True).items():
        flag = _flag(name)
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            values = value if isinstance(value, tuple) else [value]
            arguments += [f"{flag}={one}" for one in values]
    return arguments


def _add_options(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    for name, info in kind.model_fields.items():
        shared: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(info)}
        if info.annotation is bool:
            parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, **shared)
        elif get_origin(info.annotation) is tuple:
            parser.add_argument(_flag(name), nargs="+", action="extend", metavar=name.upper(), **shared)
        else:
            parser.add_argument(_flag(name), metavar=_metavar(name, info), **shared)
    parser.add_argument(
        "--config",
        dest="_config",
        metavar="FILE.yaml",
        help="Read options from a file; the command line wins.",
    )
    parser.add_argument(
        "--json", dest="_json", action="store_true", help="End with one JSON object on stdout."
    )


def _flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def _metavar(name: str, info: FieldInfo) -> str:
    choices = [choice for part in (info.annotation, *get_args(info.annotation)) for choice in get_args(part)]
    texts = [choice for choice in choices if isinstance(choice, str)]
    return "|".join(dict.fromkeys(texts)) or name.upper()


def _help(info: FieldInfo) -> str:
    default = "" if info.is_required() or info.default in (None, ()) else f" (default {info.default})"
    required = " (required)" if info.is_required() else ""
    text = " ".join(str(info.description).split())
    return f"{text}{default}{required}".replace("%", "%%")


def _read_config(path: str) -> dict[str, Any]:
    data = storage.read_bytes(path)
    try:
        values = yaml.safe_load(data.decode())
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of option names to values")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def validate(
    command: str, kind: type[OptionsType], values: Mapping[str, Any], places: Mapping[str, str] | None = None
) -> OptionsType:
    """Make options of values by name; refuse, as *command* would, the first that is wrong.

    Args:
        command: What people typed, whose help is pointed to.
        kind: The class of the options.
        values: What was given.
        places: By name, the files that gave a value, if not the command line did.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # A name that is unknown explains one that is missing, so it is named first.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        if not first["loc"]:  # a rule about several options
            raise InputError(f"{first['ctx']['error']}; see {command} --help") from error
        name = str(first["loc"][0])
        flag = _flag(name)
        where = f"{storage.redact_url(places[name])}: " if places and name in places else ""
        if first["type"] == "missing":
            raise InputError(f"the option {flag} is required; see {command} --help") from error
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}unknown option {flag}; see {command} --help") from error
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(f"{where}{flag}: {first['input']!r} was given; {message}") from error


def _report(verb: str, error: Exception) -> int:
    cause = _known_cause(error)
    if cause is None:
        traceback.print_exception(error)  # a fault of ours: the whole story, then one line
        return _fail(verb, f"failed: {type(error).__name__}: {_last_line(error)}", 1)
    return _fail(verb, " ".join(str(cause).split()), 2 if isinstance(cause, InputError) else 1)


def _known_cause(error: BaseException) -> Exception | None:
    """Find the outermost error of ours: where one stands for another, it says more than that."""
    return next(
        (cause for cause in _causes(error) if isinstance(cause, InputError | DamageError | RunError)), None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """From without to within, but what Ray has wrapped before its wrapper, which may be of the same type."""
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
