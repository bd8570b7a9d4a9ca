"""Average precision: how highly a label's positive images rank when all images are sorted by its score.

It is the mean, over a label's positives, of the precision among the images that score at least as high,
without interpolation. Equal scores share one threshold, so the order of ties does not matter (as in
scikit-learn). Targets are 1 (present), 0 (absent) or -1 (unknown: that image is left out).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lglm_core.errors import RunError


@dataclass(frozen=True)
class Ranking:
    """One label's known images, sorted once, so that any weighting of the images can be measured quickly.

    Each score of a positive is a threshold, G in all. Sorted from the highest score down, the images fall
    into G groups: a group holds the images that its threshold admits and the next higher one does not.
    Images below the lowest threshold affect no precision and are left out.
    """

    rows: np.ndarray
    """int [K]: the images, highest score first."""
    starts: np.ndarray
    """int [G]: where each group begins in ``rows``."""
    positive_rows: np.ndarray
    """int [P]: the images of ``rows`` that have the label."""
    positive_starts: np.ndarray
    """int [G]: where each group begins in ``positive_rows``."""


def rank(scores: np.ndarray, targets: np.ndarray) -> list[Ranking]:
    """Sort each label's known images.

    Args:
        scores: Probabilities or logits, float [N, C].
        targets: [N, C] of 1, 0, -1.

    Raises:
        RunError: The score of a known image is NaN.
        ValueError: Scores and targets differ in shape.
    """
    if scores.shape != targets.shape:
        raise ValueError(f"scores are {scores.shape} and targets {targets.shape}; both must be [N, C]")
    columns = zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(targets.T), strict=True)
    return [_rank(label, *column) for label, column in enumerate(columns)]


def _rank(label: int, scores: np.ndarray, targets: np.ndarray) -> Ranking:
    known = np.flatnonzero(targets >= 0)
    rows = known[np.argsort(scores[known])[::-1]]
    scores, present = scores[rows], targets[rows] == 1
    if len(rows) and np.isnan(scores[0]):  # argsort puts NaN last, and the order is reversed
        raise RunError(f"the score of image {rows[0]} for label {label} is NaN: the model has diverged")
    end_of_tie = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(rows)])
    hits = np.cumsum(present)[end_of_tie]
    is_threshold = np.diff(hits, prepend=0) > 0
    ends, positive_ends = end_of_tie[is_threshold] + 1, hits[is_threshold]
    return Ranking(
        rows=rows[: ends[-1] if len(ends) else 0],
        starts=np.append(0, ends)[:-1],
        positive_rows=rows[present],
        positive_starts=np.append(0, positive_ends)[:-1],
    )


def weighted_average_precision(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
    """Compute the average precision as if image i occurred ``weights[i]`` times.

    Args:
        ranking: One label's N images.
        weights: int [R, N], R weightings.

    Returns:
        float64 [R]; NaN for a weighting under which no positive has a weight above 0.
    """
    ap = np.full(len(weights), np.nan)
    if not len(ranking.starts):
        return ap
    taken = np.take(weights, ranking.rows, axis=1)
    admitted = np.cumsum(np.add.reduceat(taken, ranking.starts, axis=1), axis=1)
    positive = np.take(weights, ranking.positive_rows, axis=1)
    new_hits = np.add.reduceat(positive, ranking.positive_starts, axis=1)
    hits = np.cumsum(new_hits, axis=1)
    precision = hits / np.maximum(admitted, 1)  # if no image is admitted, there is no hit either
    return np.divide((new_hits * precision).sum(axis=1), hits[:, -1], out=ap, where=hits[:, -1] > 0)


def mean_average_precision(rankings: Sequence[Ranking], weights: np.ndarray) -> np.ndarray:
    """Compute the mean of the labels' average precisions, float64 [R], for weights int [R, N].

    A label without positives under a weighting is left out of that mean; if every label is, the mean is NaN.
    """
    total, labels = np.zeros(len(weights)), np.zeros(len(weights), dtype=int)
    for ranking in rankings:  # one at a time: [R, C] is small, but its intermediate results are not
        ap = weighted_average_precision(ranking, weights)
        total += np.nan_to_num(ap)
        labels += ~np.isnan(ap)
    return np.divide(total, labels, out=np.full(len(weights), np.nan), where=labels > 0)


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute each label's average precision in [0, 1], float64 [C]; NaN for a label without positives.

    Args:
        scores: Probabilities or logits, float [N, C].
        targets: [N, C] of 1, 0, -1.
    """
    once = np.ones((1, len(scores)), dtype=np.int32)
    return np.array([weighted_average_precision(ranking, once)[0] for ranking in rank(scores, targets)])
