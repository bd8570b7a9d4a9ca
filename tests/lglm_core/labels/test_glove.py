import unicodedata
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from lglm_core.errors import InputError
from lglm_core.labels.glove import glove_embeddings, words_of
from lglm_core.labels.vocabulary import LabelVocabulary
from tests.servers.web import Website

Form = Literal["NFC", "NFD"]
LINES = """\
the 0.0 0.0 0.0
cat 1.0 2.0 3.0
stop 2.0 0.0 -2.0
sign 0.0 4.0 0.0
phone 0.5 0.5 0.5
"""


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_text(LINES)
    return path


def test_a_name_of_several_words_has_the_mean_of_their_vectors(glove: Path):
    embeddings = glove_embeddings(LabelVocabulary(["cat", "stop sign"]), str(glove))
    np.testing.assert_array_equal(embeddings.vectors, np.array([[1, 2, 3], [1, 2, -1]], np.float32))


def test_case_hyphens_and_underscores_do_not_matter():
    assert words_of("Stop_Sign") == words_of("stop-sign") == words_of("STOP  sign") == ("stop", "sign")


@pytest.mark.parametrize("in_file", ["NFC", "NFD"])
@pytest.mark.parametrize("in_name", ["NFC", "NFD"])
def test_how_accents_are_encoded_does_not_matter(glove: Path, in_file: Form, in_name: Form):
    glove.write_text(LINES + unicodedata.normalize(in_file, "café 7.0 8.0 9.0\n"), encoding="utf-8")
    label = unicodedata.normalize(in_name, "Café")
    embeddings = glove_embeddings(LabelVocabulary(["cat", label]), str(glove))
    np.testing.assert_array_equal(embeddings.vectors[1], np.array([7, 8, 9], np.float32))
    assert embeddings.labels[1] == label


def test_a_missing_word_is_left_out_of_the_mean_and_reported(glove: Path):
    embeddings = glove_embeddings(LabelVocabulary(["cat", "cell phone"]), str(glove))
    np.testing.assert_array_equal(embeddings.vectors[1], np.full(3, 0.5, np.float32))
    assert (embeddings.words[1], embeddings.missing[1]) == (("phone",), ("cell",))


def test_an_alias_gives_a_label_other_words(glove: Path):
    embeddings = glove_embeddings(LabelVocabulary(["cat", "mobile"]), str(glove), alias={"mobile": "phone"})
    assert embeddings.words == (("cat",), ("phone",))
    assert embeddings.origin == ("glove", "alias")
    assert embeddings.labels.names == ("cat", "mobile")


def test_an_alias_for_no_label_is_refused(glove: Path):
    with pytest.raises(InputError, match="`alias`: 'dog' is none of the 2 labels"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove), alias={"dog": "cat"})


def test_a_label_without_vector_is_refused_with_the_closest_words(glove: Path):
    with pytest.raises(InputError, match=r"holds no word of 'signs' \(closest: sign"):
        glove_embeddings(LabelVocabulary(["cat", "signs"]), str(glove))


def test_words_that_are_one_word_in_the_file_are_named(glove: Path):
    glove.write_text(LINES + "skiboard 1.0 1.0 1.0\n")  # similar to neither of its halves
    with pytest.raises(InputError, match=r"holds no word of 'ski board' \(closest: skiboard\)"):
        glove_embeddings(LabelVocabulary(["cat", "ski board"]), str(glove))


def test_the_closest_words_are_an_alias_s_if_one_is_given(glove: Path):
    with pytest.raises(InputError, match=r"holds no word of 'mobile' \(closest: phone\)"):
        glove_embeddings(LabelVocabulary(["cat", "mobile"]), str(glove), alias={"mobile": "phonee"})


def test_a_label_without_vector_can_be_zero(glove: Path):
    embeddings = glove_embeddings(LabelVocabulary(["cat", "unicorn"]), str(glove), oov="zero")
    np.testing.assert_array_equal(embeddings.vectors[1], np.zeros(3, np.float32))
    assert embeddings.missing[1] == ("unicorn",)
    assert embeddings.origin == ("glove", "zero")


def test_a_file_with_a_word_of_no_label_is_refused_even_then(glove: Path):
    with pytest.raises(InputError, match="holds no word of any of the 2 labels"):
        glove_embeddings(LabelVocabulary(["unicorn", "dragon"]), str(glove), oov="zero")


def test_five_labels_without_a_vector_are_named_and_the_rest_counted(glove: Path):
    with pytest.raises(InputError, match="'q4' and 2 more labels"):
        glove_embeddings(LabelVocabulary([f"q{n}" for n in range(7)]), str(glove))


@pytest.mark.parametrize(
    ("lines", "numbers"), [("dog 1.0 2.0\n", 2), ("dog 1.0 2.0 3.0 4.0\n", 4), ("\n\ndog 1.0 2.0 3.0\n", 0)]
)
@pytest.mark.parametrize("second", ["sign", "dog"])
def test_a_ragged_line_is_refused_with_its_number(glove: Path, lines: str, numbers: int, second: str):
    glove.write_text(LINES + lines)
    with pytest.raises(InputError, match=f"line 6: {numbers} numbers found, 3 expected"):
        glove_embeddings(LabelVocabulary(["cat", second]), str(glove))


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r\n", " \n"])
def test_empty_lines_at_the_end_are_skipped(glove: Path, end: str):
    glove.write_bytes((LINES + end).encode())
    embeddings = glove_embeddings(LabelVocabulary(["cat", "phone"]), str(glove))
    np.testing.assert_array_equal(embeddings.vectors, np.array([[1, 2, 3], [0.5, 0.5, 0.5]], np.float32))
    with pytest.raises(InputError, match="closest: phone"):
        glove_embeddings(LabelVocabulary(["cat", "phones"]), str(glove))


def test_a_truncated_file_is_refused(glove: Path):
    glove.write_text(LINES[:-9])
    with pytest.raises(InputError, match="line 5"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove))


def test_words_with_spaces_are_words_as_in_glove_840b(glove: Path):
    glove.write_text(LINES + ". . . 1.0 2.0 3.0\nat name@domain.com 4.0 5.0 6.0\ndog 7.0 8.0 9.0\n")
    embeddings = glove_embeddings(LabelVocabulary(["cat", "dog"]), str(glove))
    np.testing.assert_array_equal(embeddings.vectors[1], np.array([7, 8, 9], np.float32))


def test_a_header_line_is_refused(glove: Path):
    glove.write_text("5 3\n" + LINES)
    with pytest.raises(InputError, match="line 1: a word and its numbers were expected"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove))


def test_another_width_than_in_the_name_is_refused(glove: Path):
    named = glove.rename(glove.with_name("glove.6B.300d.txt"))
    with pytest.raises(InputError, match="line 1: 3 numbers found, 300 expected by the file's name"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(named))


def test_the_width_in_the_file_s_name_is_accepted(glove: Path):
    named = glove.rename(glove.with_name("glove.6B.3d.txt"))
    assert glove_embeddings(LabelVocabulary(["cat", "sign"]), str(named)).vectors.shape == (2, 3)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [("x", "not all numbers"), ("nan", "not finite"), ("1e300", "not finite in float32")],
)
def test_a_malformed_vector_is_refused_with_its_line(glove: Path, entry: str, complaint: str):
    glove.write_text(LINES + f"dog 1.0 2.0 {entry}\n")
    with pytest.raises(InputError, match=f"line 6: the vector of 'dog' is {complaint}"):
        glove_embeddings(LabelVocabulary(["cat", "dog"]), str(glove))


def test_a_word_given_twice_keeps_its_first_vector(glove: Path):
    glove.write_text(LINES + "cat 9.0 9.0 9.0\n")
    assert glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove)).vectors[0].tolist() == [1, 2, 3]


def test_windows_line_ends_are_accepted(glove: Path):
    glove.write_bytes(LINES.replace("\n", "\r\n").encode())
    assert glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove)).vectors[0].tolist() == [1, 2, 3]


def test_an_empty_file_is_refused(glove: Path):
    glove.write_text("")
    with pytest.raises(InputError, match="the file is empty"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove))


def test_a_member_of_an_archive_gives_the_same_vectors_as_its_text(glove: Path):
    """The official archive holds a member per width."""
    labels = LabelVocabulary(["cat", "stop sign"])
    with zipfile.ZipFile(glove.with_name("glove.6B.zip"), "w") as archive:
        for width in (50, 100, 200, 300):
            lines = (f"{word} " + " ".join([str(n)] * width) for n, word in enumerate(["cat", "stop"]))
            archive.writestr(f"glove.6B.{width}d.txt", "\n".join(lines))
    for width in (50, 100, 200, 300):
        url = str(glove.with_name("glove.6B.zip") / Path(f"glove.6B.{width}d.txt"))
        np.testing.assert_array_equal(glove_embeddings(labels, url).vectors, np.repeat([[0], [1]], width, 1))


def test_a_ragged_line_of_an_archive_is_refused_by_member_and_number(glove: Path):
    with zipfile.ZipFile(glove.with_name("v.zip"), "w") as archive:
        archive.writestr("v.txt", LINES + "dog 1.0\n")
    with pytest.raises(InputError, match=r"v\.zip/v\.txt, line 6: 1 numbers found, 3 expected"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove.with_name("v.zip")))


def test_another_width_than_in_the_only_member_s_name_is_refused(glove: Path):
    with zipfile.ZipFile(glove.with_name("v.zip"), "w") as archive:
        archive.writestr("glove.6B.300d.txt", LINES)
    with pytest.raises(InputError, match="line 1: 3 numbers found, 300 expected by the file's name"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), str(glove.with_name("v.zip")))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"glove\.6B\.50d\.txt: no such file"):
        glove_embeddings(LabelVocabulary(["cat", "sign"]), f"{tmp_path}/glove.6B.50d.txt")


def test_word_vectors_may_lie_on_a_web_server(site: Website):
    site.files["/glove.2d.txt"] = b"dog 1 2\ncat 3 4\n"
    labels = LabelVocabulary(["cat", "dog"])
    found = glove_embeddings(labels, f"{site.url}/glove.2d.txt?sig=secret")
    assert found.vectors.tolist() == [[3, 4], [1, 2]]
    site.files["/glove.2d.txt"] = b"dog 1 2\ncat 3\n"
    with pytest.raises(InputError, match=f"^{site.url}/glove.2d.txt, line 2: "):
        glove_embeddings(labels, f"{site.url}/glove.2d.txt?sig=secret")
