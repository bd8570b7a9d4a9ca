"""Aliases: the words to look up in place of a label's name, given as ``label=words`` or in a file."""

import difflib
import json
from collections.abc import Collection, Iterable, Sequence

from lglm_core import storage
from lglm_core.errors import InputError

Pair = tuple[str, str]


def parse_aliases(alias: Iterable[str], names: Collection[str] = ()) -> dict[str, str]:
    """Parse ``label=words`` pairs into a dict from label to words.

    Args:
        alias: The pairs. In each, the label ends at the first ``=``, or at the end of the longest of *names*
            that the pair starts with.
        names: The labels that may have an alias, as far as they are known.

    Raises:
        InputError: An item is no such pair, or a label is given twice.
    """
    return _to_dict([_split(pair, names, f"`alias` {pair!r}") for pair in alias], "`alias`")


def read_aliases(url: str, names: Collection[str] = ()) -> dict[str, str]:
    """Read a dict from label to words out of a JSON object, or out of lines like :func:`parse_aliases` takes.

    Empty lines are skipped, and so are comments: lines that begin with ``#`` and with none of *names*.

    Raises:
        InputError: The file is in neither format, or a label is given twice.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{storage.redact_url(url)}: not UTF-8 text ({error.reason})") from error
    pairs = _parse_json(text, url) if text.lstrip().startswith("{") else _parse_lines(text, names, url)
    return _to_dict(pairs, storage.redact_url(url))


def refuse_unknown(aliases: Iterable[str], names: Sequence[str], where: str, *, of: str = "labels") -> None:
    """Raise an InputError if an alias belongs to a label that is not among *names*.

    Args:
        aliases: The labels that have an alias.
        names: The labels that may have one.
        where: What gave the aliases, for the message.
        of: What *names* are, for the message.
    """
    for label in aliases:
        if label not in names:
            closest = ", ".join(map(repr, difflib.get_close_matches(label, names, 3, cutoff=0.0)))
            raise InputError(f"{where}: {label!r} is none of the {len(names)} {of}; closest: {closest}")


def _to_dict(pairs: Iterable[Pair], where: str) -> dict[str, str]:
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
        raise InputError(f"{storage.redact_url(url)}: not JSON ({error})") from error
    for label, words in pairs:
        if not isinstance(words, str):
            raise InputError(
                f"{storage.redact_url(url)}: {label!r} has {json.dumps(words)}; a text was expected, of words"
            )
    return [_strip(label, words, f"{storage.redact_url(url)}: {label!r}") for label, words in pairs]


def _parse_lines(text: str, names: Collection[str], url: str) -> list[Pair]:
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [
        _split(line, names, f"{storage.redact_url(url)}, line {number}: {line!r}")
        for number, line in lines
        if line and (not line.startswith("#") or _known_label(line, names))
    ]


def _split(pair: str, names: Collection[str], where: str) -> Pair:
    label = _known_label(pair, names) or pair.partition("=")[0]
    return _strip(label, pair[len(label) + 1 :], where)


def _known_label(pair: str, names: Collection[str]) -> str | None:
    """Return the longest text before a ``=`` of *pair* that is one of *names*, or None."""
    pieces = pair.split("=")
    candidates = ("=".join(pieces[:stop]) for stop in range(len(pieces) - 1, 0, -1))
    return next((candidate for candidate in candidates if candidate.strip() in names), None)


def _strip(label: str, words: str, where: str) -> Pair:
    if not label.strip() or not words.strip():
        raise InputError(f"{where}: expected 'label=words', such as 'cell phone=phone'")
    return label.strip(), words.strip()
