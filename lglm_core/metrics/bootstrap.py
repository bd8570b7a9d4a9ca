"""Confidence intervals of an mAP, and of the difference of two, by the bootstrap over images.

A resample draws as many images as there are, with replacement, and the mAP is measured on it. A resample is
represented by how often each image occurs in it, so that each label is sorted once and not once per resample;
the results are exactly those of the drawn images. mAPs are in [0, 1].

A label that no image of a resample has is left out of that resample's mean.

Average precision is biased upwards when positives are few, and a resample holds fewer distinct positives than
the images do. Resampled mAPs of a small split are therefore too high: by about one standard deviation for 206
images of 80 labels, by a third of one for 40,000. To correct this, an interval is shifted so that the median
of its resamples equals the measured mAP. Paired differences are mostly free of this bias.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lglm_core.errors import RunError
from lglm_core.metrics.average_precision import mean_average_precision, rank

RESAMPLES = 1000
COVERAGE = 0.95
WEIGHTS_AT_ONCE = 2_000_000  # 8 MB: more than fits in the caches is not faster


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval: the bounds of the middle 95 % of resampled values."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The difference in mAP of two models on the same images, with its 95 % confidence interval."""

    difference: float
    """The first model's mAP minus the second's, measured on the images themselves."""
    low: float
    """The lower bound of the middle 95 % of the resampled differences."""
    high: float
    """The upper bound of the middle 95 % of the resampled differences."""
    first_better: float
    """The fraction of resamples in which the first model's mAP is the higher one."""


def interval(
    scores: np.ndarray, targets: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the 95 % confidence interval of the mAP: the resamples' spread around the measured mAP.

    Args:
        scores: Probabilities or logits, float [N, C].
        targets: [N, C] of 1, 0, -1.
        resamples: The number of resamples to draw.
        seed: The seed of the draw.

    Raises:
        RunError: No image has any label.
    """
    (resampled,) = _resampled_maps([scores], targets, resamples, seed)
    shifted = _middle_interval(resampled - np.median(resampled) + _measured_map(scores, targets))
    return Interval(max(shifted.low, 0.0), min(shifted.high, 1.0))


def compare(
    first: np.ndarray, second: np.ndarray, targets: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two models by the paired bootstrap: each resample measures both on the same images.

    Args:
        first: One model's scores, float [N, C].
        second: The other model's scores, for the same images in the same order.
        targets: [N, C] of 1, 0, -1.
        resamples: The number of resamples to draw.
        seed: The seed of the draw.

    Raises:
        RunError: No image has any label.
    """
    first_map, second_map = (_measured_map(scores, targets) for scores in (first, second))
    resampled_first, resampled_second = _resampled_maps([first, second], targets, resamples, seed)
    differences = resampled_first - resampled_second
    middle = _middle_interval(differences)
    return Comparison(float(first_map - second_map), middle.low, middle.high, float((differences > 0).mean()))


def _measured_map(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mAP of the images themselves, each counted once."""
    once = np.ones((1, len(targets)), dtype=np.int32)
    return float(mean_average_precision(rank(scores, targets), once)[0])


def _resampled_maps(models: list[np.ndarray], targets: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return each model's mAP on each resample in which some image has a label, float64 [models, R]."""
    if not (targets == 1).any():
        raise RunError("no image has any label: there is no mAP to resample")
    rankings = [rank(scores, targets) for scores in models]
    maps = np.concatenate(
        [
            [mean_average_precision(each, weights) for each in rankings]
            for weights in _occurrences(len(targets), resamples, seed)
        ],
        axis=1,
    )
    return maps[:, ~np.isnan(maps[0])]  # all models have the same targets, hence NaN in the same resamples


def _occurrences(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image occurs in each resample, int32 [r, images], some resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        weights = np.empty((min(at_once, resamples - start), images), dtype=np.int32)
        for row in weights:
            row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
        yield weights


def _middle_interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))
