import json
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score
from torchmetrics.classification import (
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelRecall,
    MultilabelStatScores,
)

from lglm_core.errors import RunError
from lglm_core.metrics import bootstrap
from lglm_core.metrics.multi_label import (
    Measurement,
    MultiLabelMetrics,
    average_precisions,
    count,
    evaluate,
    measure,
    prevalence,
    summarise,
)

# Five pictures, four labels; 0.5 counts as predicted, and the last label has no positive.
SCORES = np.array(
    [
        [0.9, 0.8, 0.7, 0.6],
        [0.5, 0.2, 0.9, 0.1],
        [0.4, 0.6, 0.3, 0.7],
        [0.1, 0.1, 0.1, 0.1],
        [0.8, 0.3, 0.2, 0.1],
    ]
)
TARGETS = np.array(
    [
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 1, -1, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
    ]
)


def test_counts_by_hand():
    """Label 2 is predicted in pictures 0 and 1, correctly in 0; in picture 2 it is unknown."""
    counts = count(SCORES, TARGETS)
    assert counts.hits.tolist() == [2, 1, 1, 0]
    assert counts.predicted.tolist() == [3, 2, 2, 2]
    assert counts.positives.tolist() == [2, 2, 2, 0]


def test_an_unknown_label_is_no_false_alarm():
    counts = count(np.array([[0.9, 0.9]]), np.array([[-1, 0]]))
    assert counts.predicted.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("threshold", "predicted"), [(0.0, [5, 5, 4, 5]), (0.3, [4, 3, 2, 2]), (0.95, [0] * 4)]
)
def test_another_threshold_by_hand(threshold: float, predicted: list[int]):
    assert count(SCORES, TARGETS, threshold=threshold).predicted.tolist() == predicted


def test_in_float32_a_score_on_the_threshold_is_predicted():
    """float32's nearest number to 0.3 is not 0.3, but such a score is meant to reach the threshold."""
    scores = np.full((1, 1), 0.3, dtype=np.float32)
    assert count(scores, np.ones((1, 1)), threshold=0.3).predicted.tolist() == [1]


def test_summary_by_hand():
    """CP = (2/3 + 1/2 + 1/2) / 3 and CR = (1 + 1/2 + 1/2) / 3; OP = 4/9, OR = 4/6."""
    cp, cr, op, overall_recall = 5 / 9, 2 / 3, 4 / 9, 2 / 3
    expected = {
        "CP": cp,
        "CR": cr,
        "CF1": 2 * cp * cr / (cp + cr),
        "OP": op,
        "OR": overall_recall,
        "OF1": 2 * op * overall_recall / (op + overall_recall),
    }
    assert summarise(count(SCORES, TARGETS)) == pytest.approx({k: 100 * v for k, v in expected.items()})


def test_top3_by_hand():
    """Only picture 0 predicts four labels; its lowest, a false positive, is left out."""
    counts = count(SCORES, TARGETS, top=3)
    assert counts.hits.tolist() == [2, 1, 1, 0]
    assert counts.predicted.tolist() == [3, 2, 2, 1]


def test_top3_still_asks_for_probability_one_half():
    assert count(np.array([[0.6, 0.4, 0.3, 0.2]]), np.ones((1, 4), int), top=3).predicted.sum() == 1


def test_the_first_labels_of_equal_scores_are_among_the_top():
    assert count(np.full((2, 5), 0.7), np.ones((2, 5)), top=3).predicted.tolist() == [2, 2, 2, 0, 0]


def test_an_unknown_label_keeps_its_place_among_the_top():
    counts = count(np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[1, -1, 1, 1]]), top=3)
    assert counts.predicted.tolist() == [1, 0, 1, 0]


def test_more_labels_asked_for_than_there_are_changes_nothing():
    scores, targets = SCORES[:, :2], TARGETS[:, :2]
    assert summarise(count(scores, targets, top=3)) == summarise(count(scores, targets))


def test_overall_measures_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    scores, targets = rng.random((80, 7)), rng.integers(0, 2, (80, 7))
    ours, predicted = summarise(count(scores, targets)), scores >= 0.5
    assert ours["CP"] == pytest.approx(100 * precision_score(targets, predicted, average="macro"))
    assert ours["CR"] == pytest.approx(100 * recall_score(targets, predicted, average="macro"))
    assert ours["OF1"] == pytest.approx(100 * f1_score(targets, predicted, average="micro"))


def test_nothing_predicted_and_nothing_present_is_zero_and_not_nan():
    summary = summarise(count(np.zeros((3, 2)), np.zeros((3, 2), int)))
    assert set(summary.values()) == {0.0}


def test_f1_per_label_agrees_with_scikit_learn():
    known = TARGETS[:, :2]
    expected = f1_score(known, SCORES[:, :2] >= 0.5, average=None)
    np.testing.assert_allclose(count(SCORES, TARGETS).f1[:2], expected)


def test_prevalence_is_the_average_precision_of_a_constant():
    constant = average_precisions(np.full(SCORES.shape, 0.3), TARGETS)
    np.testing.assert_allclose(prevalence(TARGETS)[:3], constant[:3])


# --- torchmetrics ---


def random_scores(seed: int, labels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random((150, labels))
    scores[:, 0] = np.round(scores[:, 0] * 8) / 8  # 0.5 among them
    scores[:, 1] = 0.5
    return scores, rng.integers(-1, 2, scores.shape)


def theirs(metric: type, scores: np.ndarray, targets: np.ndarray, *, average: str = "none") -> np.ndarray:
    """Return torchmetrics' result at our threshold: it predicts above its threshold, we from ours on."""
    below = np.nextafter(0.5, 0)
    meter = metric(scores.shape[1], average=average, threshold=below, ignore_index=-1)
    return meter(torch.from_numpy(scores), torch.from_numpy(targets)).numpy()


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_torchmetrics(seed: int):
    scores, targets = random_scores(seed)
    hits, false_alarms, _, misses, _ = theirs(MultilabelStatScores, scores, targets).T
    counts = count(scores, targets)
    np.testing.assert_array_equal(counts.hits, hits)
    np.testing.assert_array_equal(counts.predicted, hits + false_alarms)
    np.testing.assert_array_equal(counts.positives, hits + misses)


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_and_f1_are_those_of_torchmetrics_which_divides_in_float32(seed: int):
    scores, targets = random_scores(seed)
    counts, summary = count(scores, targets), summarise(count(scores, targets))
    float32 = {"rtol": 0, "atol": 1e-7}
    for ours, metric in (
        (counts.precision, MultilabelPrecision),
        (counts.recall, MultilabelRecall),
        (counts.f1, MultilabelF1Score),
    ):
        np.testing.assert_allclose(ours, theirs(metric, scores, targets), **float32)
    for name, metric, average in (
        ("CP", MultilabelPrecision, "macro"),
        ("CR", MultilabelRecall, "macro"),
        ("OP", MultilabelPrecision, "micro"),
        ("OR", MultilabelRecall, "micro"),
        ("OF1", MultilabelF1Score, "micro"),
    ):
        np.testing.assert_allclose(
            summary[name] / 100, theirs(metric, scores, targets, average=average), **float32
        )


def test_torchmetrics_does_not_predict_a_score_on_its_threshold():
    scores, targets = torch.tensor([[0.5, 0.5]]), torch.tensor([[1, 1]])
    assert MultilabelRecall(2, threshold=0.5)(scores, targets) == 0
    assert count(scores.numpy(), targets.numpy()).recall.tolist() == [1, 1]


def test_torchmetrics_has_no_cf1():
    """Its macro F1 is the mean of the labels' F1; the field's CF1 is the harmonic mean of CP and CR."""
    scores, targets = random_scores(0)
    counts = count(scores, targets)
    macro = float(theirs(MultilabelF1Score, scores, targets, average="macro"))
    assert macro == pytest.approx(counts.f1.mean(), abs=1e-7)
    assert abs(summarise(counts)["CF1"] / 100 - macro) > 0.005


def test_torchmetrics_puts_labels_without_positives_into_cp_and_cr():
    """As zeros, over all C, which is the field's average; ours are over the labels with positives."""
    scores, targets = random_scores(0, labels=4)
    targets[:, 3] = 0
    summary = summarise(count(scores, targets))
    for name, metric in (("CP", MultilabelPrecision), ("CR", MultilabelRecall)):
        macro = float(theirs(metric, scores, targets, average="macro"))
        assert macro == pytest.approx(summary[name] / 100 * 3 / 4, abs=1e-7)


def test_torchmetrics_has_no_top3_but_counts_the_same_once_the_others_are_silenced():
    with pytest.raises(ValueError, match="top_k"):
        MultilabelPrecision(6, top_k=3)
    scores, targets = random_scores(0)
    silenced = scores.copy()
    for row in silenced:
        row[np.argsort(-row, kind="stable")[3:]] = 0
    counts = count(scores, targets, top=3)
    hits, false_alarms, _, misses, _ = theirs(MultilabelStatScores, silenced, targets).T
    np.testing.assert_array_equal(counts.hits, hits)
    np.testing.assert_array_equal(counts.predicted, hits + false_alarms)
    np.testing.assert_array_equal(counts.positives, hits + misses)


# --- Gathering ---


def same(first: Measurement, second: Measurement) -> bool:
    """Tell whether two measurements agree in every digit."""

    def numbers(result: Measurement) -> list[np.ndarray]:
        counts = [(each.hits, each.predicted, each.positives) for each in (result.counts, result.top3)]
        return [result.average_precision, result.prevalence, *counts[0], *counts[1]]

    return all(map(partial(np.array_equal, equal_nan=True), numbers(first), numbers(second)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(10))
def test_any_division_into_batches_and_workers_in_any_order_measures_the_same(seed: int, dtype: type):
    rng = np.random.default_rng(seed)
    scores, targets = random_scores(seed)
    scores = scores.astype(dtype)
    workers = [MultiLabelMetrics() for _ in range(rng.integers(1, 6))]
    cuts = np.sort(rng.integers(0, len(scores) + 1, size=rng.integers(0, 20)))  # some batches are empty
    for rows in np.split(rng.permutation(len(scores)), cuts):
        workers[rng.integers(len(workers))].update(scores[rows], targets[rows])
    first, *others = rng.permutation(np.array(workers, dtype=object))
    for other in others:
        first.merge(pickle.loads(pickle.dumps(other)))  # as it comes from another process
    for threshold in (0.5, 0.25):
        assert same(first.compute(threshold=threshold), measure(scores, targets, threshold=threshold))


def test_batches_can_be_added_after_a_measurement():
    gathered = MultiLabelMetrics()
    gathered.update(SCORES[:2], TARGETS[:2])
    assert same(gathered.compute(), measure(SCORES[:2], TARGETS[:2]))
    gathered.update(SCORES[2:], TARGETS[2:])
    assert same(gathered.compute(), measure(SCORES, TARGETS))


def test_a_batch_may_be_overwritten_after_it_was_given():
    scores, targets, gathered = SCORES.copy(), TARGETS.copy(), MultiLabelMetrics()
    gathered.update(scores, targets)
    scores[:], targets[:] = 0, 0
    assert same(gathered.compute(), measure(SCORES, TARGETS))


def test_a_batch_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\) and targets \(5, 3\)"):
        MultiLabelMetrics().update(SCORES, TARGETS[:, :3])


def test_a_threshold_holds_for_top3_too():
    """At 0.6 picture 0 predicts all four labels, and label 3 is its lowest."""
    result = measure(SCORES, TARGETS, threshold=0.6)
    assert result.counts.predicted.tolist() == [2, 2, 2, 2]
    assert result.top3.predicted.tolist() == [2, 2, 2, 1]


def test_measuring_leaves_scores_and_targets_alone():
    scores, targets = SCORES.copy(), TARGETS.copy()
    measure(scores, targets)
    np.testing.assert_array_equal(scores, SCORES)
    np.testing.assert_array_equal(targets, TARGETS)


def test_a_diverged_model_is_not_measured():
    with pytest.raises(RunError, match="diverged"):
        measure(np.full((2, 2), np.nan), np.eye(2))


# --- metrics.json ---


def test_labels_without_positives_are_named_and_left_out_of_map():
    metrics = evaluate(SCORES, TARGETS, ["cat", "dog", "fish", "unicorn"], np.full(4, 0.4))
    assert metrics["labels_without_positives"] == ["unicorn"]
    assert metrics["mAP"] == pytest.approx(100 * average_precisions(SCORES, TARGETS)[:3].mean())


def test_the_prior_predicts_the_labels_of_most_training_pictures():
    """Label 0 alone is predicted: CP = (2/5 + 0 + 0) / 3, CR = 1/3; OP = 2/5, OR = 2/6."""
    metrics = evaluate(SCORES, TARGETS, list("abcd"), np.array([0.6, 0.4, 0.1, 0.0]))
    assert metrics["prior_CF1"] == pytest.approx(100 * 2 * (2 / 15) * (1 / 3) / (2 / 15 + 1 / 3))
    assert metrics["prior_OF1"] == pytest.approx(100 * 2 * (2 / 5) * (1 / 3) / (2 / 5 + 1 / 3))


def test_the_interval_of_map_is_the_bootstraps_in_percent():
    metrics = evaluate(SCORES, TARGETS, list("abcd"), np.full(4, 0.4))
    interval = bootstrap.interval(SCORES, TARGETS)
    assert (metrics["mAP_low"], metrics["mAP_high"]) == (100 * interval.low, 100 * interval.high)
    assert metrics["mAP_low"] < metrics["mAP"] < metrics["mAP_high"]


@pytest.mark.parametrize("nothing", [0, -1])
def test_a_split_without_any_positive_is_evaluated_without_a_nan(nothing: int):
    metrics = evaluate(SCORES, np.full_like(TARGETS, nothing), list("abcd"), np.full(4, 0.4))
    assert metrics["labels_without_positives"] == list("abcd")
    assert (metrics["mAP"], metrics["mAP_low"], metrics["mAP_high"]) == (0.0, None, None)
    json.dumps(metrics, allow_nan=False)
