"""From an options class to command-line arguments, and back.

The fields of the class become flags, and their docstrings the help. Wrong arguments are refused in one line
that names the option and, where its name is mistyped, the nearest known one.
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jobs.options import Options
from lglm_core import storage
from lglm_core.errors import InputError

OptionsType = TypeVar("OptionsType", bound=Options)
Choices = Mapping[str, type[Options]]


class _Formatter(argparse.HelpFormatter):
    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """Show by dots alone that an option takes several values; brackets mark what is optional."""
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar} ..."
        return super()._format_args(action, default_metavar)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse in one line, with exit code 2."""
        self.exit(2, f"{self.prog}: {_with_help(' '.join(message.split()), self.prog)}\n")


def parse(verb: str, options: type[Options] | Choices, argv: Sequence[str]) -> tuple[Options, bool]:
    """Parse arguments into options; the second value tells whether ``--json`` was given.

    Args:
        verb: The job's name.
        options: Its options class, or one by name where the first argument chooses.
        argv: The arguments.

    Raises:
        InputError: a value or an option from the config file is wrong.
        SystemExit: the arguments are wrong (2), or the help was printed (0).
    """
    command = f"lglm {verb}"
    if isinstance(options, Mapping):
        choice, *argv = _choose(command, options, argv)
        command, options = f"{command} {choice}", options[choice]
    parser = _parser(command, options)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown_arguments(unknown, options))
    given = vars(namespace)
    as_json, config = given.pop("_json"), given.pop("_config")
    from_config = _read_config(config) if config else {}
    files = {name: config for name in from_config if name not in given}
    return validate(command, options, {**from_config, **given}, files), as_json


def to_arguments(options: Options) -> list[str]:
    """Write options as the arguments that give them; those at their defaults are left out."""
    arguments = []
    for name, value in options.model_dump(exclude_defaults=True).items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else _negative_flag(name))
        else:
            values = value if isinstance(value, tuple) else [value]
            arguments += [f"{flag(name)}={one}" for one in values]
    return arguments


def validate(
    command: str, kind: type[OptionsType], values: Mapping[str, Any], files: Mapping[str, str] | None = None
) -> OptionsType:
    """Make options from values by name; refuse, as *command* would, the first wrong one.

    Args:
        command: What people typed, for a reference to its help.
        kind: The class of the options.
        values: The given values.
        files: By option, the file that gave its value, if the command line did not.
    """
    try:
        return kind.model_validate(values)
    except InputError as error:  # raised by a model of the core, as pydantic lets it through
        raise InputError(with_flags(str(error), kind)) from error
    except ValidationError as error:
        # A name that is unknown explains one that is missing, so it is named first.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        raise InputError(_with_help(_refusal(first, kind, files or {}), command)) from error


def _refusal(fault: ErrorDetails, kind: type[Options], files: Mapping[str, str]) -> str:
    """Return what is wrong with one option, or with several together."""
    if not fault["loc"]:  # a rule about several options
        return with_flags(str(fault["ctx"]["error"]), kind)
    name = str(fault["loc"][0])
    where = f"{storage.redact_url(files[name])}: " if name in files else ""
    if fault["type"] == "missing":
        return f"the option {flag(name)} is required"
    if fault["type"] == "extra_forbidden":
        return f"{where}{_unknown_option(flag(name), kind)}"
    message = with_flags(fault["msg"][0].lower() + fault["msg"][1:], kind)
    hint = did_you_mean(str(fault["input"]), _words(kind.model_fields[name]))
    return f"{where}{flag(name)}: {fault['input']!r} was given; {message}{hint}"


def flag(name: str) -> str:
    """Return the flag of an option: ``--num-workers`` for ``num_workers``."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def _negative_flag(name: str) -> str:
    return f"--no-{flag(name)[2:]}"


def with_flags(message: str, kind: type[Options]) -> str:
    """Replace every option of *kind* that *message* names in backticks by its flag.

    The core names parameters: its "more than `max_rejected` allows" becomes "more than --max-rejected
    allows" on the command line. Other words in backticks stay as they are.
    """

    def replaced(found: re.Match[str]) -> str:
        return flag(found[1]) if found[1] in kind.model_fields else found[0]

    return re.sub(r"`(\w+)`", replaced, message)


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """Ask whether the nearest known name was meant; return an empty text where none is near.

    Args:
        name: A mistyped name.
        known: The known names, and what to type for each.
    """
    nearest = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {known[nearest[0]]}?" if nearest else ""


def _with_help(message: str, command: str) -> str:
    return f"{message}{'' if message.endswith('?') else ';'} see {command} --help"


def _choose(command: str, choices: Choices, argv: Sequence[str]) -> Sequence[str]:
    """Return the arguments, whose first one is found to be one of *choices*."""
    usage = f"{command} {'|'.join(choices)} [options]"
    parser = _Parser(prog=command)
    name = argv[0] if argv else ""
    if name in ("-h", "--help"):
        kinds = "\n".join(f"  {choice:<12}{kind.__doc__}" for choice, kind in choices.items())
        print(f"usage: {usage}; {command} NAME --help tells more\n\n{kinds}")
        parser.exit()
    if not name or name.startswith("-"):
        parser.error(f"the source of the pictures comes first: {usage}")
    if name not in choices:
        known = {choice: choice for choice in choices}
        hint = did_you_mean(name, known) or f"; the sources are {', '.join(choices)}"
        parser.error(f"unknown source {name!r}{hint}")
    return argv


def _parser(command: str, kind: type[Options]) -> argparse.ArgumentParser:
    required = [
        f"{flag(name)} {_metavar(name, info)}{' ...' if _is_repeated(info) else ''}"
        for name, info in kind.model_fields.items()
        if info.is_required()
    ]
    parser = _Parser(
        prog=command,
        usage=" ".join([command, *required, "[options]"]),
        description=kind.__doc__,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    first, others = parser.add_argument_group("required"), parser.add_argument_group("options")
    for name, info in kind.model_fields.items():
        _add_option(first if info.is_required() else others, name, info, kind)
    others.add_argument(
        "--config",
        dest="_config",
        metavar="FILE.yaml",
        help="Read options from a file; the command line wins.",
    )
    others.add_argument(
        "--json", dest="_json", action="store_true", help="End with one JSON object on stdout."
    )
    others.add_argument("-h", "--help", action="help", help="Show this help.")
    return parser


def _add_option(group: "argparse._ArgumentGroup", name: str, info: FieldInfo, kind: type[Options]) -> None:
    # Required options may also come from the config file, so argparse does not know that they are.
    shared: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(info, kind)}
    if info.annotation is bool:
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, **shared)
    elif _is_repeated(info):
        group.add_argument(flag(name), nargs="+", action="extend", metavar=_metavar(name, info), **shared)
    else:
        group.add_argument(flag(name), metavar=_metavar(name, info), **shared)


def _is_repeated(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is tuple


def _metavar(name: str, info: FieldInfo) -> str:
    return "|".join(_words(info)) or name.upper()


def _words(info: FieldInfo) -> dict[str, str]:
    """Return the words that an option chooses from, each as its own key; none where it takes any value."""
    values = [value for part in (info.annotation, *get_args(info.annotation)) for value in get_args(part)]
    return {value: value for value in values if isinstance(value, str)}


def _help(info: FieldInfo, kind: type[Options]) -> str:
    default = "" if info.is_required() or info.default in (None, ()) else f" (default {info.default})"
    text = with_flags(" ".join(str(info.description).split()), kind)
    return f"{text}{default}".replace("%", "%%")


def _unknown_arguments(unknown: Sequence[str], kind: type[Options]) -> str:
    """Return what is wrong with arguments that are none of the known options."""
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if options:
        return _unknown_option(options[0], kind)
    required = [name for name, info in kind.model_fields.items() if info.is_required()]
    # A lone word can only be meant for the one option that must be given.
    advice = f"; expected {flag(required[0])} {unknown[0]}" if len(unknown) == len(required) == 1 else ""
    return f"unrecognized arguments: {' '.join(unknown)}{advice}"


def _unknown_option(name: str, kind: type[Options]) -> str:
    if verb := kind.now_verbs.get(name):
        return f"{name} is no option any more; use lglm {verb}"
    negatives = (
        _negative_flag(option) for option, info in kind.model_fields.items() if info.annotation is bool
    )
    known = (*map(flag, kind.model_fields), *negatives, "--config", "--json", "--help")
    return f"unknown option {name}{did_you_mean(name.lstrip('-'), {one.lstrip('-'): one for one in known})}"


def _read_config(path: str) -> dict[str, Any]:
    data = storage.read_bytes(path)
    try:
        values = yaml.safe_load(data.decode())
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of option names to values")
    return {str(name).replace("-", "_"): value for name, value in values.items()}
