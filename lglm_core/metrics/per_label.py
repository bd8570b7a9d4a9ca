"""The metrics of every label as a table."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from lglm_core.metrics.multi_label import measure


def per_label_table(scores: np.ndarray, targets: np.ndarray, labels: Iterable[str]) -> pa.Table:
    """Return one row per label: label, positives, ap, precision, recall, f1 and prior.

    ``positives`` counts pictures; the other metrics are in percent. ``ap`` is null for a label without
    positives; ``prior`` is the label's prevalence, which is the AP of a constant score.

    Args:
        scores: Probabilities [N, C].
        targets: [N, C] of 1 = present, 0 = absent, -1 = unknown.
        labels: C names, in column order.

    Raises:
        RunError: the score of a known entry is NaN.
    """
    result = measure(scores, targets)
    counts, ap = result.counts, 100 * result.average_precision
    return pa.table(
        {
            "label": list(labels),
            "positives": counts.positives,
            "ap": pa.array(ap, mask=np.isnan(ap)),
            "precision": 100 * counts.precision,
            "recall": 100 * counts.recall,
            "f1": 100 * counts.f1,
            "prior": 100 * result.prevalence,
        }
    )
