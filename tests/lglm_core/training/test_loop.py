import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from lglm_core.dataset.reader import Dataset
from lglm_core.errors import InputError, RunError
from lglm_core.images.transforms import Augmentation, Preprocessing
from lglm_core.labels.cooccurrence import label_counts
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.loading.loader import Batch, Loader
from lglm_core.metrics.multi_label import average_precisions
from lglm_core.model.config import PlainConfig
from lglm_core.model.head import Head, HeadOutput, ImageSide, LabelKnowledge
from lglm_core.model.losses import graph_loss, multi_label_loss
from lglm_core.model.recogniser import ImagePath, Recogniser
from lglm_core.training import run as run_module
from lglm_core.training.loop import EpochProgress, Trainer, _seeded, score
from lglm_core.training.recipe import PRESETS, Preset, TrainingRecipe
from lglm_core.training.run import TrainingRun, build_model, label_knowledge, load_trained
from tests.lglm_core.model.small_heads import VARIANTS, draw_knowledge, small_head
from tests.lglm_core.training.runs import BASIC, FEATURES, SQUEEZENET, Values, finish, start_run, told

CPU = torch.device("cpu")
TO_TRY = [variant for variant in VARIANTS if " " not in variant]  # every head in one form
WITHOUT_BATCH_STATISTICS = [
    variant for variant, (_, options) in VARIANTS.items() if options.get("conditioning") == "text"
] + ["plain"]


class Channels(nn.Module):
    """A backbone without batch statistics: a picture's loss does not depend on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.mix(images)
        return maps


def trainer_of(variant: str | Head, **values: Any) -> Trainer:
    """Trains on normalised pictures in float64, at rate 0: the weights stay as they are."""
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
    """The gradients of every step."""
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
    """23 pictures divide into none of these, so the last batch is a tail, and padded."""
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
def test_the_gradient_is_that_of_the_mean_loss_per_picture_plus_lambda_times_the_heads_own(
    numbered: Dataset, variant: str, accumulate: int
):
    """Also where a batch is taken in parts, or one picture at a time."""
    batch = next(iter(loader_of(numbered, 23).in_order()))
    trainer = trainer_of(variant, accumulate=accumulate)
    prediction = trainer.model(trainer.prepare(batch.images))
    loss = multi_label_loss(prediction.logits, batch.targets).mean()
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
def test_the_gradient_of_the_whole_model_is_clipped_once_it_is_whole(numbered: Dataset, accumulate: int):
    batches = list(loader_of(numbered, 8).in_order())
    free = gradients(trainer_of("lglm text", clip=0), iter(batches))
    clipped = gradients(trainer_of("lglm text", clip=0.1, accumulate=accumulate), iter(batches))
    for ours, theirs in zip(clipped, free, strict=True):
        norm = torch.cat([gradient.flatten() for gradient in theirs]).norm()
        assert norm > 0.2
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other * 0.1 / norm, rtol=1e-4, atol=1e-9)


def test_a_batch_is_taken_in_equal_parts(numbered: Dataset):
    trainer = trainer_of("plain", accumulate=3)
    sizes: list[int] = []
    trainer.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    list(trainer.fit(loader_of(numbered, 23).in_order()))
    assert sizes == [8, 8, 7]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_tells_the_losses_of_its_batch_whatever_its_parts(numbered: Dataset, accumulate: int):
    batch = next(iter(loader_of(numbered, 23).in_order()))
    trainer = trainer_of("lglm text", accumulate=accumulate)
    step = next(trainer.fit(iter([batch])))
    with torch.no_grad():
        logits = trainer.model(trainer.prepare(batch.images)).logits
        side = trainer.model.head.label_weights()
    assert side is not None
    assert step.classification.item() == pytest.approx(multi_label_loss(logits, batch.targets).mean().item())
    assert step.penalty.item() == pytest.approx(side.penalty.item())


class Twice(ImageSide):
    """Shown every picture and its mirror image, it scores them apart and fines their difference."""

    wants_mirror = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 30).view(6, 5))

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        logits = feature_map[..., 0][:, :, 0] @ self.weight
        first, second = logits.chunk(2)
        return HeadOutput(logits, (first - second).square().mean(dim=1))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_head_that_is_shown_mirror_images_learns_from_both_and_from_its_own_loss(
    numbered: Dataset, accumulate: int
):
    trainer = trainer_of(Head("twice", PlainConfig(), Twice()), accumulate=accumulate)
    batch = next(iter(loader_of(numbered, 23).in_order()))
    images = torch.rand(23, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255  # not of one colour
    batch = replace(batch, images=images)
    step = next(trainer.fit(iter([batch])))
    gradients = [p.grad.clone() for p in trainer.model.parameters()]

    pixels, model = trainer.prepare(images), trainer.model
    first, second = (
        model.backbone(view)[:, :, 0, 0] @ model.head.image_side.weight for view in (pixels, pixels.flip(-1))
    )
    both = sum(multi_label_loss(logits, batch.targets).mean() / 2 for logits in (first, second))
    fine = (first - second).square().mean()
    assert (step.classification.item(), step.penalty.item()) == pytest.approx((both.item(), fine.item()))
    model.zero_grad()
    (both + 0.7 * fine).backward()
    for ours, theirs in zip(gradients, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


class Reds(nn.Module):
    """A backbone that gives the red channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1]


class Copies(ImageSide):
    """Answers for all labels with the mean of its map."""

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        return HeadOutput(feature_map.mean(dim=(2, 3)).repeat(1, 5))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_scores_belong_to_their_rows_and_no_padding_is_among_them(numbered: Dataset, world_size: int):
    loader = loader_of(numbered, 6)
    model = Recogniser(Reds(), Head("red", PlainConfig(), Copies()))
    trainer = replace(trainer_of("plain"), model=model)
    found: dict[int, float] = {}
    for rank in range(world_size):
        scores, rows = score(trainer, replace(loader, rank=rank, world_size=world_size))
        assert not found.keys() & set(rows.tolist())
        found |= dict(zip(rows.tolist(), scores[:, 0].tolist(), strict=True))
    logit = (np.arange(23) / 255 - 0.485) / 0.229  # the red of picture n is n
    np.testing.assert_allclose([found[row] for row in range(23)], 1 / (1 + np.exp(-logit)), rtol=1e-5)


StartRun = Callable[..., TrainingRun]


@pytest.fixture(scope="module")
def start(learnable: Dataset, shape_embeddings: LabelEmbeddings) -> StartRun:
    """Start a run of a variant of a head: ``start(variant, options of the head, **values of the recipe)``."""

    def start(variant: str = "lglm", options: Values | None = None, **values: Any) -> TrainingRun:
        given = {"feature_dropout": 0.3} if options is None else options
        return start_run(learnable, shape_embeddings, variant, given, **values)

    return start


@pytest.fixture(scope="module")
def undisturbed(start: StartRun) -> TrainingRun:
    return finish(start())


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def stop_and_resume(start: Callable[[], TrainingRun], file: Path, after: int) -> TrainingRun:
    stopped = start()
    for end in stopped.epochs():
        if end.epoch + 1 == after:
            stopped.save(file)
            break
    torch.manual_seed(12345)  # whatever another process drew
    resumed = start()
    resumed.resume(file)
    return finish(resumed)


class Stopped(Exception):
    """A run that ends within an epoch."""


def stop_within_and_resume(start: Callable[[], TrainingRun], file: Path, steps: int) -> TrainingRun:
    """Stop after so many steps of the second epoch."""
    stopped = start()

    def pause(within: EpochProgress) -> None:
        stopped.save(file)
        if within.state.epoch == 1:
            assert within.steps == steps
            raise Stopped

    with pytest.raises(Stopped):
        for _ in stopped.epochs(checkpoint_steps=steps, on_checkpoint=pause):
            pass
    torch.manual_seed(12345)  # whatever another process drew
    resumed = start()
    resumed.resume(file)
    taken: list[tuple[int, int]] = []
    for _ in resumed.epochs(lambda epoch, step: taken.append((epoch, step.number))):
        pass
    every = resumed.training.steps
    assert taken == [(epoch, step) for epoch in (1, 2) for step in range(every)][steps:]
    return resumed


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("stop_at_and_resume", [stop_and_resume, stop_within_and_resume])
def test_resuming_equals_never_having_stopped(
    undisturbed: TrainingRun, start: StartRun, tmp_path: Path, stop_at_and_resume: Callable, at: int
):
    resumed = stop_at_and_resume(start, tmp_path / "checkpoint.pt", at)
    assert same_weights(resumed.model, undisturbed.model)
    assert told(resumed) == told(undisturbed)


def test_an_epoch_that_was_interrupted_tells_of_all_its_time(start: StartRun, tmp_path: Path):
    run = start()
    run.progress = EpochProgress(run.training.state(0, 1), 1, 1.0, 0.0, 1e-3, 1000.0)
    run.save(tmp_path / "checkpoint.pt")
    resumed = start()
    resumed.resume(tmp_path / "checkpoint.pt")
    end = next(resumed.epochs())
    assert 1000 < end.seconds < 1100 and end.images_per_s < 0.01


def test_time_in_pauses_is_not_training(start: StartRun):
    run = start(epochs=1)
    end = next(run.epochs(checkpoint_steps=2, on_checkpoint=lambda within: time.sleep(3)))
    assert end.seconds < 3


def test_resuming_at_an_epoch_s_end_forgets_where_within_one_a_run_was(
    undisturbed: TrainingRun, start: StartRun, tmp_path: Path
):
    run = start()
    next(run.epochs(checkpoint_steps=1))
    run.save(tmp_path / "checkpoint.pt")
    run.progress = EpochProgress(run.training.state(0, 1), 1, 1.0, 0.0, 1e-3, 1.0)
    run.resume(tmp_path / "checkpoint.pt")
    assert run.progress is None
    assert told(finish(run)) == told(undisturbed)


def test_a_closed_form_has_no_pauses(start: StartRun):
    run = start("ridge", {"ridge": 0.1}, **FEATURES)
    pauses: list[EpochProgress] = []
    for _ in run.epochs(checkpoint_steps=1, on_checkpoint=pauses.append):
        pass
    assert pauses == [] and run.training.steps > 1


def test_what_dropout_draws_differs_between_steps_epochs_and_workers(learnable: Dataset):
    loader = replace(loader_of(learnable, 4), world_size=2)
    seeds = [
        torch.initial_seed()
        for epoch in range(2)
        for rank in range(2)
        for _ in _seeded(iter([None] * 3), replace(loader, rank=rank), epoch, first=0)
    ]
    assert len(set(seeds)) == 12


def test_pauses_are_within_epochs_and_change_nothing(undisturbed: TrainingRun, start: StartRun):
    run = start()
    pauses: list[tuple[int, int]] = []
    for _ in run.epochs(checkpoint_steps=1, on_checkpoint=lambda w: pauses.append((w.state.epoch, w.steps))):
        assert run.progress is None
    steps = run.training.steps
    assert pauses == [(epoch, step) for epoch in range(3) for step in range(1, steps)]
    assert same_weights(run.model, undisturbed.model) and told(run) == told(undisturbed)


RESUMED: dict[str, tuple[str, Values, Values]] = {
    "averaged model and one cycle": ("probe", {}, {"recipe": "modern", "ema": 0.9}),
    "momentum and step": ("lglm", {}, {"recipe": "paper"}),
    "features computed once": ("ml-gcn", {}, FEATURES),
    "closed form over several epochs": ("ridge", {"ridge": 0.1}, FEATURES),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_anything_equals_never_having_stopped(start: StartRun, tmp_path: Path, case: str):
    variant, options, values = RESUMED[case]

    def begin() -> TrainingRun:
        return start(variant, options, **values)

    whole = finish(begin())
    stopped = [stop_and_resume(begin, tmp_path / "checkpoint.pt", after=1)]
    if variant != "ridge":  # which takes no steps
        stopped.append(stop_within_and_resume(begin, tmp_path / "checkpoint.pt", steps=2))
    for resumed in stopped:
        assert same_weights(resumed.model, whole.model) and same_weights(resumed.trained, whole.trained)
        assert told(resumed) == told(whole)


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
    scores, rows = score(undisturbed.trainer, undisturbed.loaders["val"])
    ap = average_precisions(scores, learnable.split("val").targets[rows])
    assert undisturbed.history[-1].val_map == pytest.approx(100 * np.nanmean(ap))


def test_the_loss_of_an_epoch_is_the_sum_of_its_parts(start: StartRun):
    end = finish(start(options={"graph_weight": 0.25}, epochs=1)).history[0]
    assert end.penalty > 0
    assert end.loss == pytest.approx(end.classification_loss + 0.25 * end.penalty)


def test_a_head_without_graph_tells_of_none(start: StartRun):
    end = finish(start("plain", epochs=1)).history[0]
    assert end.off_diagonal is None and end.penalty == 0 and end.loss == end.classification_loss


def test_the_first_loss_is_that_of_the_prior(start: StartRun, learnable: Dataset):
    """Before anything is learned every logit is the log-odds: one batch of all pictures shows it."""
    run = start(batch_size=10, epochs=1)
    first: list[float] = []
    for _ in run.epochs(lambda epoch, step: first.append(step.classification.item())):
        pass
    targets = learnable.split("train").targets
    share = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    expected = -(np.log(share) * targets + np.log(1 - share) * (1 - targets)).sum(axis=1).mean()
    assert first == [pytest.approx(expected, rel=1e-5)]


def test_a_small_dataset_is_learned_by_heart(start: StartRun):
    run = finish(start(options={}, epochs=25, lr=1e-2, batch_size=10, views="flip"))
    losses = [end.classification_loss for end in run.history]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


@pytest.mark.parametrize("variant", [variant for variant in TO_TRY if variant != "ridge"])
def test_every_head_learns_from_features_that_are_computed_once(start: StartRun, variant: str):
    run = finish(start(variant, {}, epochs=15, batch_size=10, lr=1e-2, **FEATURES))
    losses = [end.classification_loss for end in run.history]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(start: StartRun, preset: Preset):
    run = start(options={}, recipe=preset, epochs=8, lr=0.1 if preset == "paper" else BASIC["lr"])
    before = [p.detach().clone() for p in run.model.parameters()]
    losses = [end.loss for end in finish(run).history]
    assert min(losses[4:]) < losses[0]
    assert not any(torch.equal(p, b) for p, b in zip(run.model.parameters(), before, strict=True))


@pytest.mark.parametrize("freeze", [False, True], ids=["fine-tuned", "frozen"])
def test_half_precision_learns_nearly_what_full_precision_does(start: StartRun, freeze: bool):
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        run = finish(start(options={}, precision=precision, freeze_backbone=freeze, batch_size=10))
        first[precision], last[precision] = (run.history[i].classification_loss for i in (0, -1))
        assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.01)
    assert last["bf16"] == pytest.approx(last["fp32"], rel=0.1) and last["bf16"] != last["fp32"]


def test_in_half_precision_the_image_side_is_half_and_the_label_side_is_full(start: StartRun):
    run = start(options={}, precision="bf16", epochs=1)
    seen: dict[str, torch.dtype] = {}
    head = run.model.head
    assert head.label_side is not None
    for name, part, of in (
        ("image", head.image_side.projection, lambda out: out),
        ("label", head.label_side, lambda out: out.weights),
    ):
        part.register_forward_hook(
            lambda m, i, out, name=name, of=of: seen.update(
                {f"{name} {'trained' if m.training else 'measured'}": of(out).dtype}
            )
        )
    finish(run)
    half, full = torch.bfloat16, torch.float32
    assert seen["image trained"] == half
    assert {seen["label trained"], seen["image measured"], seen["label measured"]} == {full}


def test_a_frozen_backbone_comes_out_as_it_went_in(start: StartRun):
    run = start(freeze_backbone=True, epochs=1)
    before = {name: tensor.clone() for name, tensor in run.model.backbone.state_dict().items()}
    finish(run)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.backbone.state_dict().items())


def test_a_head_whose_image_side_has_nothing_to_train_trains_its_label_side(start: StartRun):
    run = start("ml-gcn text", {}, **FEATURES)
    assert list(run.trainer.path.parameters()) == []
    before = {name: p.detach().clone() for name, p in run.model.head.named_parameters()}
    losses = [end.loss for end in finish(run).history]
    assert losses[-1] < losses[0]
    assert not any(torch.equal(p, before[name]) for name, p in run.model.head.named_parameters())


def test_a_label_graph_that_is_not_finite_is_refused_before_training():
    """Taken literally, the text's normalisation is, for most seeds."""
    options = ("normalisation=text", "conditioning=text", "m=8", "d_l=64")
    knowledge = LabelKnowledge(20, 3 * torch.randn(20, 100, generator=torch.Generator().manual_seed(0)))
    refused = 0
    for seed in range(8):
        values = {**BASIC, **SQUEEZENET, "seed": seed, "head_option": options}
        try:
            model = build_model(TrainingRecipe(**values).filled_in(), knowledge)
        except InputError as error:
            assert "not finite at the start" in str(error) and "normalisation=absolute" in str(error)
            refused += 1
        else:
            assert model.head.label_weights().weights.isfinite().all()
    assert refused


@pytest.mark.parametrize(
    ("values", "once"),
    [
        (FEATURES, True),
        ({**FEATURES, "freeze_backbone": False}, False),
        ({**FEATURES, "views": "crop"}, False),
        ({**FEATURES, "rand_augment": 1}, False),
        ({**FEATURES, "cutout": 0.3}, False),
        ({**FEATURES, "recipe": "modern"}, False),
        ({**FEATURES, "recipe": "modern", "rand_augment": 0, "cutout": 0}, True),
    ],
)
def test_features_are_computed_once_where_backbone_and_views_stay_the_same(
    start: StartRun, values: Values, once: bool
):
    run = start(**values)
    assert run.trainer.takes_features == once and bool(run.features) == once


@pytest.mark.parametrize("variant", ["lglm", "plain average", "add-gcn", "vacit"])
def test_features_computed_once_train_what_pictures_decoded_anew_do(
    start: StartRun, monkeypatch: pytest.MonkeyPatch, variant: str
):
    kept = finish(start(variant, {}, **FEATURES))
    monkeypatch.setattr(run_module, "fits", lambda *_: False)
    anew = finish(start(variant, {}, **FEATURES))
    assert kept.trainer.takes_features and not anew.trainer.takes_features
    theirs = anew.model.state_dict()
    for name, tensor in kept.model.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    for ours, anews in zip(told(kept), told(anew), strict=True):
        assert [v for v in ours if v is not None] == pytest.approx(
            [v for v in anews if v is not None], rel=1e-3
        )


@pytest.mark.parametrize("variant", ["lglm text", "vacit"])
def test_features_in_parts_train_what_whole_batches_do(start: StartRun, variant: str):
    """Parts of a picture and its mirror image stay together."""
    options = {"conditioning": "text"}
    whole = finish(start(variant, options, **FEATURES))
    parts = finish(start(variant, options, accumulate=2, **FEATURES))
    theirs = whole.model.state_dict()
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


def test_a_feature_of_a_flipped_picture_is_that_of_the_mirror_image(start: StartRun):
    run = start(**FEATURES)
    loader = run.loaders["train"]
    assert loader.augmentation == Augmentation(crop=False)
    flips = 0
    batches = run.batches["train"].resume(loader.state(0, 0))
    for kept, anew in zip(batches, loader.training_epoch(0), strict=True):
        with torch.no_grad():
            maps = run.model.backbone.eval()(run.model.backbone.preprocessing(48).normalise(anew.images))
        np.testing.assert_array_equal(kept.rows, anew.rows)
        torch.testing.assert_close(kept.images[..., 0, 0], maps.amax(dim=(2, 3)), rtol=1e-4, atol=1e-5)
        plain = run.features["train"].maps[0, kept.rows]
        flips += int((kept.images != plain).flatten(1).any(dim=1).sum())
    assert 0 < flips < 12


def test_features_that_are_known_are_not_computed_again(start: StartRun, monkeypatch: pytest.MonkeyPatch):
    first = start(**FEATURES)
    known = dict(first.features)

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(run_module.Features, "compute", refuse)
    second = TrainingRun(
        Dataset.open(first.training.split.dataset),
        start_model(first),
        first.recipe,
        device=CPU,
        threads=1,
        features=known,
    )
    assert second.features is known and told(finish(second)) == told(finish(first))


def start_model(run: TrainingRun) -> Recogniser:
    """A copy of a run's model as it stands."""
    side = run.model.head.label_side
    model = build_model(run.recipe, LabelKnowledge(3, None if side is None else side.vectors))
    model.load_state_dict(run.model.state_dict())
    return model


def test_the_averaged_model_is_measured_and_kept(start: StartRun, learnable: Dataset, tmp_path: Path):
    run = finish(start(options={}, ema=0.8))
    assert run.trained is not run.model and not same_weights(run.trained, run.model)
    scores, rows = score(replace(run.trainer, model=run.trained, average=None), run.loaders["val"])
    ap = average_precisions(scores, learnable.split("val").targets[rows])
    assert run.history[-1].val_map == pytest.approx(100 * np.nanmean(ap))
    run.save(tmp_path / "checkpoint.pt")
    loaded = start(options={}, seed=5).model
    load_trained(loaded, tmp_path / "checkpoint.pt")
    assert same_weights(loaded, run.trained)


def test_averaging_leaves_the_training_as_it_is(undisturbed: TrainingRun, start: StartRun):
    assert same_weights(finish(start(ema=0.8)).model, undisturbed.model)


def views_of(run: TrainingRun, epochs: int = 1) -> tuple[Tensor, Tensor]:
    """Pooled features and targets of the training pictures, as the epochs show them."""
    resume_from = [run.training.state(epoch, 0) for epoch in range(epochs)]
    batches = [batch for state in resume_from for batch in run.batches["train"].resume(state)]
    real = [batch.weights.bool() for batch in batches]
    return (
        torch.cat([batch.images[keep][..., 0, 0] for batch, keep in zip(batches, real, strict=True)]),
        torch.cat([batch.targets[keep] for batch, keep in zip(batches, real, strict=True)]),
    )


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_ridge_head_is_scikit_learns_ridge_regression(start: StartRun, epochs: int):
    run = finish(start("ridge", {"ridge": 0.1}, epochs=epochs, **FEATURES))
    features, targets = views_of(run, epochs)
    assert len(features) == 10 * epochs
    x = features.double().numpy()
    mean, std = x.mean(axis=0), x.std(axis=0).clip(1e-6)
    theirs = Ridge(alpha=len(x) * 0.1).fit((x - mean) / std, targets.numpy())
    plain = run.features["train"].maps[0]
    expected = 4 * (theirs.predict((plain[..., 0, 0].double().numpy() - mean) / std) - 0.5)
    with torch.no_grad():
        logits = run.model.head.eval()(plain).logits
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_the_loss_of_ridge_is_its_squared_error(start: StartRun):
    run = finish(start("ridge", {"ridge": 0.1}, epochs=1, **FEATURES))
    features, targets = views_of(run)
    with torch.no_grad():
        predictions = run.model.head.eval()(features[..., None, None]).logits / 4 + 0.5
    expected = (predictions - targets).square().sum(dim=1).mean().item()
    assert run.history[0].loss == pytest.approx(expected, rel=1e-4)


def test_ridge_on_pictures_decoded_anew_is_the_same(start: StartRun, monkeypatch: pytest.MonkeyPatch):
    kept = finish(start("ridge", {}, epochs=1, **FEATURES))
    monkeypatch.setattr(run_module, "fits", lambda *_: False)
    anew = finish(start("ridge", {}, epochs=1, **FEATURES))
    theirs = anew.model.head.state_dict()
    for name, tensor in kept.model.head.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_ridge_keeps_its_solution_also_with_a_recipe_that_averages(start: StartRun):
    averaged = finish(start("ridge", {}, epochs=1, **FEATURES, recipe="modern", rand_augment=0, cutout=0))
    plain = finish(start("ridge", {}, epochs=1, **FEATURES))
    assert same_weights(averaged.trained, plain.trained)


def test_a_loss_that_is_no_longer_finite_ends_the_run(start: StartRun):
    with pytest.raises(RunError, match="no longer finite in epoch 1; lower the learning rate"):
        finish(start(lr=1e30, backbone_lr=1e30, batch_size=2))


def test_a_loss_that_is_no_longer_finite_is_not_kept(start: StartRun):
    kept: list[EpochProgress] = []
    run = start(lr=1e30, backbone_lr=1e30, batch_size=2)
    with pytest.raises(RunError, match="no longer finite in epoch 1"):
        for _ in run.epochs(checkpoint_steps=1, on_checkpoint=kept.append):
            pass
    assert len(kept) < run.training.steps - 1
    assert all(np.isfinite(within.classification_loss) for within in kept)


def test_pictures_smaller_than_the_stride_are_refused():
    recipe = TrainingRecipe(**{**BASIC, "image_size": 32, "head": "plain"}).filled_in()
    too_small = recipe.model_copy(update={"image_size": 31})
    with pytest.raises(InputError, match="size 31 is too small for mobilenet_v3_small, whose stride is 32"):
        build_model(too_small, LabelKnowledge(3))


def test_a_head_is_told_of_the_labels_what_it_needs(learnable: Dataset, shape_embeddings: LabelEmbeddings):
    def knowledge(head: str) -> LabelKnowledge:
        return label_knowledge(TrainingRecipe(head=head).filled_in(), learnable, shape_embeddings)

    assert (knowledge("plain").vectors, knowledge("plain").counts) == (None, None)
    assert knowledge("lglm").counts is None
    counted = knowledge("ml-gcn")
    assert counted.vectors is not None and counted.counts is not None
    np.testing.assert_array_equal(counted.vectors.numpy(), shape_embeddings.vectors)
    np.testing.assert_array_equal(counted.counts.numpy(), label_counts(learnable.split("train").targets))


def test_a_head_without_label_vectors_is_refused(learnable: Dataset):
    recipe = TrainingRecipe(**BASIC).filled_in()
    with pytest.raises(InputError, match="the head lglm needs label vectors"):
        build_model(recipe, label_knowledge(recipe, learnable, None))
