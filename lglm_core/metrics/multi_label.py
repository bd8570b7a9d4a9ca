"""Multi-label metrics as the field defines them: mAP, CP, CR, CF1, OP, OR, OF1, and their top-3 variants.

Targets are 1 (present), 0 (absent) or -1 (unknown: that entry is left out of every count and every average
precision). A label is predicted when its probability reaches a threshold, by default one half; *top-3* counts
only the predicted labels that are also among the image's three highest.

Labels without positives have neither average precision nor recall: they are reported, and left out of mAP, CP
and CR. The field averages over all C labels; if every label has a positive, the two are the same.

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
    """Counts per label: true positives, predicted positives and positives, each int64 [C]."""

    hits: np.ndarray
    predicted: np.ndarray
    positives: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Precision per label, float64 [C]; 0 for a label that is never predicted."""
        return _ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Recall per label, float64 [C]; 0 for a label without positives."""
        return _ratio(self.hits, self.positives)

    @property
    def f1(self) -> np.ndarray:
        """F1 per label, float64 [C]; 0 if precision and recall are."""
        return _harmonic(self.precision, self.recall)


def count(
    scores: np.ndarray, targets: np.ndarray, *, threshold: float = THRESHOLD, top: int | None = None
) -> Counts:
    """Count each label's positives, predictions and true positives.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        threshold: A label is predicted if its probability is at least this.
        top: Predict only labels that are also among the image's *top* highest. Of equal scores the first
            label ranks higher; unknown labels are ranked like others.
    """
    predicted = scores >= threshold
    if top is not None and top < scores.shape[1]:
        predicted &= _among_highest(scores, top)
    predicted &= targets >= 0
    present = targets == 1
    return Counts((predicted & present).sum(axis=0), predicted.sum(axis=0), present.sum(axis=0))


def _among_highest(scores: np.ndarray, top: int) -> np.ndarray:
    """Mark the *top* highest scores of each row, bool [N, C]."""
    remaining, images = scores.copy(), np.arange(len(scores))
    among = np.zeros(scores.shape, dtype=bool)
    for _ in range(top):  # faster than a partial sort, and the first of equal scores wins
        highest = remaining.argmax(axis=1)
        among[images, highest] = True
        remaining[images, highest] = -np.inf
    return among


def summarise(counts: Counts) -> dict[str, float]:
    """Compute CP, CR, CF1, OP, OR and OF1, in percent.

    CP and CR average over the labels that have positives (a label without any has no recall); CF1 is the
    harmonic mean of CP and CR, and OF1 of OP and OR. OP counts the false positives of every label.
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
    """Return the fraction of known entries in which each label is present, float64 [C].

    This is also the average precision of a constant score.
    """
    return _ratio((targets == 1).sum(axis=0), (targets >= 0).sum(axis=0))


@dataclass(frozen=True)
class Measurement:
    """Metrics of scores, label by label; fractions are in [0, 1]."""

    average_precision: np.ndarray
    """Average precision per label, float64 [C]; NaN for a label without positives."""
    prevalence: np.ndarray
    """Fraction of known entries in which each label is present, float64 [C]."""
    counts: Counts
    """Counts of all predicted labels."""
    top3: Counts
    """Counts of predicted labels among their image's three highest scores."""

    @property
    def measured(self) -> np.ndarray:
        """Mask of the labels that have positives, bool [C]."""
        return self.counts.positives > 0

    @property
    def mean_average_precision(self) -> float:
        """Mean average precision over the labels that have positives; 0 if none has."""
        return _mean(self.average_precision[self.measured])


def measure(scores: np.ndarray, targets: np.ndarray, *, threshold: float = THRESHOLD) -> Measurement:
    """Compute all metrics of a set of images.

    Args:
        scores: Probabilities, float [N, C].
        targets: [N, C] of 1, 0, -1.
        threshold: A label is predicted if its probability is at least this.

    Raises:
        RunError: The score of a known entry is NaN.
    """
    return Measurement(
        average_precision=average_precisions(scores, targets),
        prevalence=prevalence(targets),
        counts=count(scores, targets, threshold=threshold),
        top3=count(scores, targets, threshold=threshold, top=3),
    )


class MultiLabelMetrics:
    """Collects scores batch by batch, on any number of workers, and computes metrics of all of them.

    Average precision needs every score, so every score is kept (13 MB for 40,504 images of 80 labels in
    float32). However the images are divided, and in whatever order they come, ``compute`` returns exactly
    what :func:`measure` returns for all images at once. An image that is added twice counts twice, so leave
    out the padding of a worker's last batch.
    """

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def update(self, scores: np.ndarray, targets: np.ndarray) -> None:
        """Add a batch: probabilities [n, C] and targets [n, C] of 1, 0, -1; both are copied.

        Raises:
            ValueError: The two differ in shape.
        """
        if scores.ndim != 2 or scores.shape != targets.shape:
            raise ValueError(f"scores are {scores.shape} and targets {targets.shape}; both must be [n, C]")
        self._scores.append(scores.copy())  # the caller may reuse its buffer
        self._targets.append(targets.copy())

    def merge(self, other: Self) -> None:
        """Add the scores that another worker collected."""
        self._scores += other._scores
        self._targets += other._targets

    def compute(self, *, threshold: float = THRESHOLD) -> Measurement:
        """Return the metrics of all batches added so far, of which there must be at least one."""
        return measure(np.concatenate(self._scores), np.concatenate(self._targets), threshold=threshold)


def evaluate(
    scores: np.ndarray, targets: np.ndarray, labels: list[str], training_prevalence: np.ndarray
) -> dict[str, Any]:
    """Compute all metrics, in percent, in the form that ``metrics.json`` stores.

    ``mAP_low`` and ``mAP_high`` are the bounds of the mAP's 95 % bootstrap interval, None if no label has
    positives. ``prior_mAP``, ``prior_CF1`` and ``prior_OF1`` are the metrics of a baseline that gives every
    image the same scores: each label's prevalence in training.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1, 0, -1.
        labels: C names, used to report the labels without positives.
        training_prevalence: The fraction of training images that have each label, [C].
    """
    result = measure(scores, targets)
    measured = result.measured
    interval = bootstrap.interval(scores, targets) if measured.any() else None
    prior = summarise(count(np.broadcast_to(training_prevalence, scores.shape), targets))
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
        "labels_without_positives": [name for name, found in zip(labels, measured, strict=True) if not found],
    }


def _mean(fractions: np.ndarray) -> float:
    return float(fractions.mean()) if len(fractions) else 0.0


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def _harmonic(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    return _ratio(2 * np.asarray(a) * b, np.asarray(a) + b)
