"""Nearest neighbours of a feature by cosine similarity."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hit:
    """A row of the searched features, and its cosine similarity to the query."""

    row: int
    similarity: float


def nearest(query: np.ndarray, features: np.ndarray, norms: np.ndarray, k: int) -> list[Hit]:
    """Return the *k* rows most similar to *query*, best first.

    Args:
        query: The query's feature, float [D].
        features: The features to search, float16 or float32 [N, D], not normalised.
        norms: Lengths of the features, float32 [N]; a length of 0 gives the similarity 0.
        k: How many rows to return, at least 1; there are fewer results where N is smaller.
    """
    query = query.astype(np.float32)
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    similarity = features.astype(np.float32) @ query / np.maximum(norms, 1e-12)
    best = np.argsort(-similarity, kind="stable")[:k]
    return [Hit(int(row), float(similarity[row])) for row in best]
