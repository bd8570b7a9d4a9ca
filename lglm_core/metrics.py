"""Multi-label metrics as the field defines them, on arrays of all scores.

Targets are 1 (present), 0 (absent) or -1 (unknown: that entry is left out of every count).
A label is predicted when its logit is at least 0, that is its probability at least one half; *top-3*
counts those of them that are also among the image's three highest.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Per label: true positives, predicted positives, positives; each int64 [C]."""

    hits: np.ndarray
    predicted: np.ndarray
    positives: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Precision per label, 0 where nothing was predicted."""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Recall per label, 0 where there is nothing to find."""
        return _ratio(self.hits, self.positives)

    @property
    def f1(self) -> np.ndarray:
        """F1 per label."""
        return _harmonic(self.precision, self.recall)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the precision at each positive, without interpolation; NaN if there is no positive.

    Equal scores share one threshold, so the order of ties does not matter (as scikit-learn has it).

    Args:
        scores: float [N].
        targets: [N] of 1, 0, -1.
    """
    known = targets >= 0
    scores, present = scores[known], targets[known] == 1
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits_at, rank_at = hits[last_of_tie], np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(hits_at, prepend=0) * hits_at / rank_at) / hits[-1])


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each label, float64 [C], from scores and targets [N, C]."""
    return np.array([average_precision(scores[:, c], targets[:, c]) for c in range(scores.shape[1])])


def count(scores: np.ndarray, targets: np.ndarray, *, top: int | None = None) -> Counts:
    """Count hits per label among the predictions at probability one half.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        top: Predict only labels among the image's *top* highest as well.
    """
    predicted = scores >= 0.5
    if top is not None and top < scores.shape[1]:
        highest = np.argpartition(-scores, top - 1, axis=1)[:, :top]
        among_top = np.zeros_like(predicted)
        np.put_along_axis(among_top, highest, True, axis=1)
        predicted &= among_top
    predicted &= targets >= 0
    present = targets == 1
    return Counts((predicted & present).sum(axis=0), predicted.sum(axis=0), present.sum(axis=0))


def summarise(counts: Counts) -> dict[str, float]:
    """CP, CR, CF1, OP, OR, OF1 in percent.

    CP and CR average over the labels that have positives (a label without any has no recall); CF1 and OF1
    are harmonic means of the two beside them.
    """
    measured = counts.positives > 0
    cp = float(counts.precision[measured].mean()) if measured.any() else 0.0
    cr = float(counts.recall[measured].mean()) if measured.any() else 0.0
    op = float(_ratio(counts.hits.sum(), counts.predicted.sum()))
    overall_recall = float(_ratio(counts.hits.sum(), counts.positives.sum()))
    values = {
        "CP": cp,
        "CR": cr,
        "CF1": float(_harmonic(cp, cr)),
        "OP": op,
        "OR": overall_recall,
        "OF1": float(_harmonic(op, overall_recall)),
    }
    return {name: 100 * value for name, value in values.items()}


def prevalence(targets: np.ndarray) -> np.ndarray:
    """Share of the known entries in which each label is present, float64 [C]: the AP of a constant score."""
    return _ratio((targets == 1).sum(axis=0), (targets >= 0).sum(axis=0))


def evaluate(
    scores: np.ndarray, targets: np.ndarray, labels: list[str], training_shares: np.ndarray
) -> dict[str, Any]:
    """All metrics, in percent, as ``metrics.json`` holds them.

    ``prior_mAP``, ``prior_CF1`` and ``prior_OF1`` are what giving every picture the same scores comes to:
    each label's share of the training pictures.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        labels: C names, to name those without positives.
        training_shares: In which share of the training pictures each label is, [C].
    """
    ap = average_precisions(scores, targets)
    measured = ~np.isnan(ap)
    prior = summarise(count(np.broadcast_to(training_shares, scores.shape), targets))
    return {
        "mAP": _percent(ap[measured]),
        **summarise(count(scores, targets)),
        "top3": summarise(count(scores, targets, top=3)),
        "prior_mAP": _percent(prevalence(targets)[measured]),
        "prior_CF1": prior["CF1"],
        "prior_OF1": prior["OF1"],
        "n_images": len(scores),
        "labels_without_positives": [name for name, there in zip(labels, measured, strict=True) if not there],
    }


def _percent(shares: np.ndarray) -> float:
    return 100 * float(shares.mean()) if len(shares) else 0.0


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def _harmonic(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return _ratio(2 * np.asarray(a) * b, np.asarray(a) + b)
