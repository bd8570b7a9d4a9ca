import numpy as np
import pytest

from lglm_core.metrics.multi_label import measure
from lglm_core.metrics.per_label import per_label_table


def test_the_table_by_hand():
    """Of "a" both positives are found with one false alarm; "b" is missed; "c" has no positives."""
    scores = np.array([[0.9, 0.1, 0.6], [0.8, 0.2, 0.1], [0.7, 0.3, 0.1], [0.1, 0.4, 0.1]])
    targets = np.array([[1, 1, 0], [0, 0, 0], [1, 0, -1], [0, -1, 0]])
    a, b, c = per_label_table(scores, targets, ["a", "b", "c"]).to_pylist()
    assert a == pytest.approx(
        {
            "label": "a",
            "positives": 2,
            "ap": 100 * (1 + 2 / 3) / 2,
            "precision": 200 / 3,
            "recall": 100.0,
            "f1": 80.0,
            "prior": 50.0,
        }
    )
    assert b == pytest.approx(
        {
            "label": "b",
            "positives": 1,
            "ap": 100 / 3,
            "precision": 0.0,
            "recall": 0.0,
            "f1": 0.0,
            "prior": 100 / 3,
        }
    )
    assert c == {
        "label": "c",
        "positives": 0,
        "ap": None,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "prior": 0.0,
    }


def test_the_table_agrees_with_the_metrics_over_all_labels():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 5)), rng.integers(-1, 2, (40, 5))
    table = per_label_table(scores, targets, [f"label {k}" for k in range(5)])
    result = measure(scores, targets)
    assert np.mean(table["ap"].to_numpy()) == pytest.approx(100 * result.mean_average_precision)
    np.testing.assert_allclose(table["prior"].to_numpy(), 100 * result.prevalence)
    np.testing.assert_array_equal(table["positives"].to_numpy(), result.counts.positives)
