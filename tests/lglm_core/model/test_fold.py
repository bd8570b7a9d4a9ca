from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lglm_core.errors import InputError
from lglm_core.model.config import HEADS
from lglm_core.model.fold import fold
from lglm_core.model.head import Head, ImageSide, PooledSide, pool
from tests.lglm_core.model.small_heads import FOLDABLE, VARIANTS, draw_knowledge, small_head

KNOWLEDGE = draw_knowledge(9, 16)
NOT_FOLDABLE = [variant for variant, (name, _) in VARIANTS.items() if not HEADS[name].foldable]
STANDARDISED = [
    variant
    for variant in FOLDABLE
    if VARIANTS[variant][0] not in ("plain", "ridge") and VARIANTS[variant][1].get("conditioning") != "text"
]


def head_of(variant: str, randomise: Callable[..., None], seed: int = 0, **options: object) -> Head:
    head = small_head(variant, 64, KNOWLEDGE, **options)
    randomise(head, seed)
    return head


def maps(seed: int) -> Tensor:
    return torch.randn(20, 64, 3, 4, generator=torch.Generator().manual_seed(seed)) * 3


def folded_logits(head: Head, feature_maps: Tensor) -> Tensor:
    assert isinstance(head.image_side, PooledSide)
    logits: Tensor = fold(head)(pool(feature_maps, head.image_side.pooling))
    return logits


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant", FOLDABLE)
def test_the_folded_layer_gives_the_logits_of_the_head_in_eval_mode(
    randomise: Callable[..., None], variant: str, seed: int
):
    head = head_of(variant, randomise, seed).eval()
    expected = head(maps(seed)).logits
    assert expected.std(dim=0).min() > 0.1  # not a constant
    scale = expected.abs().max().item()
    torch.testing.assert_close(folded_logits(head, maps(seed)), expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("group", [1, 2, 12])
def test_a_head_folds_with_every_group_size(randomise: Callable[..., None], group: int):
    head = head_of("lglm", randomise, group=group).eval()
    torch.testing.assert_close(folded_logits(head, maps(0)), head(maps(0)).logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", ["lglm", "plain", "probe", "a-gcn"])
def test_a_head_with_dropout_folds(randomise: Callable[..., None], variant: str):
    head = head_of(variant, randomise, feature_dropout=0.5)
    expected = head.eval()(maps(0)).logits
    torch.testing.assert_close(folded_logits(head.train(), maps(0)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", STANDARDISED)
def test_a_head_folds_where_features_hardly_vary(randomise: Callable[..., None], variant: str):
    head = head_of(variant, randomise).eval()
    assert isinstance(head.image_side, PooledSide)
    norm = head.image_side.norm.norm
    norm.running_var[:5] = 0
    noise = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    features = norm.running_mean + 0.001 * noise
    expected = head(features[..., None, None]).logits
    torch.testing.assert_close(fold(head)(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", STANDARDISED)
def test_an_untrained_conditioned_head_folds_to_its_biases(variant: str):
    head = small_head(variant, 64, KNOWLEDGE)
    head.image_side.start_at_prior(torch.linspace(-3, 0, 9))
    folded = fold(head)
    assert not folded.weight.any()
    torch.testing.assert_close(folded.bias, torch.linspace(-3, 0, 9))


@pytest.mark.parametrize("variant", FOLDABLE)
def test_folding_does_not_change_the_head_and_has_no_gradient(randomise: Callable[..., None], variant: str):
    head = head_of(variant, randomise)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    folded = fold(head)
    assert head.training and not any(p.requires_grad for p in folded.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("variant", NOT_FOLDABLE)
def test_a_head_that_does_not_fold_is_refused(variant: str):
    with pytest.raises(InputError, match=f"the head {VARIANTS[variant][0]} does not fold: its scores are no"):
        fold(small_head(variant, 64, KNOWLEDGE))


def test_a_head_that_reads_the_whole_map_is_refused():
    image_side = ImageSide()
    image_side.linear = nn.Linear(3, 2)
    with pytest.raises(InputError, match="the head mine does not fold: its scores are no linear function"):
        fold(Head("mine", HEADS["plain"](), image_side))
