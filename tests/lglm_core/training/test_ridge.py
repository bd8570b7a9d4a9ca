import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from lglm_core.training.ridge import CANDIDATES, RidgeRegression

N, D, C = 60, 20, 4


def drawn(seed: int = 0, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return features of different scales and means, and targets that depend on them."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(N, D, generator=rng, dtype=torch.float64) * torch.logspace(-2, 2, D) + 5
    scores = (features - 5) / torch.logspace(-2, 2, D) @ torch.randn(D, C, generator=rng, dtype=torch.float64)
    return features, (scores + noise * torch.randn(N, C, generator=rng) > 1.0).to(torch.int8)


def standardised(features: Tensor) -> np.ndarray:
    return ((features - features.mean(dim=0)) / features.std(dim=0, correction=0)).numpy()


def regression(
    features: Tensor, targets: Tensor, ridge: float | None = None, batch_size: int = 7
) -> RidgeRegression:
    ours = RidgeRegression(features.shape[1], targets.shape[1], ridge, torch.device("cpu"))
    for start in range(0, len(features), batch_size):
        ours.add(features[start : start + batch_size], targets[start : start + batch_size])
    return ours


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_it_is_scikit_learns_ridge_on_standardised_features(ridge: float):
    features, targets = drawn()
    weight, bias, _, error = regression(features, targets, ridge).solve()
    theirs = Ridge(alpha=N * ridge).fit(standardised(features), targets.numpy())
    predictions = theirs.predict(standardised(features))
    np.testing.assert_allclose((features @ weight.T + bias).numpy(), predictions, rtol=1e-8, atol=1e-8)
    assert error == pytest.approx(((predictions - targets.numpy()) ** 2).sum() / N)


def test_batches_of_any_size_add_up_to_the_same():
    features, targets = drawn()
    whole = regression(features, targets, 0.1, batch_size=N).solve()
    for size in (1, 8, 59):
        torch.testing.assert_close(regression(features, targets, 0.1, batch_size=size).solve()[:2], whole[:2])


@pytest.mark.parametrize("seed", range(4))
def test_cross_validation_chooses_nearly_as_well_as_leaving_one_out(seed: int):
    """The error when one sample is left out, by hand: the chosen ridge has at most 1% more than the best."""
    features, targets = drawn(seed, noise=2.0)
    chosen = regression(features, targets).solve()[2]
    x, y = standardised(features), targets.numpy().astype(float)
    errors = {}
    for ridge in CANDIDATES:
        hat = x @ np.linalg.solve(x.T @ x + N * ridge * np.eye(D), x.T) + 1 / N
        left_out = (y - hat @ y) / (1 - np.diag(hat))[:, None]
        errors[ridge] = (left_out**2).sum()
    assert errors[chosen] <= 1.01 * min(errors.values())
    assert min(errors.values()) < 0.9 * max(errors.values())  # the choice matters


@pytest.mark.parametrize("seed", range(3))
def test_cross_validation_is_that_of_golub_heath_and_wahba(seed: int):
    """With only 15 pictures it matters that the bias counts as a coefficient."""
    features, targets = (tensor[:15] for tensor in drawn(seed))
    x, y = standardised(features), targets.numpy().astype(float)

    def error(ridge: float) -> float:
        hat = x @ np.linalg.solve(x.T @ x + 15 * ridge * np.eye(D), x.T) + 1 / 15
        return float(((y - hat @ y) ** 2).sum() / (1 - np.trace(hat) / 15) ** 2)

    assert regression(features, targets).solve()[2] == min(CANDIDATES, key=error)


def test_an_unknown_target_counts_as_its_labels_mean():
    features, targets = drawn()
    targets[torch.rand(N, C, generator=torch.Generator().manual_seed(1)) < 0.3] = -1
    known = np.where(targets >= 0, targets, np.nan)
    filled = np.where(targets >= 0, targets, np.nanmean(known, axis=0))
    weight, bias, _, error = regression(features, targets, 0.2).solve()
    theirs = Ridge(alpha=N * 0.2).fit(standardised(features), filled).predict(standardised(features))
    np.testing.assert_allclose((features @ weight.T + bias).numpy(), theirs, rtol=1e-8, atol=1e-8)
    assert error == pytest.approx(((theirs - filled) ** 2).sum() / N)


def test_a_label_without_known_targets_scores_zero():
    features, targets = drawn()
    targets[:, 2] = -1
    weight, bias, _, _ = regression(features, targets, 0.2).solve()
    assert (features @ weight.T + bias)[:, 2].abs().max() < 1e-9
    assert (features @ weight.T + bias)[:, 1].std() > 0.01


def test_a_constant_feature_has_no_weight():
    features, targets = drawn()
    features[:, 3] = 7.0
    weight, bias, _, _ = regression(features, targets, 1e-3).solve()
    others = [d for d in range(D) if d != 3]
    expected = regression(features[:, others], targets, 1e-3).solve()
    torch.testing.assert_close(features @ weight.T + bias, features[:, others] @ expected[0].T + expected[1])


@pytest.mark.parametrize("pictures", [5, N], ids=["fewer pictures than features", "more"])
def test_without_any_ridge_it_is_least_squares(pictures: int):
    features, targets = (tensor[:pictures] for tensor in drawn())
    weight, bias, _, error = regression(features, targets, 0.0).solve()
    x = np.c_[standardised(features), np.ones(pictures)]
    fitted = x @ np.linalg.lstsq(x, targets.numpy().astype(float), rcond=None)[0]
    np.testing.assert_allclose((features @ weight.T + bias).numpy(), fitted, rtol=1e-4, atol=1e-4)
    assert error == pytest.approx(((fitted - targets.numpy()) ** 2).sum() / pictures, abs=1e-4)


def test_a_second_epoch_adds_to_the_first():
    """The result is the regression on the views of both epochs."""
    first, second = drawn(0), drawn(1)
    ours = regression(*first, 0.1)
    ours.solve()
    ours.add(*second)
    both = regression(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]), 0.1)
    torch.testing.assert_close(ours.solve()[:2], both.solve()[:2])


def test_a_checkpoint_resumes_as_if_there_had_been_no_interruption():
    first, second = drawn(0), drawn(1)
    ours = regression(*first, 0.1)
    ours.solve()
    other = RidgeRegression(D, C, 0.1, torch.device("cpu"))
    other.load_state_dict({name: tensor.clone() for name, tensor in ours.state_dict().items()})
    for one in (ours, other):
        one.add(*second)
    torch.testing.assert_close(other.solve()[:2], ours.solve()[:2], rtol=0, atol=0)


def test_features_in_half_precision_are_summed_in_double_precision():
    features, targets = drawn()
    ours = regression(features.bfloat16(), targets, 0.1)
    exact = regression(features.bfloat16().double(), targets, 0.1)
    torch.testing.assert_close(ours.solve()[:2], exact.solve()[:2], rtol=0, atol=0)
