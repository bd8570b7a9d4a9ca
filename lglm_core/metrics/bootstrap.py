"""How far an mAP can be trusted: the bootstrap over images.

The images are drawn anew, as many as there are and with replacement, and the mAP is measured on each
such resample. A resample is written as how often each image occurs in it, so that each label is sorted once
and not once per resample; the mAPs are exactly those of the images drawn. mAPs are in [0, 1].

A label that no image of a resample carries is left out of that resample's mean.

Few positives flatter a label's average precision, and a resample holds fewer different ones than the images
do. So resampled mAPs of a small split lie high: by about one standard deviation at 206 images of 80 labels,
by a third of one at 40,000. An interval is therefore moved until its resamples' median is the mAP measured.
A paired difference is mostly free of this.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lglm_core.errors import RunError
from lglm_core.metrics.average_precision import mean_average_precision, rank

RESAMPLES = 1000
COVERAGE = 0.95
WEIGHTS_AT_ONCE = 2_000_000  # 8 MB: beyond the caches, more at once is no quicker


@dataclass(frozen=True)
class Interval:
    """Between which two mAPs the middle 95 % of the resamples lie, moved to the mAP measured."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Of two models on the same images: by how much the first one's mAP is higher, and how sure that is."""

    difference: float
    """mAP of the first minus mAP of the second, on all images once."""
    low: float
    """The middle 95 % of the resampled differences lie from here …"""
    high: float
    """… to here."""
    first_better: float
    """The share of the resamples in which the first model's mAP is the higher one."""


def interval(
    scores: np.ndarray, targets: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the 95 % interval of the mAP: the spread of the resamples around the mAP measured.

    Args:
        scores: Probabilities or logits, float [N, C].
        targets: [N, C] of 1, 0, -1.

    Raises:
        RunError: no image carries any label.
    """
    (resampled,) = _resampled_maps([scores], targets, resamples, seed)
    moved = _middle(resampled - np.median(resampled) + _once(scores, targets))
    return Interval(max(moved.low, 0.0), min(moved.high, 1.0))


def compare(
    first: np.ndarray, second: np.ndarray, targets: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two models by the paired bootstrap: each resample measures both on the same images.

    Args:
        first: One model's scores, float [N, C].
        second: The other's, for the same images in the same order.
        targets: [N, C] of 1, 0, -1.

    Raises:
        RunError: no image carries any label.
    """
    ours, theirs = (_once(scores, targets) for scores in (first, second))
    resampled_ours, resampled_theirs = _resampled_maps([first, second], targets, resamples, seed)
    differences = resampled_ours - resampled_theirs
    middle = _middle(differences)
    return Comparison(float(ours - theirs), middle.low, middle.high, float((differences > 0).mean()))


def _once(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mAP of all images once."""
    every = np.ones((1, len(targets)), dtype=np.int32)
    return float(mean_average_precision(rank(scores, targets), every)[0])


def _resampled_maps(models: list[np.ndarray], targets: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the mAP of each model on each resample in which any image carries any label."""
    if not (targets == 1).any():
        raise RunError("no image carries any label: there is no mAP to resample")
    rankings = [rank(scores, targets) for scores in models]
    maps = np.concatenate(
        [
            [mean_average_precision(each, weights) for each in rankings]
            for weights in _occurrences(len(targets), resamples, seed)
        ],
        axis=1,
    )
    return maps[:, ~np.isnan(maps[0])]  # the models share their targets, and so the resamples without any


def _occurrences(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image occurs in each resample, int32 [some, images] at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // images)
    for start in range(0, resamples, at_once):
        weights = np.empty((min(at_once, resamples - start), images), dtype=np.int32)
        for row in weights:
            row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
        yield weights


def _middle(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))
