from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lglm_core.dataset.reader import Dataset
from lglm_core.images.transforms import Preprocessing
from lglm_core.loading.loader import Batch, Loader
from lglm_core.model.config import PlainConfig
from lglm_core.model.head import Head, HeadOutput, ImageSide
from lglm_core.model.losses import graph_loss, multi_label_loss
from lglm_core.model.recogniser import ImagePath, Recogniser
from lglm_core.training.loop import Trainer, _seed_batches, score
from lglm_core.training.recipe import TrainingRecipe
from tests.lglm_core.model.small_heads import VARIANTS, draw_knowledge, small_head

CPU = torch.device("cpu")
WITHOUT_BATCH_STATISTICS = [
    variant for variant, (_, options) in VARIANTS.items() if options.get("conditioning") == "text"
] + ["plain"]


class Channels(nn.Module):
    """A backbone without batch statistics: a picture's loss does not depend on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.mix(images)
        return maps


def trainer_of(variant: str | Head, **values: Any) -> Trainer:
    """Return a trainer on normalised pictures in float64 with a rate of 0, so that no weight changes."""
    recipe = TrainingRecipe(**values).filled_in()
    head = variant if isinstance(variant, Head) else small_head(variant, 6, draw_knowledge(5, 8))
    model = Recogniser(Channels(), head).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    normalise = Preprocessing(4).normalise
    return Trainer(
        model=model,
        path=ImagePath(model),
        prepare=lambda images: normalise(images).double(),
        recipe=recipe,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.ConstantLR(optimizer),
        device=CPU,
        penalty_weight=0.7,
    )


def gradients(trainer: Trainer, batches: Iterator[Batch]) -> list[list[Tensor]]:
    """Return the gradients of every step."""
    return [[p.grad.clone() for p in trainer.model.parameters()] for _ in trainer.fit(batches)]


def loader_of(dataset: Dataset, batch_size: int) -> Loader:
    split = dataset.split("train")
    return Loader(split=split, fingerprint="f", image_size=4, batch_size=batch_size, threads=1)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("batch_size", [5, 8, 23])
def test_workers_average_to_the_gradient_over_the_whole_batch(
    numbered: Dataset, world_size: int, batch_size: int, accumulate: int
):
    """No batch size divides the 23 pictures on these workers, so the last batch is padded."""
    loader = loader_of(numbered, batch_size)
    alone = gradients(trainer_of("plain"), loader.in_order())
    trainer = replace(trainer_of("plain", accumulate=accumulate), world_size=world_size)
    ranks = [
        gradients(trainer, replace(loader, rank=rank, world_size=world_size).in_order())
        for rank in range(world_size)
    ]
    for step, expected in enumerate(alone):
        for number, gradient in enumerate(expected):
            mean = torch.stack([rank[step][number] for rank in ranks]).mean(dim=0)
            torch.testing.assert_close(mean, gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 4, 100])
@pytest.mark.parametrize("variant", WITHOUT_BATCH_STATISTICS)
def test_the_gradient_is_of_the_mean_loss_per_picture_plus_lambda_times_the_heads_penalty(
    numbered: Dataset, variant: str, accumulate: int
):
    """This holds for micro-batches too, even of one picture each."""
    batch = next(iter(loader_of(numbered, 23).in_order()))
    trainer = trainer_of(variant, accumulate=accumulate)
    output = trainer.model(trainer.prepare(batch.images))
    loss = multi_label_loss(output.logits, batch.targets).mean()
    if "d_l" in VARIANTS[variant][1]:
        loss = loss + 0.7 * graph_loss(trainer.model.head.label_weights().graph)
    loss.backward()
    expected = [p.grad for p in trainer.model.parameters()]
    for ours, theirs in zip(gradients(trainer, iter([batch]))[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_label_side_runs_once_per_optimiser_step(numbered: Dataset, accumulate: int):
    trainer = trainer_of("lglm text", accumulate=accumulate)
    assert trainer.model.head.label_side is not None
    forward: list[None] = []
    backward: list[None] = []
    trainer.model.head.label_side.register_forward_hook(lambda *_: forward.append(None))
    trainer.model.head.label_side.fusion.projection.weight.register_hook(lambda _: backward.append(None))
    steps = list(trainer.fit(loader_of(numbered, 8).in_order()))
    assert len(steps) == len(forward) == len(backward) == 3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_of_the_whole_model_is_clipped_once_it_is_complete(numbered: Dataset, accumulate: int):
    batches = list(loader_of(numbered, 8).in_order())
    free = gradients(trainer_of("lglm text", clip=0), iter(batches))
    clipped = gradients(trainer_of("lglm text", clip=0.1, accumulate=accumulate), iter(batches))
    for ours, theirs in zip(clipped, free, strict=True):
        norm = torch.cat([gradient.flatten() for gradient in theirs]).norm()
        assert norm > 0.2
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other * 0.1 / norm, rtol=1e-4, atol=1e-9)


def test_a_batch_is_divided_into_equal_micro_batches(numbered: Dataset):
    trainer = trainer_of("plain", accumulate=3)
    sizes: list[int] = []
    trainer.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    list(trainer.fit(loader_of(numbered, 23).in_order()))
    assert sizes == [8, 8, 7]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_reports_the_losses_of_its_batch_however_it_is_divided(numbered: Dataset, accumulate: int):
    batch = next(iter(loader_of(numbered, 23).in_order()))
    trainer = trainer_of("lglm text", accumulate=accumulate)
    step = next(trainer.fit(iter([batch])))
    with torch.no_grad():
        logits = trainer.model(trainer.prepare(batch.images)).logits
        side = trainer.model.head.label_weights()
    assert side is not None
    assert step.classification.item() == pytest.approx(multi_label_loss(logits, batch.targets).mean().item())
    assert step.penalty.item() == pytest.approx(side.penalty.item())


class PenalisedDifference(ImageSide):
    """Scores pictures and their mirror images, with a penalty on the difference of their logits."""

    wants_mirror = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 30).view(6, 5))

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        logits = feature_map[..., 0][:, :, 0] @ self.weight
        first, second = logits.chunk(2)
        return HeadOutput(logits, (first - second).square().mean(dim=1))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_head_that_wants_mirror_images_learns_from_both_and_from_its_penalty(
    numbered: Dataset, accumulate: int
):
    trainer = trainer_of(Head("penalised", PlainConfig(), PenalisedDifference()), accumulate=accumulate)
    batch = next(iter(loader_of(numbered, 23).in_order()))
    images = torch.rand(23, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    batch = replace(batch, images=images)
    step = next(trainer.fit(iter([batch])))
    gradients = [p.grad.clone() for p in trainer.model.parameters()]

    pixels, model = trainer.prepare(images), trainer.model
    first, second = (
        model.backbone(view)[:, :, 0, 0] @ model.head.image_side.weight for view in (pixels, pixels.flip(-1))
    )
    both = sum(multi_label_loss(logits, batch.targets).mean() / 2 for logits in (first, second))
    penalty = (first - second).square().mean()
    assert (step.classification.item(), step.penalty.item()) == pytest.approx((both.item(), penalty.item()))
    model.zero_grad()
    (both + 0.7 * penalty).backward()
    for ours, theirs in zip(gradients, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


class RedChannel(nn.Module):
    """A backbone whose feature map is the red channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1]


class MeanForAllLabels(ImageSide):
    """Scores every label with the mean of the feature map."""

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        return HeadOutput(feature_map.mean(dim=(2, 3)).repeat(1, 5))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_scores_belong_to_their_rows_and_no_padding_is_among_them(numbered: Dataset, world_size: int):
    loader = loader_of(numbered, 6)
    model = Recogniser(RedChannel(), Head("red", PlainConfig(), MeanForAllLabels()))
    trainer = replace(trainer_of("plain"), model=model)
    found: dict[int, float] = {}
    for rank in range(world_size):
        scores, rows = score(trainer, replace(loader, rank=rank, world_size=world_size))
        assert not found.keys() & set(rows.tolist())
        found |= dict(zip(rows.tolist(), scores[:, 0].tolist(), strict=True))
    logit = (np.arange(23) / 255 - 0.485) / 0.229  # the red of picture n is n
    np.testing.assert_allclose([found[row] for row in range(23)], 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_the_seeds_of_dropout_differ_between_steps_epochs_and_workers(learnable: Dataset):
    loader = replace(loader_of(learnable, 4), world_size=2)
    seeds = [
        torch.initial_seed()
        for epoch in range(2)
        for rank in range(2)
        for _ in _seed_batches(iter([None] * 3), replace(loader, rank=rank), epoch, first=0)
    ]
    assert len(set(seeds)) == 12
