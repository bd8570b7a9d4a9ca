from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lglm_core.dataset.reader import Dataset
from lglm_core.errors import InputError, RunError
from lglm_core.labels.cooccurrence import label_counts
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.metrics.multi_label import average_precisions
from lglm_core.model.head import LabelKnowledge
from lglm_core.training.loop import score
from lglm_core.training.recipe import PRESETS, Preset, TrainingRecipe
from lglm_core.training.run import TrainingRun, build_model, label_knowledge, load_trained
from tests.lglm_core.training.runs import BASIC, FEATURES, SQUEEZENET, StartRun, finish, same_weights

pytestmark = pytest.mark.weighty


def test_the_same_seed_trains_the_same_weights(undisturbed: TrainingRun, start: StartRun):
    assert same_weights(finish(start()).model, undisturbed.model)


def test_another_seed_trains_other_weights(undisturbed: TrainingRun, start: StartRun):
    assert not same_weights(finish(start(seed=1)).model, undisturbed.model)


def test_an_epoch_ends_with_the_map_of_the_whole_validation_split(
    undisturbed: TrainingRun, learnable: Dataset
):
    scores, rows = score(undisturbed.trainer, undisturbed.loaders["val"])
    ap = average_precisions(scores, learnable.split("val").targets[rows])
    assert undisturbed.history[-1].val_map == pytest.approx(100 * np.nanmean(ap))


def test_the_loss_of_an_epoch_is_its_classification_loss_plus_its_weighted_penalty(start: StartRun):
    end = finish(start(options={"graph_weight": 0.25}, epochs=1)).history[0]
    assert end.penalty > 0
    assert end.loss == pytest.approx(end.classification_loss + 0.25 * end.penalty)


def test_a_head_without_a_graph_reports_none(start: StartRun):
    end = finish(start("plain", epochs=1)).history[0]
    assert end.off_diagonal is None and end.penalty == 0 and end.loss == end.classification_loss


def test_the_first_loss_is_the_loss_of_the_prior(start: StartRun, learnable: Dataset):
    """Before anything is learned, every logit is the log-odds; one batch of all pictures shows it."""
    run = start(batch_size=10, epochs=1)
    first: list[float] = []
    for _ in run.epochs(lambda epoch, step: first.append(step.classification.item())):
        pass
    targets = learnable.split("train").targets
    prior = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    expected = -(np.log(prior) * targets + np.log(1 - prior) * (1 - targets)).sum(axis=1).mean()
    assert first == [pytest.approx(expected, rel=1e-5)]


def test_a_small_dataset_is_memorised(start: StartRun):
    run = finish(start(options={}, epochs=25, lr=1e-2, batch_size=10, views="flip"))
    losses = [end.classification_loss for end in run.history]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(start: StartRun, preset: Preset):
    run = start(options={}, recipe=preset, epochs=8, lr=0.1 if preset == "paper" else BASIC["lr"])
    before = [p.detach().clone() for p in run.model.parameters()]
    losses = [end.loss for end in finish(run).history]
    assert min(losses[4:]) < losses[0]
    assert not any(torch.equal(p, b) for p, b in zip(run.model.parameters(), before, strict=True))


@pytest.mark.parametrize("freeze", [False, True], ids=["fine-tuned", "frozen"])
def test_half_precision_learns_nearly_the_same_as_full_precision(start: StartRun, freeze: bool):
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        run = finish(start(options={}, precision=precision, freeze_backbone=freeze, batch_size=10))
        first[precision], last[precision] = (run.history[i].classification_loss for i in (0, -1))
        assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.01)
    assert last["bf16"] == pytest.approx(last["fp32"], rel=0.1) and last["bf16"] != last["fp32"]


def test_with_bf16_the_image_side_is_in_half_precision_and_the_label_side_in_full(start: StartRun):
    run = start(options={}, precision="bf16", epochs=1)
    dtypes: dict[str, torch.dtype] = {}
    head = run.model.head
    assert head.label_side is not None
    for name, module, tensor_of in (
        ("image", head.image_side.projection, lambda out: out),
        ("label", head.label_side, lambda out: out.weights),
    ):
        module.register_forward_hook(
            lambda m, i, out, name=name, tensor_of=tensor_of: dtypes.update(
                {f"{name} {'training' if m.training else 'evaluation'}": tensor_of(out).dtype}
            )
        )
    finish(run)
    half, full = torch.bfloat16, torch.float32
    assert dtypes["image training"] == half
    assert {dtypes["label training"], dtypes["image evaluation"], dtypes["label evaluation"]} == {full}


def test_a_frozen_backbone_does_not_change(start: StartRun):
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
    """With the text's normalisation taken literally this happens for most seeds."""
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


def test_the_averaged_model_is_evaluated_and_kept(start: StartRun, learnable: Dataset, tmp_path: Path):
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


def test_a_loss_that_is_no_longer_finite_ends_the_run(start: StartRun):
    with pytest.raises(RunError, match="no longer finite in epoch 1; lower the learning rate"):
        finish(start(lr=1e30, backbone_lr=1e30, batch_size=2))


def test_pictures_smaller_than_the_stride_are_refused():
    recipe = TrainingRecipe(**{**BASIC, "image_size": 32, "head": "plain"}).filled_in()
    too_small = recipe.model_copy(update={"image_size": 31})
    with pytest.raises(InputError, match="size 31 is too small for mobilenet_v3_small, whose stride is 32"):
        build_model(too_small, LabelKnowledge(3))


def test_a_head_gets_the_label_facts_that_it_needs(learnable: Dataset, shape_embeddings: LabelEmbeddings):
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
