from collections.abc import Callable

import pytest
import torch
from torch import nn

from lglm_core.model.fold import fold
from lglm_core.model.lglm import LglmConfig, LglmHead


def head_of(randomise: Callable[..., None], seed: int, group: int = 2, dropout: float = 0.0) -> LglmHead:
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    config = LglmConfig(d_l=32, graph_widths=(24, 40), m=24, group=group, feature_dropout=dropout)
    head = LglmHead(64, torch.randn(9, 16, generator=rng), config)
    randomise(head, seed)
    return head


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("group", [1, 2, 24])
def test_the_folded_layer_gives_the_logits_of_the_head_in_eval_mode(
    randomise: Callable[..., None], seed: int, group: int
):
    head = head_of(randomise, seed, group, dropout=0.5).eval()
    features = torch.randn(20, 64, generator=torch.Generator().manual_seed(seed)) * 3
    expected = head(features).logits
    assert expected.std() > 0.5  # not a constant that anything would match
    torch.testing.assert_close(fold(head)(features), expected, rtol=1e-5, atol=1e-5)


def test_features_that_hardly_vary_fold_too(randomise: Callable[..., None]):
    head = head_of(randomise, 0).eval()
    assert head.feature_norm.running_var is not None
    head.feature_norm.running_var[:5] = 0
    features = head.feature_norm.running_mean + 0.001 * torch.randn(
        4, 64, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(fold(head)(features), head(features).logits, rtol=1e-4, atol=1e-4)


def test_a_head_as_it_starts_folds_to_its_biases(randomise: Callable[..., None]):
    head = LglmHead(
        64, torch.randn(9, 16, generator=torch.Generator().manual_seed(0)), LglmConfig(d_l=8, m=8)
    )
    nn.init.constant_(head.fusion.label_bias, -2.5)
    folded = fold(head)
    assert not folded.weight.any()
    torch.testing.assert_close(folded.bias, torch.full((9,), -2.5))


def test_folding_leaves_the_head_alone_and_needs_no_gradient(randomise: Callable[..., None]):
    head = head_of(randomise, 0)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    folded = fold(head)
    assert head.training and not any(p.requires_grad for p in folded.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
