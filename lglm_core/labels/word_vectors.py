"""Reader of word vectors in GloVe's text format: one word and its numbers per line.

Files are read as streams, so that memory does not grow with the file's vocabulary.
"""

import heapq
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from functools import partial
from io import BufferedReader

import numpy as np

from lglm_core.errors import InputError
from lglm_core.storage.compressed import open_unpacked

MAX_LINE_BYTES = 1 << 20  # a longer line is cut, and then refused for its number of entries
MIN_SIMILARITY = 0.6  # difflib's own cutoff


def read_vectors(url: str, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Read the vectors of the *wanted* words that a file holds, float64 [d] each.

    Args:
        url: A text file, plain or compressed (:func:`lglm_core.storage.compressed.open_unpacked`).
        wanted: Words without spaces, in NFC; the file may use another normal form.

    Raises:
        InputError: A line has more or fewer numbers than the first, or the vector of a wanted word holds
            something other than numbers that are finite in float32.
    """
    encoded = {word.encode() for word in wanted}
    found: dict[str, np.ndarray] = {}
    with open_unpacked(url) as (name, text):
        for number, word, numbers in _entries(name, text):
            if word in encoded:
                encoded.remove(word)  # a word given twice keeps its first vector
                found[word.decode()] = _vector(f"{name}, line {number}", word.decode(), numbers)
    return found


def closest_words(url: str, wanted: Sequence[Collection[str]], count: int = 2) -> list[list[str]]:
    """For each group of words in *wanted*, find the file's most similar words, the best first.

    Args:
        url: A file as :func:`read_vectors` takes.
        wanted: Groups of words; a word of the file is as similar to a group as to the group's closest word.
        count: The number of words to return for each group, at most.

    This reads the whole file a second time, so that :func:`read_vectors` need not keep its words in memory.
    """
    searches = [_Closest(words, count) for words in wanted]
    with open_unpacked(url) as (name, text):
        for number, word, _ in _entries(name, text):
            for search in searches:
                search.offer(number, word)
    return [search.words for search in searches]


class _Closest:
    """Keeps the *count* offered words most similar to one of *targets*; an earlier word wins a tie."""

    def __init__(self, targets: Collection[str], count: int) -> None:
        self._count = count
        # Comparing is slow, so only words with the same first byte are compared.
        self._matchers = [(target.encode()[:1], SequenceMatcher(None, "", target)) for target in targets]
        self._initials = {initial for initial, _ in self._matchers}
        self._best: list[tuple[float, int, str]] = []

    def offer(self, number: int, word: bytes) -> None:
        if word[:1] not in self._initials:
            return
        similarity = max(
            _similarity(matcher, word.decode()) for initial, matcher in self._matchers if word[:1] == initial
        )
        if similarity >= MIN_SIMILARITY:
            heapq.heappush(self._best, (similarity, -number, word.decode()))
            if len(self._best) > self._count:
                heapq.heappop(self._best)

    @property
    def words(self) -> list[str]:
        return [word for _, _, word in sorted(self._best, reverse=True)]


def _similarity(matcher: SequenceMatcher[str], word: str) -> float:
    """Return difflib's ratio, or 0 if cheaper upper bounds lie below :data:`MIN_SIMILARITY`."""
    matcher.set_seq1(word)
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio)
    return matcher.ratio() if all(bound() >= MIN_SIMILARITY for bound in bounds) else 0.0


def _entries(name: str, text: BufferedReader) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each line's number, its word in NFC and its numbers, the last two as bytes.

    Raises:
        InputError: The file is empty or not UTF-8 text, or its lines differ in width.
    """
    width = 0
    try:
        for number, line in enumerate(iter(partial(text.readline, MAX_LINE_BYTES), b""), start=1):
            width = width or _width(name, line)
            if line.count(b" ") == width:
                word, _, numbers = line.partition(b" ")
            elif _only_empty_lines_follow(line, text):
                break
            else:
                word, numbers = _split_longer(f"{name}, line {number}", line, width)
            if not word.isascii():
                word = unicodedata.normalize("NFC", word.decode()).encode()
            yield number, word, numbers
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 text ({error.reason}); text was expected, or text in gzip or zip"
        ) from error
    if not width:
        raise InputError(f"{name}: the file is empty; a GloVe text file was expected")


def _width(name: str, line: bytes) -> int:
    """Return the number of numbers in the first line.

    Raises:
        InputError: The line is a header like word2vec's, or its width is not the one in the file's name.
    """
    entries = line.decode().rstrip("\r\n").split(" ")
    width = len(entries) - 1
    if width < 2:
        raise InputError(
            f"{name}, line 1: a word and its numbers were expected, found {len(entries)} entries"
        )
    named = re.search(r"\.(\d+)d\b", name.rpartition("/")[2])
    if named and int(named[1]) != width:
        raise InputError(f"{name}, line 1: {width} numbers found, {named[1]} expected by the file's name")
    return width


def _only_empty_lines_follow(line: bytes, text: BufferedReader) -> bool:
    """Tell whether this line and all lines after it are empty."""
    following = iter(partial(text.readline, MAX_LINE_BYTES), b"")
    return not line.strip() and not any(rest.strip() for rest in following)


def _split_longer(where: str, line: bytes, width: int) -> tuple[bytes, bytes]:
    """Split a line into word and numbers if its word has spaces in it, as some in glove.840B have.

    Raises:
        InputError: The line has fewer numbers than *width*, or more.
    """
    entries = line.decode().rstrip("\r\n").split(" ")
    surplus = len(entries) - 1 - width
    if surplus < 0 or _is_number(entries[surplus]):
        raise InputError(f"{where}: {len(entries) - 1} numbers found, {width} expected as in line 1")
    return " ".join(entries[: surplus + 1]).encode(), " ".join(entries[surplus + 1 :]).encode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vector(where: str, word: str, numbers: bytes) -> np.ndarray:
    try:
        vector = np.array(numbers.decode().rstrip("\r\n").split(" "), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}: the vector of {word!r} is not all numbers ({error})") from error
    with np.errstate(over="ignore"):
        finite = np.isfinite(vector.astype(np.float32)).all()  # the type of label vectors
    if not finite:
        raise InputError(f"{where}: the vector of {word!r} is not finite in float32")
    return vector
