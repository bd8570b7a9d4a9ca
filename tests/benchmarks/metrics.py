"""All metrics of COCO's validation split, on one core."""

import numpy as np
from sklearn.metrics import average_precision_score

from lglm_core.metrics.multi_label import measure
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.timing import in_turns

LIMIT_S = 1.0


@benchmark("s")
def metrics(images: int = 40_504, labels: int = 80) -> Measured:
    """All metrics against scikit-learn's average precision alone, label by label."""
    scores, targets = _random_scores(images, labels)

    def scikit_learn() -> list[float]:
        return [average_precision_score(targets[:, label], scores[:, label]) for label in range(labels)]

    np.testing.assert_allclose(measure(scores, targets).average_precision, scikit_learn(), rtol=1e-9)
    our_s, their_s = in_turns(lambda: measure(scores, targets), scikit_learn, rounds=3)
    return Measured(our_s, their_s, f"{images} pictures, {labels} labels")


@benchmark("s", target=1)
def metrics_in_a_second(images: int = 40_504, labels: int = 80) -> Measured:
    """All metrics against the limit of one second."""
    scores, targets = _random_scores(images, labels)
    (our_s,) = in_turns(lambda: measure(scores, targets), rounds=3)
    return Measured(our_s, LIMIT_S, f"{images} pictures, {labels} labels")


def _random_scores(images: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random scores and targets; 3.6% are present as in COCO, each label in at least one picture."""
    rng = np.random.default_rng(0)
    targets = (rng.random((images, labels)) < 0.036).astype(np.int8)
    targets[0] = 1
    logits = rng.normal(2.5 * targets - 3, 1).astype(np.float32)
    return 1 / (1 + np.exp(-logits)), targets
