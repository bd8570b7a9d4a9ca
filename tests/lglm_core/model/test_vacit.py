import numpy as np
import pytest
import torch
from torch import nn

from lglm_core.model.config import AddGcnConfig, SsGrlConfig, VacitConfig
from tests.lglm_core.model.published_heads import (
    C,
    as_if_trained,
    both_conditionings,
    image_side_of,
    maps,
)


@both_conditionings
def test_a_backbone_that_follows_the_flip_has_no_penalty(conditioning: str):
    image_side = as_if_trained(image_side_of("vacit", conditioning=conditioning))
    feature_map = maps(4)
    equivariant = image_side(torch.cat([feature_map, feature_map.flip(3)])).penalty
    torch.testing.assert_close(equivariant, torch.zeros(4))
    assert (image_side(torch.cat([feature_map, feature_map])).penalty > 0.01).all()
    assert (image_side(torch.cat([feature_map, feature_map.flip(2)])).penalty > 0.01).all()


def test_the_penalty_is_the_mean_squared_difference_of_the_maps():
    image_side = as_if_trained(image_side_of("vacit", conditioning="text")).double()
    pairs = maps(8).double()
    activation = np.einsum("bdhw,cd->bchw", pairs.numpy(), image_side.linear.weight.detach().numpy())
    expected = [
        np.mean([(one[c] - other[c][:, ::-1]) ** 2 for c in range(C)])
        for one, other in zip(activation[:4], activation[4:], strict=True)
    ]
    np.testing.assert_allclose(image_side(pairs).penalty.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("trains", ["both", "backbone"])
def test_the_penalty_trains_the_chosen_parameters(trains: str):
    image_side = as_if_trained(image_side_of("vacit", conditioning="text", penalty_trains=trains))
    feature_map = maps(6).requires_grad_()
    image_side(feature_map).penalty.sum().backward()
    assert feature_map.grad is not None and feature_map.grad.abs().sum() > 0
    weight = image_side.linear.weight.grad
    assert (weight is not None and weight.abs().sum() > 0) == (trains == "both")


@both_conditionings
def test_the_folded_layer_gives_the_same_logits(conditioning: str):
    image_side = as_if_trained(image_side_of("vacit", conditioning=conditioning, feature_dropout=0.5)).eval()
    weight, bias = image_side.affine(None)
    assert weight.dtype == bias.dtype == torch.float64
    feature_map = maps(6)
    folded = feature_map.mean(dim=(2, 3)).double() @ weight.T + bias
    torch.testing.assert_close(image_side(feature_map).logits, folded.float(), rtol=1e-5, atol=1e-5)


def test_training_and_eval_mode_give_the_same_scores():
    """With the same statistics: standardising each position and averaging commute."""
    image_side = as_if_trained(image_side_of("vacit"))
    for module in image_side.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0  # the running statistics become the batch's
    trained = image_side(maps(32)).logits
    torch.testing.assert_close(image_side.eval()(maps(32)).logits, trained, rtol=1e-2, atol=1e-2)


def test_the_balance_of_losses_does_not_depend_on_the_reduction():
    assert VacitConfig().penalty_weight("sum", 80) == 1
    assert VacitConfig().penalty_weight("mean", 80) == 1 / 80
    assert VacitConfig(consistency_weight=0.6).penalty_weight("mean", 80) == 0.6
    assert AddGcnConfig().penalty_weight("sum", 80) == SsGrlConfig().penalty_weight("sum", 80) == 0
