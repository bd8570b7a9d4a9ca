"""Label vectors from the labels alone: which go together in the training split.

Source: Levy and Goldberg, NeurIPS 2014: word vectors factorise a matrix of pointwise mutual information.
"""

from dataclasses import replace

import numpy as np

from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary

MAX_WIDTH = 300
ROWS_AT_ONCE = 8192


def label_counts(targets: np.ndarray) -> np.ndarray:
    """In how many pictures two labels are together, int64 [C, C]; on the diagonal, a label at all.

    Args:
        targets: [N, C] of 1, 0, -1; only 1 counts.
    """
    labels = targets.shape[1]
    counts = np.zeros((labels, labels), dtype=np.int64)
    for start in range(0, len(targets), ROWS_AT_ONCE):
        # Exact in float32 for so few rows, and many times as fast as integers.
        present = (targets[start : start + ROWS_AT_ONCE] == 1).astype(np.float32)
        counts += (present.T @ present).astype(np.int64)
    return counts


def ppmi(targets: np.ndarray) -> np.ndarray:
    """Positive pointwise mutual information of labels, in nats, [C, C].

    Args:
        targets: [N, C] of 1, 0, -1; only 1 counts.

    Returns:
        max(0, log(p(i, j) / (p(i) p(j)))); a label that never occurs has zeros.
    """
    together = label_counts(targets).astype(np.float64)
    alone = np.diag(together)
    expected = np.outer(alone, alone) / max(len(targets), 1)
    ratio = np.divide(together, expected, out=np.ones_like(together), where=together > 0)
    return np.maximum(np.log(ratio), 0.0)


def cooccurrence_embeddings(labels: LabelVocabulary, targets: np.ndarray) -> LabelEmbeddings:
    """Embed labels by a truncated singular value decomposition of their PPMI.

    Args:
        labels: C names.
        targets: Those of the training split, [N, C].
    """
    u, singular, _ = np.linalg.svd(ppmi(targets), hermitian=True)
    width = min(len(labels), MAX_WIDTH)
    vectors = u[:, :width] * np.sqrt(singular[:width])
    # The sign of each singular vector is free; fix it, so that every machine gives the same one.
    vectors *= np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)] < 0, -1.0, 1.0)
    occurs = (targets == 1).any(axis=0)
    return LabelEmbeddings(
        labels=labels,
        vectors=vectors.astype(np.float32),
        words=tuple((label,) if there else () for label, there in zip(labels, occurs, strict=True)),
        missing=tuple(() if there else (label,) for label, there in zip(labels, occurs, strict=True)),
        origin=tuple("ppmi" if there else "zero" for there in occurs),
        source="ppmi",
    )


def fill_by_cooccurrence(embeddings: LabelEmbeddings, targets: np.ndarray) -> LabelEmbeddings:
    """Give labels without a vector the mean of those they go together with, weighted by their PPMI.

    The mean is of vectors that words gave, so it lies in their space. A label that goes together with none
    keeps its zeros. The labels it came from become its words, those of most weight first.

    Args:
        embeddings: Of C labels; those of origin ``zero`` are filled.
        targets: Those of the training split, [N, C] of 1, 0, -1.
    """
    empty = np.array([origin == "zero" for origin in embeddings.origin])
    weights = np.where(empty, 0.0, ppmi(targets))
    vectors, words, origin = embeddings.vectors.copy(), list(embeddings.words), list(embeddings.origin)
    for column in np.flatnonzero(empty & weights.any(axis=1)):
        vectors[column] = np.average(embeddings.vectors, axis=0, weights=weights[column])
        heaviest_first = np.argsort(-weights[column], kind="stable")
        words[column] = tuple(embeddings.labels[other] for other in heaviest_first if weights[column, other])
        origin[column] = "cooccurrence"
    return replace(embeddings, vectors=vectors, words=tuple(words), origin=tuple(origin))
