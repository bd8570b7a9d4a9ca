from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lglm_core.data.dataset import Dataset
from lglm_core.data.loader import Batch, Loader
from lglm_core.errors import InputError, RunError
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.losses import graph_loss, multi_label_loss
from lglm_core.metrics import average_precisions
from lglm_core.model.lglm import Lglm, LglmConfig, Prediction
from lglm_core.run import RunSettings, TrainingRun, build_model, load_trained
from lglm_core.training import fit, score

CPU = torch.device("cpu")


class Probe(nn.Module):
    """A model without batch statistics, so that a picture's loss does not depend on its neighbours."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, labels, dtype=torch.float64)
        self.graph = nn.Parameter(torch.randn(labels, labels, dtype=torch.float64))

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(self.linear(images.double().mean(dim=(2, 3))), self.graph)


def gradients(batches: Iterator[Batch], world_size: int) -> list[list[Tensor]]:
    """The gradients of every step, at weights that stay as they are."""
    model = Probe(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    steps = fit(model, batches, optimizer, schedule, graph_weight=0.7, device=CPU, world_size=world_size)
    return [[p.grad.clone() for p in model.parameters() if p.grad is not None] for _ in steps]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("batch_size", [5, 8, 23])
def test_workers_average_to_the_gradient_over_the_whole_batch(
    numbered: Dataset, world_size: int, batch_size: int
):
    """23 pictures divide into none of these, so the last batch is a tail, and padded."""
    loader = Loader(
        split=numbered.split("train"), fingerprint="f", image_size=4, batch_size=batch_size, threads=1
    )
    alone = gradients(loader.in_order(), 1)
    ranks = [
        gradients(replace(loader, rank=rank, world_size=world_size).in_order(), world_size)
        for rank in range(world_size)
    ]
    for step, expected in enumerate(alone):
        for number, gradient in enumerate(expected):
            mean = torch.stack([rank[step][number] for rank in ranks]).mean(dim=0)
            torch.testing.assert_close(mean, gradient, rtol=1e-6, atol=1e-7)


def test_the_gradient_is_that_of_the_mean_loss_per_picture_plus_lambda_times_the_graphs(numbered: Dataset):
    loader = Loader(split=numbered.split("train"), fingerprint="f", image_size=4, batch_size=23, threads=1)
    batch = next(iter(loader.in_order()))
    model = Probe(5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (batch.images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    prediction = model(pixels)
    (
        multi_label_loss(prediction.logits, batch.targets).mean() + 0.7 * graph_loss(prediction.graph)
    ).backward()
    expected = [p.grad for p in model.parameters()]
    for ours, theirs in zip(gradients(iter([batch]), 1)[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


class Recorder(nn.Module):
    """Answers with the mean of the red channel, and remembers nothing."""

    def forward(self, images: Tensor) -> Prediction:
        return Prediction(images[:, :1].mean(dim=(2, 3)).repeat(1, 5), torch.eye(5))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_scores_belong_to_their_rows_and_no_padding_is_among_them(numbered: Dataset, world_size: int):
    loader = Loader(split=numbered.split("train"), fingerprint="f", image_size=4, batch_size=6, threads=1)
    found: dict[int, float] = {}
    for rank in range(world_size):
        scores, rows = score(Recorder(), replace(loader, rank=rank, world_size=world_size), CPU)
        assert not found.keys() & set(rows.tolist())
        found |= dict(zip(rows.tolist(), scores[:, 0].tolist(), strict=True))
    logit = (np.arange(23) / 255 - 0.485) / 0.229  # the red of picture n is n
    np.testing.assert_allclose([found[row] for row in range(23)], 1 / (1 + np.exp(-logit)), rtol=1e-5)


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    return RunSettings(
        backbone="mobilenet_v3_small",
        weights="none",
        image_size=32,
        epochs=3,
        batch_size=4,
        lr=3e-3,
        backbone_lr=1e-3,
        head=LglmConfig(d_l=16, graph_widths=(16, 16), m=16, feature_dropout=0.3),
    )


StartRun = Callable[..., TrainingRun]


@pytest.fixture(scope="module")
def start(learnable: Dataset, shape_embeddings: LabelEmbeddings, settings: RunSettings) -> StartRun:
    def start(**changes: Any) -> TrainingRun:
        ours = replace(settings, **changes)
        return TrainingRun(learnable, build_model(ours, shape_embeddings), ours, device=CPU, threads=1)

    return start


def finish(run: TrainingRun) -> TrainingRun:
    for _ in run.epochs():
        pass
    return run


@pytest.fixture(scope="module")
def undisturbed(start: StartRun) -> TrainingRun:
    return finish(start())


def same_weights(a: Lglm, b: Lglm) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_equals_never_having_stopped(
    undisturbed: TrainingRun, start: StartRun, tmp_path: Path, after: int
):
    stopped = start()
    for end in stopped.epochs():
        if end.epoch + 1 == after:
            stopped.save(tmp_path / "checkpoint.pt")
            break
    torch.manual_seed(12345)  # whatever another process drew
    resumed = start()
    resumed.resume(tmp_path / "checkpoint.pt")
    finish(resumed)
    assert same_weights(resumed.model, undisturbed.model)
    losses = [(end.epoch, end.loss, end.lr, end.val_map) for end in resumed.history]
    assert losses == [(end.epoch, end.loss, end.lr, end.val_map) for end in undisturbed.history]


def test_the_same_seed_trains_the_same_weights(undisturbed: TrainingRun, start: StartRun):
    assert same_weights(finish(start()).model, undisturbed.model)


def test_another_seed_trains_others(undisturbed: TrainingRun, start: StartRun):
    assert not same_weights(finish(start(seed=1)).model, undisturbed.model)


def test_a_finished_run_has_nothing_left_to_do(undisturbed: TrainingRun, start: StartRun, tmp_path: Path):
    undisturbed.save(tmp_path / "checkpoint.pt")
    run = start()
    run.resume(tmp_path / "checkpoint.pt")
    assert list(run.epochs()) == [] and same_weights(run.model, undisturbed.model)


def test_weights_and_history_can_be_read_alone(undisturbed: TrainingRun, start: StartRun, tmp_path: Path):
    undisturbed.save(tmp_path / "checkpoint.pt")
    model = start(seed=5).model
    assert load_trained(model, tmp_path / "checkpoint.pt") == undisturbed.history
    assert same_weights(model, undisturbed.model)


def test_an_epoch_ends_with_the_map_of_the_whole_validation_split(
    undisturbed: TrainingRun, learnable: Dataset
):
    assert undisturbed.validation is not None
    scores, rows = score(undisturbed.model, undisturbed.validation, CPU)
    ap = average_precisions(scores, learnable.split("val").targets[rows])
    assert undisturbed.history[-1].val_map == pytest.approx(100 * np.nanmean(ap))


def test_the_loss_of_an_epoch_is_the_sum_of_its_parts(start: StartRun):
    run = start(graph_weight=0.25, epochs=1)
    end = finish(run).history[0]
    assert end.loss == pytest.approx(end.classification_loss + 0.25 * end.graph_loss)


def test_the_first_loss_is_that_of_the_prior(start: StartRun, learnable: Dataset):
    """Before anything is learned every logit is the log-odds: one batch of all pictures shows it."""
    run = start(batch_size=10, epochs=1)
    first = []
    for _ in run.epochs(lambda epoch, step: first.append(step.classification.item())):
        pass
    targets = learnable.split("train").targets
    share = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    expected = -(np.log(share) * targets + np.log(1 - share) * (1 - targets)).sum(axis=1).mean()
    assert first == [pytest.approx(expected, rel=1e-5)]


def test_a_small_dataset_is_learned_by_heart(start: StartRun):
    run = finish(
        start(epochs=25, lr=1e-2, batch_size=10, head=LglmConfig(d_l=16, graph_widths=(16, 16), m=16))
    )
    losses = [end.classification_loss for end in run.history]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


def test_a_frozen_backbone_comes_out_as_it_went_in(start: StartRun):
    run = start(freeze_backbone=True, epochs=1)
    before = {name: tensor.clone() for name, tensor in run.model.backbone.state_dict().items()}
    finish(run)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.backbone.state_dict().items())


def test_a_loss_that_is_no_longer_finite_ends_the_run(start: StartRun):
    with pytest.raises(RunError, match="no longer finite in epoch 1; lower the learning rate"):
        finish(start(lr=1e30, backbone_lr=1e30, batch_size=2))


def test_pictures_smaller_than_the_stride_are_refused(
    shape_embeddings: LabelEmbeddings, settings: RunSettings
):
    with pytest.raises(InputError, match="size 31 is too small for mobilenet_v3_small, whose stride is 32"):
        build_model(replace(settings, image_size=31), shape_embeddings)
