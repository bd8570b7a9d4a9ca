import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score

from lglm_core.sources.toy.coco import render
from lglm_core.sources.toy.drawings import LABELS
from lglm_core.sources.toy.scenes import SETTINGS, compose

pytestmark = pytest.mark.weighty


@pytest.fixture(scope="module")
def targets() -> NDArray[np.float64]:
    """The targets of 1,000 scenes, 0 or 1 per label; nothing is drawn."""
    rows = [{thing.label for thing in compose(0, index).things} for index in range(1000)]
    return np.array([[float(label in row) for label in LABELS] for row in rows])


def test_labels_are_neither_rare_nor_everywhere(targets: NDArray[np.float64]):
    prevalence = targets.mean(axis=0)
    assert 0.1 < prevalence.min() < prevalence.max() < 0.3
    assert 0.18 < prevalence.mean() < 0.24  # the mAP of a constant score
    assert 0 < (targets.sum(axis=1) == 0).mean() < 0.03


def test_some_labels_occur_together_and_others_avoid_each_other(targets: NDArray[np.float64]):
    prevalence = targets.mean(axis=0)
    lift = (targets.T @ targets / len(targets)) / np.outer(prevalence, prevalence)
    pairs = np.array([lift[a, b] for a, b in itertools.combinations(range(len(LABELS)), 2)])
    assert (pairs > 2).sum() >= 5
    assert (pairs < 0.5).sum() >= 5
    assert (pairs > 0).mean() > 0.9  # thanks to guests, hardly any pair is impossible


def test_every_label_has_a_setting():
    assert {label for setting in SETTINGS.values() for label in setting.companions} == set(LABELS)


def test_colours_do_not_reveal_the_labels(targets: NDArray[np.float64]):
    """Guessing scores the prior plus two points, by chance on 200 images; shapes score fifty more."""
    features = np.stack([colour_histogram(render(compose(0, index))) for index in range(1000)])
    features = (features - features[:800].mean(axis=0)) / (features[:800].std(axis=0) + 1e-6)
    best = max(probe(features, targets, strength) for strength in (10.0, 100.0, 1000.0))
    prior = 100 * targets[800:].mean()
    assert best < prior + 8


def colour_histogram(picture: Image.Image) -> NDArray[np.float64]:
    """Return the fraction of the picture that each of 4x4x4 colours covers."""
    levels = np.asarray(picture).reshape(-1, 3) // 64
    counts = np.bincount(levels @ (16, 4, 1), minlength=64)
    return counts / counts.sum()


def probe(features: NDArray[np.float64], targets: NDArray[np.float64], strength: float) -> float:
    """Return the mAP on the last 200 rows, in points, of a ridge regression fitted on the first 800."""
    train, val = features[:800], features[800:]
    gram = train.T @ train + strength * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, train.T @ (targets[:800] - targets[:800].mean(axis=0)))
    return 100 * float(average_precision_score(targets[800:], val @ weights, average="macro"))
