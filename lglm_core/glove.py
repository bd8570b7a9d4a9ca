"""GloVe text files → label embeddings.

Source: Pennington et al., EMNLP 2014; the official files hold one word and its numbers per line.
"""

import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from lglm_core.data import storage
from lglm_core.errors import InputError
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.labels import LabelVocabulary


def words_of(label: str) -> tuple[str, ...]:
    """Split a label name into the lower-case words whose vectors are averaged."""
    return tuple(word for word in re.split(r"[\s_\-/]+", label.lower()) if word)


def glove_embeddings(
    labels: LabelVocabulary,
    url: str,
    *,
    aliases: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
) -> LabelEmbeddings:
    """Average the word vectors of each label's name.

    Args:
        labels: The names to embed.
        url: A GloVe text file; its width is what its lines hold.
        aliases: Other words to use for a label, by its name.
        oov: What becomes of a label none of whose words the file holds: refuse, or a zero vector.

    Raises:
        InputError: a ragged file, an alias for no label, or, with ``oov="error"``, labels without a vector.
    """
    advice = "give other words with --alias 'label=words', or take --oov zero"
    named = name_vectors(labels, url, aliases=aliases, oov=oov, advice=advice)
    return LabelEmbeddings(labels, *named, "glove")


def name_vectors(
    names: Sequence[str],
    url: str,
    *,
    aliases: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
    advice: str = "give other words with --alias 'label=words'",
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """Do what :func:`glove_embeddings` does, for any names; *advice* is for names without a vector.

    Returns:
        Vectors float32 [names, d], and per name the words they came from and the words that are missing.
    """
    aliases = aliases or {}
    for name in aliases:
        if name not in names:
            raise InputError(f"alias for {name!r}, which is none of the {len(names)} labels")
    wanted = [words_of(aliases.get(name, name)) for name in names]
    found, seen = _read_vectors(url, {word for words in wanted for word in words})
    used = tuple(tuple(word for word in words if word in found) for words in wanted)
    lost = [name for name, words in zip(names, used, strict=True) if not words]
    if lost and oov == "error":
        raise InputError(f"{storage.shown(url)}: holds no word of {_with_closest(lost, seen)}; {advice}")
    width = len(next(iter(found.values()))) if found else 0
    if not width:
        raise InputError(f"{storage.shown(url)}: holds no word of any of the {len(names)} labels")
    vectors = [
        np.mean([found[word] for word in words], axis=0) if words else np.zeros(width) for words in used
    ]
    missing = tuple(tuple(word for word in words if word not in found) for words in wanted)
    return np.stack(vectors).astype(np.float32), used, missing


def _read_vectors(url: str, wanted: set[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the vectors of the *wanted* words, and the list of all words; refuse a ragged file."""
    found: dict[str, np.ndarray] = {}
    seen: list[str] = []
    width = 0
    shown = storage.shown(url)
    for number, tokens in _lines(url):
        if not width:
            width = len(tokens) - 1
            _check_width(shown, width)
        surplus = len(tokens) - 1 - width
        if surplus < 0 or (surplus > 0 and _is_number(tokens[surplus])):
            raise InputError(
                f"{shown}, line {number}: {len(tokens) - 1} numbers found, {width} expected as in line 1"
            )
        word = " ".join(tokens[: surplus + 1])  # glove.840B has words with spaces in them
        seen.append(word)
        if word in wanted and word not in found:
            try:
                found[word] = np.array(tokens[surplus + 1 :], dtype=np.float64)
            except ValueError as error:
                raise InputError(
                    f"{shown}, line {number}: the vector of {word!r} is not all numbers ({error})"
                ) from error
            if not np.isfinite(found[word]).all():
                raise InputError(f"{shown}, line {number}: the vector of {word!r} is not finite")
    if not seen:
        raise InputError(f"{shown}: the file is empty; a GloVe text file was expected")
    return found, seen


def _lines(url: str) -> Iterator[tuple[int, list[str]]]:
    shown = storage.shown(url)
    if not storage.is_file(url):
        raise InputError(f"{shown}: no such file; glove.6B.300d.txt or its like was expected")
    try:
        with io.TextIOWrapper(storage.open_stream(url), encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n").split(" ")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown}: not UTF-8 text ({error.reason}); unpack it first if it is compressed"
        ) from error


def _check_width(shown: str, width: int) -> None:
    """Refuse word2vec's header line, text that is no vectors, and a width other than the name says."""
    if width < 2:
        raise InputError(f"{shown}, line 1: a word and its numbers were expected, found {width + 1} entries")
    named = re.search(r"\.(\d+)d\b", shown.rpartition("/")[2])
    if named and int(named[1]) != width:
        raise InputError(f"{shown}, line 1: {width} numbers found, {named[1]} expected by the file's name")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_closest(lost: list[str], seen: list[str]) -> str:
    described = []
    for label in lost[:5]:
        close = difflib.get_close_matches(words_of(label)[-1] if words_of(label) else label, seen, 2)
        described.append(f"{label!r}" + (f" (closest: {', '.join(close)})" if close else ""))
    return ", ".join(described) + (f" and {len(lost) - 5} more labels" if len(lost) > 5 else "")
