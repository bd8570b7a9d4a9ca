"""Other words for labels: ``label=words``, one by one or from a file."""

import difflib
import json
from collections.abc import Collection, Iterable, Sequence

from lglm_core import storage
from lglm_core.errors import InputError

Pair = tuple[str, str]


def parse_aliases(pairs: Iterable[str], names: Collection[str] = ()) -> dict[str, str]:
    """Read ``label=words`` pairs of the option ``--alias`` as words by label.

    Args:
        pairs: The label ends at the first ``=``, or where the longest of *names* does.
        names: The labels that may have one, as far as they are known.

    Raises:
        InputError: no such pair, or a label that is given twice.
    """
    return _by_label([_split(pair, names, f"--alias {pair!r}") for pair in pairs], "--alias")


def read_aliases(url: str, names: Collection[str] = ()) -> dict[str, str]:
    """Read words by label from a JSON object, or from lines as :func:`parse_aliases` does.

    Empty lines, and those that begin with ``#`` but with none of *names*, say nothing.

    Raises:
        InputError: neither of the two, or a label that is given twice.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{storage.redact_url(url)}: not UTF-8 text ({error.reason})") from error
    pairs = _parse_json(text, url) if text.lstrip().startswith("{") else _parse_lines(text, names, url)
    return _by_label(pairs, storage.redact_url(url))


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
        raise InputError(f"{storage.redact_url(url)}: not JSON ({error})") from error
    for label, words in pairs:
        if not isinstance(words, str):
            raise InputError(
                f"{storage.redact_url(url)}: {label!r} has {json.dumps(words)}; a text was expected, of words"
            )
    return [_stripped(label, words, f"{storage.redact_url(url)}: {label!r}") for label, words in pairs]


def _parse_lines(text: str, names: Collection[str], url: str) -> list[Pair]:
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [
        _split(line, names, f"{storage.redact_url(url)}, line {number}: {line!r}")
        for number, line in lines
        if line and (not line.startswith("#") or _named(line, names))
    ]


def _split(pair: str, names: Collection[str], where: str) -> Pair:
    label = _named(pair, names) or pair.partition("=")[0]
    return _stripped(label, pair[len(label) + 1 :], where)


def _named(pair: str, names: Collection[str]) -> str | None:
    """Return what stands before the last ``=`` of *pair* before which one of *names* stands, if any does."""
    parts = pair.split("=")
    befores = ("=".join(parts[:stop]) for stop in range(len(parts) - 1, 0, -1))
    return next((before for before in befores if before.strip() in names), None)


def _stripped(label: str, words: str, where: str) -> Pair:
    if not label.strip() or not words.strip():
        raise InputError(f"{where}: expected 'label=words', such as 'cell phone=phone'")
    return label.strip(), words.strip()
