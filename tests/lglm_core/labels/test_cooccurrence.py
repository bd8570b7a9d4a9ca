import numpy as np
import pytest

from lglm_core.labels.cooccurrence import (
    ROWS_AT_ONCE,
    cooccurrence_embeddings,
    fill_by_cooccurrence,
    label_counts,
    ppmi,
)
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary

# Eight pictures: a and b always together, c alone, d never.
TARGETS = np.array([[1, 1, 0, 0]] * 2 + [[0, 0, 1, 0]] * 4 + [[0, 0, -1, 0]] * 2)
LABELS = LabelVocabulary("abcd")


def test_counts_by_hand():
    """The diagonal counts the pictures of one label, the rest those of two; unknown ones do not count."""
    counts = label_counts(TARGETS)
    np.testing.assert_array_equal(counts, [[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    assert counts.dtype == np.int64


def test_counts_are_exact_over_many_pictures():
    """Also above 2²⁴, beyond which float32 cannot count."""
    targets = np.zeros((2 * ROWS_AT_ONCE + 3, 3), dtype=np.int8)
    targets[:, 0] = 1
    targets[::2, 1] = 1
    targets[1::2, 1] = -1
    many = label_counts(np.broadcast_to(targets[:1], (2**24 + 5, 3)))
    assert many[0, 0] == 2**24 + 5
    half = ROWS_AT_ONCE + 2
    np.testing.assert_array_equal(
        label_counts(targets), [[len(targets), half, 0], [half, half, 0], [0, 0, 0]]
    )


def test_counts_are_symmetric_and_no_pair_is_more_frequent_than_its_labels():
    counts = label_counts(np.random.default_rng(0).integers(-1, 2, (300, 6)))
    np.testing.assert_array_equal(counts, counts.T)
    assert (counts <= np.minimum.outer(counts.diagonal(), counts.diagonal())).all()


@pytest.mark.parametrize("pictures", [0, 1])
def test_no_picture_and_one_are_counted_too(pictures: int):
    np.testing.assert_array_equal(label_counts(np.ones((pictures, 2), np.int8)), np.full((2, 2), pictures))


def test_ppmi_by_hand():
    """p(a) = p(b) = p(a, b) = 1/4, so log 4; p(c) = 1/2, so log 2 with itself."""
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2, 2] = np.log(4), np.log(2)
    np.testing.assert_allclose(ppmi(TARGETS), expected)


def test_labels_that_avoid_each_other_have_no_negative_entry():
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 1]])
    assert ppmi(targets)[0, 1] == 0


def test_independent_labels_have_ppmi_zero():
    targets = np.array([[a, b] for a in (0, 1) for b in (0, 1)] * 5)
    assert abs(ppmi(targets)[0, 1]) < 1e-12


def test_vectors_factorise_the_ppmi():
    targets = np.random.default_rng(0).integers(0, 2, (300, 6)) & np.random.default_rng(1).integers(
        0, 2, (300, 6)
    )
    matrix = ppmi(targets)
    assert (np.linalg.eigvalsh(matrix) > 0).all()  # otherwise no vectors have it as their products
    vectors = cooccurrence_embeddings(LabelVocabulary("abcdef"), targets).vectors
    np.testing.assert_allclose(vectors @ vectors.T, matrix, atol=1e-5)


def test_labels_that_always_go_together_share_a_vector():
    vectors = cooccurrence_embeddings(LABELS, TARGETS).vectors
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert abs(vectors[0] @ vectors[2]) < 1e-6


def test_a_label_that_never_occurs_is_reported_and_has_a_zero_vector():
    embeddings = cooccurrence_embeddings(LABELS, TARGETS)
    assert embeddings.missing == ((), (), (), ("d",))
    assert embeddings.origin == ("ppmi", "ppmi", "ppmi", "zero")
    np.testing.assert_allclose(embeddings.vectors[3], 0, atol=1e-6)


def test_the_largest_entry_of_every_direction_is_positive():
    targets = np.random.default_rng(2).integers(0, 2, (60, 5))
    vectors = cooccurrence_embeddings(LabelVocabulary("abcde"), targets).vectors
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(5)] >= 0).all()


# Twelve pictures: the label e occurs with a in two of them, with c in one, and with d in one.
PICTURES = np.array(
    [[1, 0, 0, 0, 1]] * 2
    + [[0, 0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [-1, 0, 1, 0, -1]]
    + [[0, 0, 0, 0, 0]] * 6
)


def words_of_three(*lost: str) -> LabelEmbeddings:
    """Return vectors of the labels a to e; the labels *lost* have none."""
    labels = LabelVocabulary("abcde")
    vectors = np.array([[1, 0], [0, 1], [4, 4], [0, -2], [5, 5]], np.float32)
    origin = tuple("zero" if name in lost else "glove" for name in labels)
    vectors[[name in lost for name in labels]] = 0
    words = tuple(() if name in lost else (name,) for name in labels)
    return LabelEmbeddings(labels, vectors, words, ((),) * 5, origin, "glove")


def test_a_label_without_words_is_filled_with_the_mean_of_its_companions_by_hand():
    """PPMI with e, in 4 of 12: a log(2·12/(2·4)) = log 3, c log(12/(2·4)) = log 1.5, d log(12/4) = log 3."""
    filled = fill_by_cooccurrence(words_of_three("e"), PICTURES)
    weights = np.log([3, 1.5, 3])
    expected = weights @ np.array([[1, 0], [4, 4], [0, -2]]) / weights.sum()
    np.testing.assert_allclose(filled.vectors[4], expected, rtol=1e-6)
    assert (filled.words[4], filled.origin[4]) == (("a", "d", "c"), "cooccurrence")
    np.testing.assert_array_equal(filled.vectors[:4], words_of_three("e").vectors[:4])
    assert filled.origin[:4] == ("glove",) * 4


def test_only_vectors_that_words_gave_are_averaged():
    """Another label without words is left out, with its zeros and with the vector that fills it."""
    filled = fill_by_cooccurrence(words_of_three("e", "a"), PICTURES)
    assert filled.words[4] == ("d", "c")
    weights = np.log([1.5, 3])
    np.testing.assert_allclose(
        filled.vectors[4], weights @ np.array([[4, 4], [0, -2]]) / weights.sum(), rtol=1e-6
    )


def test_a_label_that_occurs_with_no_other_keeps_its_zeros():
    filled = fill_by_cooccurrence(words_of_three("b", "e"), PICTURES)
    assert (filled.origin[1], filled.words[1]) == ("zero", ())
    np.testing.assert_array_equal(filled.vectors[1], [0, 0])
    assert np.isfinite(filled.vectors).all()


def test_removing_a_label_that_is_not_in_a_mean_does_not_change_the_mean():
    """So the label can be held out, as if nobody had annotated it."""
    filled = fill_by_cooccurrence(words_of_three("e"), PICTURES)
    unlabelled = PICTURES.copy()
    unlabelled[:, 1] = 0
    again = fill_by_cooccurrence(words_of_three("e"), unlabelled)
    np.testing.assert_array_equal(again.vectors, filled.vectors)
    assert filled.learned_from("b") is None


def test_with_all_words_known_nothing_changes():
    embeddings = words_of_three()
    assert fill_by_cooccurrence(embeddings, PICTURES).digest == embeddings.digest
