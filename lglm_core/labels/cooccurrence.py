"""Label vectors from co-occurrence: which labels appear together in the training split.

Source: Levy and Goldberg, NeurIPS 2014: word vectors factorise a matrix of pointwise mutual information.
"""

from dataclasses import replace

import numpy as np

from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary

MAX_WIDTH = 300
ROWS_AT_ONCE = 8192


def label_counts(targets: np.ndarray) -> np.ndarray:
    """Count the pictures that show two labels together, int64 [C, C]; the diagonal counts each label alone.

    Args:
        targets: [N, C] of 1, 0, -1; only 1 counts.
    """
    labels = targets.shape[1]
    counts = np.zeros((labels, labels), dtype=np.int64)
    for start in range(0, len(targets), ROWS_AT_ONCE):
        # float32 is exact for so few rows, and many times as fast as integers.
        present = (targets[start : start + ROWS_AT_ONCE] == 1).astype(np.float32)
        counts += (present.T @ present).astype(np.int64)
    return counts


def ppmi(targets: np.ndarray) -> np.ndarray:
    """Compute the positive pointwise mutual information (PPMI) of labels, in nats, float64 [C, C].

    Args:
        targets: [N, C] of 1, 0, -1; only 1 counts.

    Returns:
        max(0, log(p(i, j) / (p(i) p(j)))); zeros for a label that never occurs.
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
        targets: The training split's targets, [N, C] of 1, 0, -1.

    Returns:
        Vectors of min(C, 300) numbers; a label that never occurs has zeros.
    """
    u, singular, _ = np.linalg.svd(ppmi(targets), hermitian=True)
    width = min(len(labels), MAX_WIDTH)
    vectors = u[:, :width] * np.sqrt(singular[:width])
    # The sign of each singular vector is arbitrary; fix it, so that every machine gives the same one.
    vectors *= np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)] < 0, -1.0, 1.0)
    occurs = (targets == 1).any(axis=0)
    return LabelEmbeddings(
        labels=labels,
        vectors=vectors.astype(np.float32),
        words=tuple((label,) if found else () for label, found in zip(labels, occurs, strict=True)),
        missing=tuple(() if found else (label,) for label, found in zip(labels, occurs, strict=True)),
        origin=tuple("ppmi" if found else "zero" for found in occurs),
        source="ppmi",
    )


def fill_by_cooccurrence(embeddings: LabelEmbeddings, targets: np.ndarray) -> LabelEmbeddings:
    """Fill labels without a vector with the PPMI-weighted mean of the labels they occur together with.

    Only vectors that come from words are averaged, so the mean lies in the space of word vectors. A label
    that occurs together with no such label keeps its zeros. A filled label's ``words`` are the labels in its
    mean, the heaviest first.

    Args:
        embeddings: Vectors of C labels; the labels of origin ``zero`` are filled.
        targets: The training split's targets, [N, C] of 1, 0, -1.
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
