"""Multi-label metrics as the field defines them.

Targets are 1 (present), 0 (absent) or -1 (unknown: that entry is left out of every count and every average
precision). A label is predicted when its probability reaches a threshold, one half unless told otherwise;
*top-3* counts those of them that are also among the image's three highest.

Labels without positives have neither average precision nor recall: they are named, and left out of mAP, CP
and CR. The field averages over all C labels; where every label has a positive, the two are the same.

Source: Chen et al. (ML-GCN), CVPR 2019, arXiv:1904.03582, which reports both.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lglm_core.metrics import bootstrap
from lglm_core.metrics.average_precision import average_precisions

THRESHOLD = 0.5


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


def count(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = THRESHOLD, top: int | None = None
) -> Counts:
    """Count hits per label among the predictions.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        threshold: A label is predicted from this probability on.
        top: Predict only labels among the image's *top* highest as well; of equal scores the first label
            counts as higher, and an unknown label keeps its place.
    """
    predicted = scores >= threshold
    if top is not None and top < scores.shape[1]:
        predicted &= _among_highest(scores, top)
    predicted &= targets >= 0
    present = targets == 1
    return Counts((predicted & present).sum(axis=0), predicted.sum(axis=0), present.sum(axis=0))


def _among_highest(scores: np.ndarray, top: int) -> np.ndarray:
    """Mark the *top* highest of each row, bool [N, C]."""
    remaining, images = scores.copy(), np.arange(len(scores))
    among = np.zeros(scores.shape, dtype=bool)
    for _ in range(top):  # quicker than a partial sort, and of equals it takes the first
        highest = remaining.argmax(axis=1)
        among[images, highest] = True
        remaining[images, highest] = -np.inf
    return among


def summarise(counts: Counts) -> dict[str, float]:
    """CP, CR, CF1, OP, OR, OF1 in percent.

    CP and CR average over the labels that have positives (a label without any has no recall); CF1 and OF1
    are harmonic means of the two beside them. OP counts the false alarms of every label.
    """
    measured = counts.positives > 0
    cp, cr = _mean(counts.precision[measured]), _mean(counts.recall[measured])
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


@dataclass(frozen=True)
class Measurement:
    """What scores are worth, label by label; shares in [0, 1]."""

    average_precision: np.ndarray
    """float64 [C]; NaN for a label without positives."""
    prevalence: np.ndarray
    """float64 [C]: the average precision of a constant score."""
    counts: Counts
    """Of every label predicted."""
    top3: Counts
    """Of those among the image's three highest."""

    @property
    def measured(self) -> np.ndarray:
        """Which labels have positives, bool [C]."""
        return self.counts.positives > 0

    @property
    def mean_average_precision(self) -> float:
        """Over the labels that have positives; 0 where none has."""
        return _mean(self.average_precision[self.measured])


def measure(scores: np.ndarray, targets: np.ndarray, *, threshold: float = THRESHOLD) -> Measurement:
    """Measure all scores at once.

    Args:
        scores: Probabilities, float [N, C].
        targets: [N, C] of 1, 0, -1.
        threshold: A label is predicted from this probability on.

    Raises:
        RunError: the score of a known entry is NaN.
    """
    return Measurement(
        average_precision=average_precisions(scores, targets),
        prevalence=prevalence(targets),
        counts=count(scores, targets, threshold=threshold),
        top3=count(scores, targets, threshold=threshold, top=3),
    )


class MultiLabelMetrics:
    """Gathers scores batch by batch, on any number of workers, and measures them once.

    Average precision needs every score, so every score is kept, as it is (13 MB for 40,504 images of 80
    labels in float32). However the images are divided and in whatever order they come, ``compute`` returns
    what :func:`measure` makes of all at once, digit for digit. An image given twice counts twice: leave out
    what pads a worker's last batch.
    """

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def update(self, scores: np.ndarray, targets: np.ndarray) -> None:
        """Add a batch: probabilities [n, C] and targets [n, C] of 1, 0, -1; both are copied."""
        if scores.ndim != 2 or scores.shape != targets.shape:
            raise ValueError(f"scores are {scores.shape} and targets {targets.shape}; both must be [n, C]")
        self._scores.append(scores.copy())  # a loader may fill the same buffer again
        self._targets.append(targets.copy())

    def merge(self, other: Self) -> None:
        """Add what another worker gathered."""
        self._scores += other._scores
        self._targets += other._targets

    def compute(self, *, threshold: float = THRESHOLD) -> Measurement:
        """Measure everything gathered so far, of which there must be a batch."""
        return measure(np.concatenate(self._scores), np.concatenate(self._targets), threshold=threshold)


def evaluate(
    scores: np.ndarray, targets: np.ndarray, labels: list[str], training_shares: np.ndarray
) -> dict[str, Any]:
    """All metrics, in percent, as ``metrics.json`` holds them.

    ``mAP_low`` and ``mAP_high`` are the ends of the mAP's 95 % bootstrap interval, None where no label has
    positives. ``prior_mAP``, ``prior_CF1`` and ``prior_OF1`` are what giving every picture the same scores
    comes to: each label's share of the training pictures.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        labels: C names, to name those without positives.
        training_shares: In which share of the training pictures each label is, [C].
    """
    result = measure(scores, targets)
    measured = result.measured
    interval = bootstrap.interval(scores, targets) if measured.any() else None
    prior = summarise(count(np.broadcast_to(training_shares, scores.shape), targets))
    return {
        "mAP": 100 * result.mean_average_precision,
        "mAP_low": 100 * interval.low if interval else None,
        "mAP_high": 100 * interval.high if interval else None,
        **summarise(result.counts),
        "top3": summarise(result.top3),
        "prior_mAP": 100 * _mean(result.prevalence[measured]),
        "prior_CF1": prior["CF1"],
        "prior_OF1": prior["OF1"],
        "n_images": len(scores),
        "labels_without_positives": [name for name, there in zip(labels, measured, strict=True) if not there],
    }


def _mean(shares: np.ndarray) -> float:
    return float(shares.mean()) if len(shares) else 0.0


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def _harmonic(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return _ratio(2 * np.asarray(a) * b, np.asarray(a) + b)
