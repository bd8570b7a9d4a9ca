import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from lglm_core.metrics import average_precision, average_precisions, count, evaluate, prevalence, summarise

# Five pictures, four labels; 0.5 counts as predicted, and the last label is nowhere.
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


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_agrees_with_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    scores, targets = rng.random(200), rng.integers(0, 2, 200)
    assert average_precision(scores, targets) == pytest.approx(average_precision_score(targets, scores))


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_average_precision_agrees_with_scikit_learn_on_ties(levels: int):
    rng = np.random.default_rng(levels)
    scores, targets = rng.integers(0, levels, 100) / 7, rng.integers(0, 2, 100)
    assert average_precision(scores, targets) == pytest.approx(average_precision_score(targets, scores))


def test_a_single_positive_scores_one_over_its_rank():
    assert average_precision(np.array([0.9, 0.8, 0.3, 0.1]), np.array([0, 0, 1, 0])) == pytest.approx(1 / 3)


def test_average_precision_by_hand():
    """Positives at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3."""
    ap = average_precision(np.array([0.9, 0.7, 0.5, 0.3]), np.array([1, 0, 1, 1]))
    assert ap == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_average_precision_without_positives_is_nan():
    assert np.isnan(average_precision(np.array([0.3, 0.4]), np.array([0, -1])))


def test_unknown_labels_are_left_out_of_average_precision():
    scores, targets = np.array([0.9, 0.8, 0.7, 0.6]), np.array([-1, 1, 0, 1])
    assert average_precision(scores, targets) == average_precision(scores[1:], targets[1:])


def test_every_label_has_an_average_precision_of_its_own():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((50, 6)), rng.integers(0, 2, (50, 6))
    expected = average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(average_precisions(scores, targets), expected)


def test_counts_by_hand():
    """Label 2 is predicted in pictures 0 and 1, rightly in 0; picture 2 does not know it."""
    counts = count(SCORES, TARGETS)
    assert counts.hits.tolist() == [2, 1, 1, 0]
    assert counts.predicted.tolist() == [3, 2, 2, 2]
    assert counts.positives.tolist() == [2, 2, 2, 0]


def test_an_unknown_label_is_no_false_alarm():
    counts = count(np.array([[0.9, 0.9]]), np.array([[-1, 0]]))
    assert counts.predicted.tolist() == [0, 1]


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
    """Only picture 0 predicts four labels; its lowest, a false alarm, falls away."""
    counts = count(SCORES, TARGETS, top=3)
    assert counts.hits.tolist() == [2, 1, 1, 0]
    assert counts.predicted.tolist() == [3, 2, 2, 1]


def test_top3_still_asks_for_probability_one_half():
    assert count(np.array([[0.6, 0.4, 0.3, 0.2]]), np.ones((1, 4), int), top=3).predicted.sum() == 1


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


def test_counting_leaves_the_targets_alone():
    targets = TARGETS.copy()
    count(SCORES, targets, top=3)
    np.testing.assert_array_equal(targets, TARGETS)


def test_nothing_predicted_and_nothing_there_is_zero_and_not_nan():
    summary = summarise(count(np.zeros((3, 2)), np.zeros((3, 2), int)))
    assert set(summary.values()) == {0.0}


def test_f1_per_label_agrees_with_scikit_learn():
    known = TARGETS[:, :2]
    expected = f1_score(known, SCORES[:, :2] >= 0.5, average=None)
    np.testing.assert_allclose(count(SCORES, TARGETS).f1[:2], expected)


def test_prevalence_is_the_average_precision_of_a_constant():
    constant = average_precisions(np.full(SCORES.shape, 0.3), TARGETS)
    np.testing.assert_allclose(prevalence(TARGETS)[:3], constant[:3])


def test_labels_without_positives_are_named_and_left_out_of_map():
    metrics = evaluate(SCORES, TARGETS, ["cat", "dog", "fish", "unicorn"], np.full(4, 0.4))
    assert metrics["labels_without_positives"] == ["unicorn"]
    assert metrics["mAP"] == pytest.approx(100 * average_precisions(SCORES, TARGETS)[:3].mean())


def test_the_prior_predicts_the_labels_of_most_training_pictures():
    """Label 0 alone is predicted: CP = (2/5 + 0 + 0) / 3, CR = 1/3; OP = 2/5, OR = 2/6."""
    metrics = evaluate(SCORES, TARGETS, list("abcd"), np.array([0.6, 0.4, 0.1, 0.0]))
    assert metrics["prior_CF1"] == pytest.approx(100 * 2 * (2 / 15) * (1 / 3) / (2 / 15 + 1 / 3))
    assert metrics["prior_OF1"] == pytest.approx(100 * 2 * (2 / 5) * (1 / 3) / (2 / 5 + 1 / 3))
