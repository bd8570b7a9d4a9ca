from typing import Any

import numpy as np
import pytest
import torch

from lglm_core.dataset.reader import Dataset
from lglm_core.images.transforms import Augmentation
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.recogniser import Recogniser
from lglm_core.training import run as run_module
from lglm_core.training.run import TrainingRun, build_model
from tests.lglm_core.model.small_heads import VARIANTS
from tests.lglm_core.training.runs import FEATURES, StartRun, Values, finish, history_without_times

pytestmark = pytest.mark.weighty

CPU = torch.device("cpu")
EVERY_HEAD = [variant for variant in VARIANTS if " " not in variant]  # one variant of each


@pytest.mark.parametrize("variant", [variant for variant in EVERY_HEAD if variant != "ridge"])
def test_every_head_learns_from_features_that_are_computed_once(start: StartRun, variant: str):
    run = finish(start(variant, {}, epochs=15, batch_size=10, lr=1e-2, **FEATURES))
    losses = [end.classification_loss for end in run.history]
    assert losses[-1] < 0.8 * losses[0]


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
def test_features_computed_once_train_the_same_as_pictures_decoded_each_time(
    start: StartRun, monkeypatch: pytest.MonkeyPatch, variant: str
):
    kept = finish(start(variant, {}, **FEATURES))
    monkeypatch.setattr(run_module, "fits", lambda *_: False)
    decoded = finish(start(variant, {}, **FEATURES))
    assert kept.trainer.takes_features and not decoded.trainer.takes_features
    theirs = decoded.model.state_dict()
    for name, tensor in kept.model.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    for ours, other in zip(history_without_times(kept), history_without_times(decoded), strict=True):
        assert [v for v in ours if v is not None] == pytest.approx(
            [v for v in other if v is not None], rel=1e-3
        )


@pytest.mark.parametrize("variant", ["lglm text", "vacit"])
def test_features_in_micro_batches_train_the_same_as_whole_batches(start: StartRun, variant: str):
    """A picture and its mirror image stay in the same micro-batch."""
    options = {"conditioning": "text"}
    whole = finish(start(variant, options, **FEATURES))
    divided = finish(start(variant, options, accumulate=2, **FEATURES))
    theirs = whole.model.state_dict()
    for name, tensor in divided.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


def test_the_feature_of_a_flipped_picture_is_the_feature_of_its_mirror_image(start: StartRun):
    run = start(**FEATURES)
    loader = run.loaders["train"]
    assert loader.augmentation == Augmentation(crop=False)
    flips = 0
    batches = run.batches["train"].resume(loader.state(0, 0))
    for kept, decoded in zip(batches, loader.training_epoch(0), strict=True):
        with torch.no_grad():
            maps = run.model.backbone.eval()(run.model.backbone.preprocessing(48).normalise(decoded.images))
        np.testing.assert_array_equal(kept.rows, decoded.rows)
        torch.testing.assert_close(kept.images[..., 0, 0], maps.amax(dim=(2, 3)), rtol=1e-4, atol=1e-5)
        not_flipped = run.features["train"].maps[0, kept.rows]
        flips += int((kept.images != not_flipped).flatten(1).any(dim=1).sum())
    assert 0 < flips < 12


def test_features_that_are_known_are_not_computed_again(start: StartRun, monkeypatch: pytest.MonkeyPatch):
    first = start(**FEATURES)
    known = dict(first.features)

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(run_module.Features, "compute", refuse)
    second = TrainingRun(
        Dataset.open(first.training.split.dataset),
        copy_model(first),
        first.recipe,
        device=CPU,
        threads=1,
        features=known,
    )
    assert second.features is known
    assert history_without_times(finish(second)) == history_without_times(finish(first))


def copy_model(run: TrainingRun) -> Recogniser:
    """Return a copy of a run's model with its current weights."""
    side = run.model.head.label_side
    model = build_model(run.recipe, LabelKnowledge(3, None if side is None else side.vectors))
    model.load_state_dict(run.model.state_dict())
    return model
