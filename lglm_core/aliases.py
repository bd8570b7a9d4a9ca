"""Other words for labels: ``label=words``, one by one or from a file."""

import difflib
import json
from collections.abc import Iterable, Sequence

from lglm_core.data import storage
from lglm_core.errors import InputError

Pair = tuple[str, str]


def parse_aliases(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``label=words`` pairs of the option ``--alias`` as words by label.

    Raises:
        InputError: no such pair, or a label that is given twice.
    """
    return _by_label([_split(pair, f"--alias {pair!r}") for pair in pairs], "--alias")


def read_aliases(url: str) -> dict[str, str]:
    """Read words by label from a JSON object, or from lines ``label=words``.

    Empty lines, and those that begin with ``#``, say nothing.

    Raises:
        InputError: neither of the two, or a label that is given twice.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{storage.shown(url)}: not UTF-8 text ({error.reason})") from error
    pairs = _parse_json(text, url) if text.lstrip().startswith("{") else _parse_lines(text, url)
    return _by_label(pairs, storage.shown(url))


def refuse_unknown(aliases: Iterable[str], names: Sequence[str], where: str, *, of: str = "labels") -> None:
    """Refuse an alias for what is none of *names*.

    Args:
        aliases: The labels that have one.
        names: The labels that may.
        where: What gave the aliases, for the message.
        of: What *names* are, for the message.
    """
    for label in aliases:
        if label not in names:
            closest = ", ".join(map(repr, difflib.get_close_matches(label, names, 3, cutoff=0.0)))
            raise InputError(f"{where}: {label!r} is none of the {len(names)} {of}; closest: {closest}")


def _by_label(pairs: Iterable[Pair], where: str) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for label, words in pairs:
        if label in aliases:
            raise InputError(
                f"{where}: {label!r} is given twice, as {aliases[label]!r} and as {words!r}; keep one of them"
            )
        aliases[label] = words
    return aliases


def _parse_json(text: str, url: str) -> list[Pair]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)  # a dict would hide a label given twice
    except ValueError as error:
        raise InputError(f"{storage.shown(url)}: not JSON ({error})") from error
    for label, words in pairs:
        if not isinstance(words, str):
            raise InputError(
                f"{storage.shown(url)}: {label!r} has {json.dumps(words)}; a text was expected, of words"
            )
    return [_stripped(label, words, f"{storage.shown(url)}: {label!r}") for label, words in pairs]


def _parse_lines(text: str, url: str) -> list[Pair]:
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [
        _split(line, f"{storage.shown(url)}, line {number}: {line!r}")
        for number, line in lines
        if line and not line.startswith("#")
    ]


def _split(pair: str, where: str) -> Pair:
    label, _, words = pair.partition("=")
    return _stripped(label, words, where)


def _stripped(label: str, words: str, where: str) -> Pair:
    if not label.strip() or not words.strip():
        raise InputError(f"{where}: expected 'label=words', such as 'cell phone=phone'")
    return label.strip(), words.strip()
