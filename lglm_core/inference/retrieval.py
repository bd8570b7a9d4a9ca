"""The k nearest neighbours of a feature, by cosine similarity."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hit:
    """A row of the searched features and its cosine similarity to the query."""

    row: int
    similarity: float


def nearest(query: np.ndarray, features: np.ndarray, norms: np.ndarray, k: int) -> list[Hit]:
    """Return the *k* rows most similar to *query*, best first.

    Args:
        query: float [D].
        features: float16 or float32 [N, D], not normalised.
        norms: float32 [N], the features' lengths; 0 makes a row similar to nothing.
        k: At least 1; fewer rows come back if N is smaller.
    """
    query = query.astype(np.float32)
    query = query / max(float(np.linalg.norm(query)), 1e-12)
    similarity = features.astype(np.float32) @ query / np.maximum(norms, 1e-12)
    best = np.argsort(-similarity, kind="stable")[:k]
    return [Hit(int(row), float(similarity[row])) for row in best]
