"""The ridge head, trained by the loop, is the regression of its features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from lglm_core.training import run as run_module
from lglm_core.training.run import TrainingRun
from tests.lglm_core.training.runs import FEATURES, StartRun, finish, same_weights

pytestmark = pytest.mark.weighty


def training_views(run: TrainingRun, epochs: int = 1) -> tuple[Tensor, Tensor]:
    """Return the pooled features and the targets of the training pictures in the views of the epochs."""
    starts = [run.training.state(epoch, 0) for epoch in range(epochs)]
    batches = [batch for state in starts for batch in run.batches["train"].resume(state)]
    real = [batch.weights.bool() for batch in batches]
    return (
        torch.cat([batch.images[keep][..., 0, 0] for batch, keep in zip(batches, real, strict=True)]),
        torch.cat([batch.targets[keep] for batch, keep in zip(batches, real, strict=True)]),
    )


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_ridge_head_is_scikit_learns_ridge_regression(start: StartRun, epochs: int):
    run = finish(start("ridge", {"ridge": 0.1}, epochs=epochs, **FEATURES))
    features, targets = training_views(run, epochs)
    assert len(features) == 10 * epochs
    x = features.double().numpy()
    mean, std = x.mean(axis=0), x.std(axis=0).clip(1e-6)
    theirs = Ridge(alpha=len(x) * 0.1).fit((x - mean) / std, targets.numpy())
    not_flipped = run.features["train"].maps[0]
    expected = 4 * (theirs.predict((not_flipped[..., 0, 0].double().numpy() - mean) / std) - 0.5)
    with torch.no_grad():
        logits = run.model.head.eval()(not_flipped).logits
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_the_loss_of_ridge_is_its_squared_error(start: StartRun):
    run = finish(start("ridge", {"ridge": 0.1}, epochs=1, **FEATURES))
    features, targets = training_views(run)
    with torch.no_grad():
        predictions = run.model.head.eval()(features[..., None, None]).logits / 4 + 0.5
    expected = (predictions - targets).square().sum(dim=1).mean().item()
    assert run.history[0].loss == pytest.approx(expected, rel=1e-4)


def test_ridge_on_pictures_decoded_each_time_is_the_same(start: StartRun, monkeypatch: pytest.MonkeyPatch):
    kept = finish(start("ridge", {}, epochs=1, **FEATURES))
    monkeypatch.setattr(run_module, "fits", lambda *_: False)
    decoded = finish(start("ridge", {}, epochs=1, **FEATURES))
    theirs = decoded.model.head.state_dict()
    for name, tensor in kept.model.head.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_ridge_keeps_its_solution_with_a_recipe_that_averages(start: StartRun):
    averaged = finish(start("ridge", {}, epochs=1, **FEATURES, recipe="modern", rand_augment=0, cutout=0))
    plain = finish(start("ridge", {}, epochs=1, **FEATURES))
    assert same_weights(averaged.trained, plain.trained)
