import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.classification import MultilabelAveragePrecision

from lglm_core.errors import RunError
from lglm_core.metrics.average_precision import average_precisions
from lglm_core.metrics.multi_label import MultiLabelMetrics, measure


def one(scores: list[float], targets: list[int]) -> float:
    """Return the average precision of a single label."""
    return float(average_precisions(np.array([scores]).T, np.array([targets]).T)[0])


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((200, 6)), rng.integers(0, 2, (200, 6))


def unknowns(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((200, 6)), rng.integers(-1, 2, (200, 6))


def two_levels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 2, (200, 6)) / 3, rng.integers(-1, 2, (200, 6))


def five_levels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 5, (200, 6)) / 7, rng.integers(-1, 2, (200, 6))


def constant(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.full((200, 6), 0.3), rng.integers(-1, 2, (200, 6))


def single_positives(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = np.zeros((200, 6), dtype=int)
    targets[rng.integers(200, size=6), np.arange(6)] = 1
    return rng.random((200, 6)), targets


def all_positive(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((200, 6)), np.ones((200, 6), dtype=int)


def worst_first(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    targets = rng.integers(0, 2, (200, 6))
    return (rng.random((200, 6)) + 1 - targets) / 2, targets


def barely_apart(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring float64 numbers: one rounding to float32 would make them all equal."""
    return 0.5 + rng.integers(0, 50, (200, 6)) * 2.0**-53, rng.integers(-1, 2, (200, 6))


def saturated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.choice([0.0, 5e-324, 1e-300, 1 - 2**-53, 1.0], (200, 6)), rng.integers(-1, 2, (200, 6))


CASES = [
    *(random_case, unknowns, two_levels, five_levels, constant, single_positives, all_positive),
    *(worst_first, barely_apart, saturated),
]
Case = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def double() -> object:
    """Let torchmetrics divide in float64; it divides counts in torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def torchmetrics_ap(scores: np.ndarray, targets: np.ndarray, average: str = "none") -> np.ndarray:
    metric = MultilabelAveragePrecision(scores.shape[1], average=average, thresholds=None, ignore_index=-1)
    return metric(torch.from_numpy(scores), torch.from_numpy(targets)).numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_average_precision_agrees_with_scikit_learn(case: Case, seed: int):
    scores, targets = case(np.random.default_rng(seed))
    known = targets >= 0
    theirs = [
        average_precision_score(t[k], s[k]) for s, t, k in zip(scores.T, targets.T, known.T, strict=True)
    ]
    np.testing.assert_allclose(average_precisions(scores, targets), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("double")
def test_average_precision_agrees_with_torchmetrics(case: Case, seed: int):
    scores, targets = case(np.random.default_rng(seed))
    ours = average_precisions(scores, targets)
    np.testing.assert_allclose(ours, torchmetrics_ap(scores, targets), rtol=0, atol=1e-12)
    assert measure(scores, targets).mean_average_precision == pytest.approx(
        float(torchmetrics_ap(scores, targets, "macro")), abs=1e-12
    )


def test_torchmetrics_itself_divides_in_float32():
    """Given float64 scores it still returns float32, right to seven digits; ours are float64."""
    scores, targets = random_case(np.random.default_rng(0))
    ours, theirs = average_precisions(scores, targets), torchmetrics_ap(scores, targets)
    assert (ours.dtype, theirs.dtype) == (np.float64, np.float32)
    assert 1e-9 < np.abs(ours - theirs).max() < 1e-6


@pytest.mark.filterwarnings("ignore:No positive")
@pytest.mark.usefixtures("double")
def test_without_positives_others_report_zero_and_we_report_nan():
    """scikit-learn and torchmetrics put 0 into their means; ours are over the labels with positives."""
    scores, targets = random_case(np.random.default_rng(0))
    targets[:, 2] = np.where(targets[:, 2] == 1, 0, -1)
    ours = average_precisions(scores, targets)
    assert np.flatnonzero(np.isnan(ours)).tolist() == [2]
    known = targets[:, 2] == 0
    assert average_precision_score(targets[known, 2], scores[known, 2]) == 0
    assert torchmetrics_ap(scores, targets)[2] == 0
    mean = measure(scores, targets).mean_average_precision
    assert mean == pytest.approx(np.nanmean(ours), abs=1e-12)
    assert float(torchmetrics_ap(scores, targets, "macro")) == pytest.approx(mean * 5 / 6, abs=1e-12)


def test_average_precision_by_hand():
    """Positives at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3."""
    assert one([0.9, 0.7, 0.5, 0.3], [1, 0, 1, 1]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_a_single_positive_scores_one_over_its_rank():
    assert one([0.9, 0.8, 0.3, 0.1], [0, 0, 1, 0]) == pytest.approx(1 / 3)


def test_equal_scores_share_one_threshold_whatever_their_order():
    """The second threshold admits all four, two of them right: (1/1 + 2/4) / 2."""
    for targets in ([1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]):
        assert one([0.9, 0.5, 0.5, 0.5], targets) == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_unknown_images_are_left_out():
    assert one([0.9, 0.8, 0.7, 0.6], [-1, 1, 0, 1]) == one([0.8, 0.7, 0.6], [1, 0, 1])


@pytest.mark.parametrize("targets", [[0, -1], [-1, -1], [0, 0], []])
def test_without_positives_it_is_nan(targets: list[int]):
    assert np.isnan(one([0.3, 0.4][: len(targets)], targets))


def test_logits_rank_as_their_probabilities():
    logits = np.random.default_rng(0).normal(size=(100, 3))
    targets = np.random.default_rng(1).integers(0, 2, (100, 3))
    probabilities = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(
        average_precisions(logits, targets), average_precisions(probabilities, targets)
    )


def test_a_score_that_is_nan_is_named():
    scores, targets = random_case(np.random.default_rng(0))
    scores[7, 4] = np.nan
    with pytest.raises(RunError, match="image 7 for label 4 is NaN"):
        average_precisions(scores, targets)


def test_scores_and_targets_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) and targets \(2, 3\)"):
        average_precisions(np.zeros((3, 2)), np.zeros((2, 3)))


def test_coco_is_measured_within_a_second_on_one_core():
    """Its validation images and labels, 40,504 × 80, in batches from two workers; usually 0.2 s."""
    rng = np.random.default_rng(0)
    scores = rng.random((40_504, 80), dtype=np.float32)
    targets = (rng.random((40_504, 80), dtype=np.float32) < 0.036).astype(np.int8)
    seconds = []
    for _ in range(3):
        started = time.process_time()  # of all threads
        workers = MultiLabelMetrics(), MultiLabelMetrics()
        for batch, start in enumerate(range(0, len(scores), 256)):
            workers[batch % 2].update(scores[start : start + 256], targets[start : start + 256])
        workers[0].merge(workers[1])
        workers[0].compute()
        seconds.append(time.process_time() - started)
    assert median(seconds) < 1.0
