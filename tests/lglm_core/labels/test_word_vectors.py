"""Reading word vectors takes little memory, and finds the words closest to one that the file lacks."""

import difflib
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lglm_core.errors import InputError
from lglm_core.labels.word_vectors import closest_words, read_vectors


def write(path: Path, words: list[str]) -> Path:
    path.write_text("".join(f"{word} {number} 0.5\n" for number, word in enumerate(words)))
    return path


def random_words(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefgh", k=rng.randint(3, 8))) for _ in range(count)]


def test_only_wanted_words_are_read(tmp_path: Path):
    found = read_vectors(str(write(tmp_path / "v", ["cat", "naïve", "dog"])), {"dog", "naïve", "yeti"})
    assert {word: vector.tolist() for word, vector in found.items()} == {"naïve": [1, 0.5], "dog": [2, 0.5]}


@pytest.mark.weighty
def test_memory_does_not_grow_with_the_vocabulary(tmp_path: Path):
    """Neither for vectors nor for closest words; the words of a file of this size take 6 MB."""
    path = write(tmp_path / "v", [f"dog{number}" for number in range(100_000)])
    tracemalloc.start()
    try:
        assert read_vectors(str(path), {"dog7", "dogs"}).keys() == {"dog7"}
        assert len(closest_words(str(path), [["dog-1"]])[0]) == 2
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_line_without_end(tmp_path: Path):
    (tmp_path / "v").write_bytes(b"word 1 2 " + bytes(32 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="line 2: 0 numbers found, 3 expected"):
            read_vectors(str(tmp_path / "v"), {"dog"})
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_closest_words_are_those_of_difflib_that_begin_alike(tmp_path: Path):
    words = list(dict.fromkeys(random_words(3000)))
    path = write(tmp_path / "v", words)
    wanted = random_words(20, seed=1)
    for word, found in zip(wanted, closest_words(str(path), [[word] for word in wanted]), strict=True):
        alike = [other for other in words if other[0] == word[0]]
        expected = difflib.get_close_matches(word, alike, 2)
        ratios = [
            [difflib.SequenceMatcher(None, other, word).ratio() for other in listed]
            for listed in (found, expected)
        ]
        np.testing.assert_allclose(*ratios)


def test_the_earlier_and_thus_more_frequent_of_equally_close_words_is_found(tmp_path: Path):
    path = write(tmp_path / "v", ["the", "signe", "signa", "signz"])
    assert closest_words(str(path), [["signs"]]) == [["signe", "signa"]]


def test_any_of_several_words_may_be_the_one_that_is_close(tmp_path: Path):
    path = write(tmp_path / "v", ["the", "cellphone", "phones", "table"])
    found = closest_words(str(path), [["cell", "phone", "cellphone"], ["zzz"], []])
    assert found == [["cellphone", "phones"], [], []]


@pytest.mark.parametrize("word", ["caf\xe9", "\xff\xfec\x00"])
def test_text_in_another_encoding_is_refused(tmp_path: Path, word: str):
    (tmp_path / "v").write_bytes(b"the 0 0\n" + word.encode("latin-1") + b" 1 2\n")
    with pytest.raises(InputError, match="v: not UTF-8 text"):
        read_vectors(str(tmp_path / "v"), {"the"})
