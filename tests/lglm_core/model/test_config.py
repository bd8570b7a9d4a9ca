from typing import Any

import pytest

from lglm_core.errors import InputError
from lglm_core.model.config import (
    HEADS,
    TRAINABLE,
    AGcnConfig,
    LglmConfig,
    MlGcnConfig,
    PlainConfig,
    RidgeConfig,
    VacitConfig,
    head_config,
)


def test_options_are_given_by_name_or_as_text():
    expected = LglmConfig(m=12, group=3, fusion="dot", graph_weight=0.5)
    assert head_config("lglm", {"m": 12, "group": 3, "fusion": "dot", "graph_weight": 0.5}) == expected
    assert head_config("lglm", ["m=12", "group=3", "fusion=dot", "graph_weight=0.5"]) == expected


@pytest.mark.parametrize("name", HEADS)
def test_a_configuration_is_restored_from_the_record_in_a_model_room(name: str):
    config = head_config(name)
    assert head_config(name, config.model_dump()) == config


def test_heads_of_one_family_differ_where_their_papers_do():
    assert (LglmConfig().activation, AGcnConfig().activation, MlGcnConfig().activation) == (
        "relu",
        "leaky",
        "leaky",
    )
    assert [HEADS[name].needs_counts for name in ("lglm", "a-gcn", "ml-gcn")] == [False, False, True]


def test_an_unknown_head_is_refused_with_those_that_can_be_trained():
    with pytest.raises(InputError) as refusal:
        head_config("lgml")
    assert str(refusal.value) == f"head 'lgml' is unknown; the heads are {', '.join(TRAINABLE)}"


@pytest.mark.parametrize("name", HEADS)
def test_an_unknown_option_is_refused_with_the_list_of_options_and_defaults(name: str):
    with pytest.raises(InputError, match=f"^the head {name} has no option 'grop'; ") as refusal:
        head_config(name, ["grop=3"])
    listed = str(refusal.value).partition("defaults: ")[2].split(", ")
    fields = HEADS[name].model_fields
    assert listed == [f"{option} ({field.default})" for option, field in fields.items()]


@pytest.mark.parametrize("option", ["m", "m=", "=3", ""])
def test_an_option_without_name_or_value_is_refused_with_the_list_of_options(option: str):
    with pytest.raises(InputError, match=rf"^'{option}': NAME=VALUE was expected; .* group \(2\)"):
        head_config("lglm", [option])


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("lglm", "m=many", "head lglm: m=many was given; input should be a valid integer"),
        ("lglm", "feature_dropout=1", "feature_dropout=1 was given; input should be less than 1"),
        ("lglm", "layers=1", "layers=1 was given; input should be greater than or equal to 2"),
        ("a-gcn", "graph_weight=-1", "head a-gcn: graph_weight=-1 was given; input should be greater than"),
        ("plain", "pooling=mean", "head plain: pooling=mean was given; input should be 'max' or 'average'"),
    ],
)
def test_an_invalid_value_is_refused_with_the_valid_ones(name: str, option: str, reason: str):
    with pytest.raises(InputError) as refusal:
        head_config(name, [option])
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_g_that_does_not_divide_m_is_refused():
    with pytest.raises(InputError, match=r"^head lglm: g = 7 does not divide m = 1024; choose a divisor$"):
        head_config("lglm", ["group=7"])


@pytest.mark.parametrize("config", [LglmConfig(), AGcnConfig(), VacitConfig()])
def test_lambda_keeps_its_balance_with_a_loss_averaged_over_labels(config: Any):
    assert config.penalty_weight("sum", 80) == 1
    assert config.penalty_weight("mean", 80) == pytest.approx(1 / 80)


@pytest.mark.parametrize(
    "config",
    [LglmConfig(graph_weight=0.3), AGcnConfig(graph_weight=0.3), VacitConfig(consistency_weight=0.3)],
)
def test_a_given_lambda_is_used_unchanged(config: Any):
    assert config.penalty_weight("mean", 80) == config.penalty_weight("sum", 80) == 0.3


@pytest.mark.parametrize("config", [PlainConfig(), RidgeConfig(), MlGcnConfig()])
def test_a_head_without_a_penalty_has_lambda_zero(config: Any):
    assert config.penalty_weight("sum", 80) == 0
