"""Files of word vectors in GloVe's text format: one word and its numbers per line.

Read as a stream: what is kept does not grow with the vocabulary.
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

LONGEST_LINE = 1 << 20  # bytes; what is longer is cut, and then ragged
ALIKE = 0.6  # difflib's own bar


def read_vectors(url: str, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Read the vectors of the *wanted* words that a file holds, float64 [d] each.

    Args:
        url: A text file, also packed (:func:`lglm_core.storage.compressed.open_unpacked`).
        wanted: Words without spaces, in NFC; the file may have them otherwise.

    Raises:
        InputError: a line with more or fewer numbers than the first, or a wanted word's that are none or not
            finite in float32.
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
    """For each of *wanted*, find the words of a file that are most like one of its words, the best first.

    Reads the whole file again, so that whoever misses nothing keeps no words in memory.
    """
    searches = [_Closest(words, count) for words in wanted]
    with open_unpacked(url) as (name, text):
        for number, word, _ in _entries(name, text):
            for search in searches:
                search.offer(number, word)
    return [search.words for search in searches]


class _Closest:
    """The *count* words most like one of *targets*, of those that are offered; of equals the earlier."""

    def __init__(self, targets: Collection[str], count: int) -> None:
        self._count = count
        # Comparing is slow: only words that begin alike are.
        self._matchers = [(target.encode()[:1], SequenceMatcher(None, "", target)) for target in targets]
        self._initials = {initial for initial, _ in self._matchers}
        self._best: list[tuple[float, int, str]] = []

    def offer(self, number: int, word: bytes) -> None:
        if word[:1] not in self._initials:
            return
        likeness = max(
            _likeness(matcher, word.decode()) for initial, matcher in self._matchers if word[:1] == initial
        )
        if likeness >= ALIKE:
            heapq.heappush(self._best, (likeness, -number, word.decode()))
            if len(self._best) > self._count:
                heapq.heappop(self._best)

    @property
    def words(self) -> list[str]:
        return [word for _, _, word in sorted(self._best, reverse=True)]


def _likeness(matcher: SequenceMatcher[str], word: str) -> float:
    """The ratio of difflib, or 0 where cheaper bounds tell that it is below :data:`ALIKE`."""
    matcher.set_seq1(word)
    may_be = matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE
    return matcher.ratio() if may_be else 0.0


def _entries(name: str, text: BufferedReader) -> Iterator[tuple[int, bytes, bytes]]:
    """Every line's number, word in NFC and numbers, as bytes; refuse what is ragged, and what is no text."""
    width = 0
    try:
        for number, line in enumerate(iter(partial(text.readline, LONGEST_LINE), b""), start=1):
            width = width or _width(name, line)
            if line.count(b" ") == width:
                word, _, numbers = line.partition(b" ")
            elif _is_end(line, text):
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
    """The width of the first line; refuse word2vec's header, and a width other than the name says."""
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


def _is_end(line: bytes, text: BufferedReader) -> bool:
    """Tell whether nothing but empty lines follows one that is empty."""
    following = iter(partial(text.readline, LONGEST_LINE), b"")
    return not line.strip() and not any(rest.strip() for rest in following)


def _split_longer(where: str, line: bytes, width: int) -> tuple[bytes, bytes]:
    """Split a line whose word has spaces in it, as some of glove.840B have; refuse a ragged one."""
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
        finite = np.isfinite(vector.astype(np.float32)).all()  # as label vectors are kept
    if not finite:
        raise InputError(f"{where}: the vector of {word!r} is not finite in float32")
    return vector
