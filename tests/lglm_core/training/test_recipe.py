from typing import Any

import pytest
from pydantic import ValidationError

from lglm_core.errors import InputError
from lglm_core.model.config import TRAINABLE, LglmConfig
from lglm_core.training.recipe import PRESETS, FullRecipe, Preset, TrainingRecipe

OTHER_VALUES: dict[str, Any] = {
    "epochs": 3,
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "step", "one-cycle"),
    "lr": 0.02,
    "backbone_lr": 0.003,
    "weight_decay": 0.5,
    "loss": ("bce", "asymmetric"),
    "label_reduction": ("sum", "mean"),
    "gamma_neg": 2.0,
    "gamma_pos": 1.0,
    "margin": 0.1,
    "clip": 3.0,
    "ema": 0.5,
    "views": ("crop", "flip"),
    "rand_augment": 1,
    "cutout": 0.25,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_values_that_are_not_given_come_from_the_preset(preset: Preset):
    filled = TrainingRecipe(recipe=preset).filled_in()
    for name, value in PRESETS[preset].items():
        if name != "backbone_lr_fraction":
            assert getattr(filled, name) == value, name


def test_simple_is_the_default_preset():
    assert TrainingRecipe().filled_in() == TrainingRecipe(recipe="simple").filled_in()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_value_of_a_preset_can_be_overridden_alone(preset: Preset, name: str):
    before = TrainingRecipe(recipe=preset).filled_in().model_dump()
    other = OTHER_VALUES[name]
    value = next(o for o in other if o != before[name]) if isinstance(other, tuple) else other
    after = TrainingRecipe(recipe=preset, **{name: value}).filled_in().model_dump()
    changed = {key for key in after if after[key] != before[key]}
    assert after[name] == value
    assert changed == ({"lr", "backbone_lr"} if name == "lr" else {name})


@pytest.mark.parametrize("name", ["gamma_neg", "clip", "ema", "rand_augment", "cutout"])
def test_zero_overrides_the_preset(name: str):
    presets = [preset for preset in PRESETS if PRESETS[preset][name]]
    assert presets
    for preset in presets:
        assert getattr(TrainingRecipe(recipe=preset, **{name: 0}).filled_in(), name) == 0


def test_the_tests_cover_every_value_of_every_preset():
    filled = {name for preset in PRESETS.values() for name in preset} - {"backbone_lr_fraction"}
    assert filled | {"backbone_lr"} == OTHER_VALUES.keys()
    for preset in PRESETS.values():
        assert preset.keys() == filled | {"backbone_lr_fraction"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 1e-4),
        ({"lr": 0.5}, 0.05),
        ({"recipe": "paper"}, 0.01),
        ({"weights": "none"}, 1e-3),
        ({"weights": "none", "backbone_lr": 0.3}, 0.3),
    ],
)
def test_a_pretrained_backbone_learns_at_a_tenth_of_the_heads_rate_and_a_new_one_at_the_same_rate(
    given: dict[str, Any], expected: float
):
    assert TrainingRecipe(**given).filled_in().backbone_lr == pytest.approx(expected)


def test_filling_in_a_full_recipe_changes_nothing():
    filled = TrainingRecipe(recipe="modern", head="probe", lr=0.2).filled_in()
    assert isinstance(filled, FullRecipe) and filled.filled_in() == filled


def test_a_jobs_other_options_are_left_out():
    class Job(TrainingRecipe):
        out: str

    assert "out" not in Job(out="somewhere").filled_in().model_dump()


RIDGE: dict[str, Any] = {"head": "ridge", "freeze_backbone": True}


def test_ridge_takes_one_epoch_unless_told_otherwise():
    assert TrainingRecipe(**RIDGE).filled_in().epochs == 1
    assert TrainingRecipe(**RIDGE, head_option=("ridge=0.1",), epochs=3).filled_in().epochs == 3


def test_a_ridge_to_be_chosen_over_several_epochs_is_refused():
    """Cross-validation would take several views of one picture for several pictures."""
    with pytest.raises(ValidationError, match="head ridge chooses its ridge in one pass; leave `epochs` out"):
        TrainingRecipe(**RIDGE, epochs=2)
    assert TrainingRecipe(**RIDGE, epochs=1).filled_in().epochs == 1


def test_the_heads_options_are_parsed_to_their_types():
    recipe = TrainingRecipe(head_option=("m=12", "group=3", "fusion=dot", "feature_dropout=0.5"))
    assert recipe.head_config == LglmConfig(m=12, group=3, fusion="dot", feature_dropout=0.5)


@pytest.mark.parametrize("name", ["resnet", "folded", ""])
def test_an_unknown_head_is_refused_with_the_list_of_heads(name: str):
    with pytest.raises(ValidationError) as refusal:
        TrainingRecipe(head=name)
    message = refusal.value.errors()[0]["msg"]
    assert f"head {name!r} is unknown" in message
    assert all(head in message for head in TRAINABLE) and "folded," not in message


def test_an_option_that_the_head_does_not_have_is_refused():
    with pytest.raises(InputError, match="the head plain has no option 'm'"):
        TrainingRecipe(head="plain", head_option=("m=3",))


def test_a_g_that_does_not_divide_m_is_refused():
    with pytest.raises(InputError, match="head lglm: g = 5 does not divide m = 12; choose a divisor"):
        TrainingRecipe(head_option=("m=12", "group=5"))


def test_ridge_on_a_backbone_that_trains_is_refused():
    with pytest.raises(ValidationError, match=r"head ridge is solved on .* fixed backbone; add `freeze_back"):
        TrainingRecipe(head="ridge")


@pytest.mark.parametrize(
    "given",
    [
        {"ema": 1.0},
        {"lr": 0.0},
        {"lr": -1.0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"epochs": 0},
        {"image_size": 31},
        {"cutout": 1.0},
        {"rand_augment": 11},
        {"seed": 2**31},
        {"recipe": "complex"},
        {"learning_rate": 0.1},
    ],
)
def test_an_invalid_value_is_refused_by_name(given: dict[str, Any]):
    with pytest.raises(ValidationError) as refusal:
        TrainingRecipe(**given)
    assert refusal.value.errors()[0]["loc"] == tuple(given)


def test_the_help_names_every_head_and_no_other():
    description = TrainingRecipe.model_fields["head"].description
    assert description is not None
    listed = description.partition(": ")[2].rstrip(".").replace(" or ", ", ")
    assert tuple(name for name in listed.split(", ") if name) == TRAINABLE
