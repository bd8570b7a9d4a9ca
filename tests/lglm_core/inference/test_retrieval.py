import numpy as np
import pytest

from lglm_core.inference.retrieval import nearest


def random_features(n: int = 200, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return features, np.linalg.norm(features, axis=1)


@pytest.mark.parametrize("k", [1, 2, 17, 200])
def test_the_nearest_rows_are_those_of_a_brute_force_search(k: int):
    features, norms = random_features()
    query = np.random.default_rng(1).normal(size=16)
    cosines = [
        float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in features.astype(float)
    ]
    best = sorted(range(len(cosines)), key=lambda row: -cosines[row])[:k]
    hits = nearest(query, features, norms, k)
    assert [hit.row for hit in hits] == best
    assert [hit.similarity for hit in hits] == pytest.approx([cosines[row] for row in best], abs=1e-6)


def test_a_row_is_most_similar_to_itself():
    features, norms = random_features()
    hit = nearest(features[42], features, norms, 1)[0]
    assert (hit.row, hit.similarity) == (42, pytest.approx(1.0, abs=1e-6))


def test_features_stored_as_float16_need_no_normalisation():
    features, norms = random_features()
    stored = (features * 30).astype(np.float16)
    hits = nearest(features[7], stored, norms * 30, 3)
    assert hits[0].row == 7 and hits[0].similarity == pytest.approx(1.0, abs=1e-3)


def test_fewer_rows_are_returned_if_there_are_fewer():
    features, norms = random_features(n=3)
    assert sorted(hit.row for hit in nearest(features[0], features, norms, 10)) == [0, 1, 2]


def test_an_empty_table_has_no_neighbours():
    assert nearest(np.ones(4), np.empty((0, 4), np.float32), np.empty(0, np.float32), 3) == []


def test_equal_similarities_are_ordered_by_row():
    features = np.array([[1, 0], [0, 1], [2, 0], [0, 3], [1, 0]], np.float32)
    hits = nearest(np.array([1.0, 0.0]), features, np.linalg.norm(features, axis=1), 5)
    assert [hit.row for hit in hits] == [0, 2, 4, 1, 3]


def test_of_equal_similarities_at_the_cut_the_first_rows_are_taken():
    features = np.zeros((50, 2), np.float32)
    features[::2, 0], features[1::2, 1] = 1, 1
    hits = nearest(np.array([1.0, 0.0]), features, np.ones(50, np.float32), 7)
    assert [hit.row for hit in hits] == [0, 2, 4, 6, 8, 10, 12]


def test_a_row_of_length_zero_is_similar_to_nothing():
    features, norms = random_features(n=5)
    features[2], norms[2] = 0, 0
    similarity = {hit.row: hit.similarity for hit in nearest(features[0], features, norms, 5)}
    assert similarity[2] == 0


def test_a_query_of_length_zero_is_similar_to_nothing():
    features, norms = random_features(n=5)
    assert {hit.similarity for hit in nearest(np.zeros(16), features, norms, 5)} == {0.0}
