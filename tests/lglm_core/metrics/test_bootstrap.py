import time

import numpy as np
import pytest

from lglm_core.errors import RunError
from lglm_core.metrics import bootstrap
from lglm_core.metrics.average_precision import average_precisions

RESAMPLES = 60


def rare_labels(images: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets of labels from frequent to absent, with ties and unknown entries."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 7)) < [0.5, 0.3, 0.1, 0.05, 0, 0, 0]).astype(int)
    targets[rng.random(targets.shape) < 0.1] = -1
    targets[3, 4] = targets[5, 5] = 1
    scores = np.round(rng.random((images, 7)) + 0.3 * targets, 2)
    return scores, targets


def naive_maps(scores: np.ndarray, targets: np.ndarray, seed: int) -> np.ndarray:
    """Draw the images, copy them and sort them again, which the weights replace."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(scores), size=len(scores)) for _ in range(RESAMPLES)]
    aps = [average_precisions(scores[rows], targets[rows]) for rows in drawn]
    return np.array([ap[~np.isnan(ap)].mean() if not np.isnan(ap).all() else np.nan for ap in aps])


def naive_interval(scores: np.ndarray, targets: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the middle 95 % of the resamples, shifted so that their median is the measured mAP."""
    maps = naive_maps(scores, targets, seed)
    moved = maps - np.median(maps) + np.nanmean(average_precisions(scores, targets))
    low, high = np.quantile(moved, [0.025, 0.975]).clip(0, 1)
    return low, high


@pytest.mark.parametrize("at_once", [1, 700, 1_000_000])  # one resample at a time, eight, all
def test_the_interval_equals_the_one_from_drawing_and_sorting_every_resample(
    at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", at_once)
    scores, targets = rare_labels()
    found = bootstrap.interval(scores, targets, resamples=RESAMPLES, seed=4)
    low, high = naive_interval(scores, targets, seed=4)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


@pytest.mark.parametrize("levels", [1, 2, 1000])
def test_ties_are_exact_too(levels: int):
    rng = np.random.default_rng(levels)
    scores, targets = rng.integers(0, levels, (50, 3)) / levels, rng.integers(-1, 2, (50, 3))
    found = bootstrap.interval(scores, targets, resamples=RESAMPLES)
    low, high = naive_interval(scores, targets, seed=0)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_the_comparison_equals_the_one_from_drawing_and_sorting_every_resample():
    first, targets = rare_labels()
    second = first + np.random.default_rng(1).normal(0, 0.05, first.shape)
    found = bootstrap.compare(first, second, targets, resamples=RESAMPLES, seed=4)
    difference = np.nanmean(average_precisions(first, targets)) - np.nanmean(
        average_precisions(second, targets)
    )
    differences = naive_maps(first, targets, seed=4) - naive_maps(second, targets, seed=4)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert found.first_better == (differences > 0).mean()
    assert 0 < found.first_better < 1


def test_a_model_is_no_better_than_itself():
    scores, targets = rare_labels()
    same = bootstrap.compare(scores, scores, targets, resamples=RESAMPLES)
    assert same == bootstrap.Comparison(difference=0.0, low=0.0, high=0.0, first_better=0.0)


def test_a_reversed_comparison_changes_its_sign():
    first, targets = rare_labels()
    second = first + np.random.default_rng(1).normal(0, 0.2, first.shape)
    there = bootstrap.compare(first, second, targets, resamples=RESAMPLES)
    back = bootstrap.compare(second, first, targets, resamples=RESAMPLES)
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-there.difference, -there.high, -there.low)
    )
    assert back.first_better == pytest.approx(1 - there.first_better)


def test_a_pair_is_distinguished_even_if_two_intervals_overlap():
    """Images that are hard for both models cancel in their difference."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (150, 4))
    better = rng.random((150, 4)) + 0.4 * targets
    worse = better + rng.normal(0, 0.2, better.shape)
    ours, theirs = bootstrap.interval(better, targets), bootstrap.interval(worse, targets)
    assert theirs.high > ours.low
    assert bootstrap.compare(better, worse, targets).low > 0


def test_a_resample_without_any_positive_is_left_out():
    """One positive, ranked first: in every resample that has it, its average precision is 1."""
    scores, targets = np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [0]])
    assert bootstrap.interval(scores, targets, resamples=RESAMPLES) == bootstrap.Interval(1.0, 1.0)
    assert np.isnan(naive_maps(scores, targets, seed=0)).any()


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    scores, targets = rare_labels()
    first, second, other = (bootstrap.interval(scores, targets, seed=seed) for seed in (0, 0, 1))
    assert first == second != other


def test_the_interval_narrows_with_the_square_root_of_the_images():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (1600, 3))
    scores = rng.random((1600, 3)) + 0.5 * targets
    few, many = (bootstrap.interval(scores[:n], targets[:n]) for n in (100, 1600))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.2)


def test_the_interval_holds_the_measured_map_even_if_few_positives_bias_resamples():
    """With about 4 positives per label, resampled mAPs are too high, and their differences are not."""
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 40)) < 0.02).astype(int)
    first, second = (rng.normal(size=targets.shape) + 2 * targets for _ in range(2))
    alone, paired = bootstrap.interval(first, targets), bootstrap.compare(first, second, targets)
    measured = np.nanmean(average_precisions(first, targets))
    lift = np.median(naive_maps(first, targets, seed=0)) - measured
    assert lift > (alone.high - alone.low) / 8
    assert alone.low < measured < alone.high
    assert abs((paired.low + paired.high) / 2 - paired.difference) < lift / 2


def test_counts_beyond_what_32_bits_hold_do_not_overflow():
    """A constant score has its prevalence as average precision, here with 60,000² > 2**31."""
    targets = np.zeros((60_000, 1), dtype=np.int8)
    targets[:50_000] = 1
    found = bootstrap.interval(np.full((60_000, 1), 0.5), targets, resamples=20)
    assert 0.82 < found.low < found.high < 0.85


def test_without_any_positive_there_is_nothing_to_resample():
    with pytest.raises(RunError, match="no image has any label"):
        bootstrap.interval(np.zeros((3, 2)), np.array([[0, -1], [0, 0], [-1, 0]]))


@pytest.mark.slow
def test_a_thousand_resamples_of_coco_take_less_than_a_minute():
    """40,504 images of 80 labels in random order, which takes longest; usually 9 s."""
    rng = np.random.default_rng(0)
    targets = (rng.random((40_504, 80), dtype=np.float32) < 0.036).astype(np.int8)
    scores = rng.random((40_504, 80), dtype=np.float32)
    started = time.process_time()
    bootstrap.interval(scores, targets)
    assert time.process_time() - started < 60
