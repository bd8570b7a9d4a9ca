"""Properties that every head has."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lglm_core.errors import InputError
from lglm_core.model.config import HEADS, head_config
from lglm_core.model.head import Head, HeadOutput, LabelKnowledge, PooledSide
from lglm_core.model.heads import BUILDERS, build_head
from lglm_core.model.losses import multi_label_loss
from tests.lglm_core.model.small_heads import VARIANTS, draw_knowledge, small_head

C, D, VECTOR_WIDTH = (
    7,
    20,
    9,
)  # C differs from every other width, so that it identifies the labels' dimensions
KNOWLEDGE = draw_knowledge(C, VECTOR_WIDTH)
CONDITIONED = [
    variant
    for variant, (name, options) in VARIANTS.items()
    if name not in ("plain", "ridge") and options.get("conditioning") != "text"
]
GRAPHS = [variant for variant, (_, options) in VARIANTS.items() if "graph_width" in options]
WITH_DROPOUT = [name for name in BUILDERS if "feature_dropout" in HEADS[name].model_fields]


def maps(batch: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, D, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(variant: str, randomise: Callable[..., None], knowledge: LabelKnowledge = KNOWLEDGE) -> Head:
    """Return a head in float64, with random weights in place of learned ones."""
    head = small_head(variant, D, knowledge)
    randomise(head)
    return head.double()


def training_input(head: Head, feature_maps: Tensor) -> Tensor:
    """Return the maps that the head gets in training."""
    if head.image_side.wants_mirror:
        return torch.cat([feature_maps, feature_maps.flip(-1) + 0.1])
    return feature_maps


def test_every_head_that_has_a_configuration_can_be_built():
    assert BUILDERS.keys() == HEADS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_folds_where_its_configuration_says_so(variant: str):
    head = small_head(variant, D, KNOWLEDGE)
    assert isinstance(head.image_side, PooledSide) == head.config.foldable


@pytest.mark.parametrize("name", [name for name in BUILDERS if HEADS[name].needs_vectors])
def test_a_head_without_the_label_vectors_it_needs_is_refused(name: str):
    with pytest.raises(InputError, match=f"the head {name} needs label vectors; name `label_embeddings`"):
        build_head(name, head_config(name), D, replace(KNOWLEDGE, vectors=None))


@pytest.mark.parametrize("name", [name for name in BUILDERS if HEADS[name].needs_counts])
def test_a_head_without_the_label_counts_it_needs_is_refused(name: str):
    with pytest.raises(InputError, match=f"the head {name} needs label counts; name a training split"):
        build_head(name, head_config(name), D, replace(KNOWLEDGE, counts=None))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_needs_no_more_than_its_configuration_says(variant: str):
    config = HEADS[VARIANTS[variant][0]]
    minimal = LabelKnowledge(
        C,
        KNOWLEDGE.vectors if config.needs_vectors else None,
        KNOWLEDGE.counts if config.needs_counts else None,
    )
    head = small_head(variant, D, minimal).eval()
    assert head(maps().float()).logits.shape == (6, C)


@pytest.mark.parametrize("variant", CONDITIONED)
def test_a_conditioned_head_starts_at_the_labels_log_odds(variant: str):
    head = small_head(variant, D, KNOWLEDGE).eval()
    log_odds = torch.linspace(-4, 1, C)
    head.image_side.start_at_prior(log_odds)
    torch.testing.assert_close(head(maps().float()).logits, log_odds.expand(6, C), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in CONDITIONED])
def test_a_head_as_published_does_not_start_at_the_prior(variant: str):
    head = small_head(variant, D, KNOWLEDGE).eval()
    before = head(maps().float()).logits
    head.image_side.start_at_prior(torch.linspace(-4, 1, C))
    assert torch.equal(head(maps().float()).logits, before) and before.std() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_score_of_a_picture_does_not_depend_on_its_batch_in_eval_mode(
    variant: str, randomise: Callable[..., None]
):
    head = trained(variant, randomise).eval()
    together = head(maps()).logits
    apart = torch.cat([head(one[None]).logits for one in maps()])
    assert together.std(dim=0).min() > 1e-3
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_learned(variant: str, randomise: Callable[..., None]):
    """The public code has fusion weights that its optimiser does not know, which is easily missed."""
    head = trained(variant, randomise)
    output: HeadOutput = head(training_input(head, maps()))
    side = head.label_weights()
    loss = output.logits.square().sum() + (side.penalty if side else 0.0)
    (loss + (0.0 if output.penalty is None else output.penalty.sum())).backward()
    unused = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert unused == []
    assert [name for name, parameter in head.named_parameters() if not parameter.grad.any()] == []


def reversed_labels(tensor: Tensor) -> Tensor:
    """Return the tensor with the labels in reverse order, in every dimension of labels."""
    return tensor.flip([dim for dim, size in enumerate(tensor.shape) if size == C])


def losses(head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and the whole loss in training mode."""
    side = head.label_weights()
    output: HeadOutput = head.image_side(training_input(head, maps()), side.weights if side else None)
    views = len(output.logits) // len(targets)
    loss = multi_label_loss(output.logits, targets.repeat(views, 1)).mean()
    loss = loss + (side.penalty if side else 0.0)
    return output.logits, loss if output.penalty is None else loss + output.penalty.mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_labels_changes_only_the_order_of_the_logits(
    variant: str, randomise: Callable[..., None]
):
    """With vectors, counts, targets and weights of labels reversed, logits and gradients are reversed."""
    head = trained(variant, randomise)
    assert KNOWLEDGE.vectors is not None and KNOWLEDGE.counts is not None
    other = trained(
        variant, randomise, LabelKnowledge(C, KNOWLEDGE.vectors.flip(0), KNOWLEDGE.counts.flip(0, 1))
    )
    with torch.no_grad():
        for ours, theirs in zip(head.parameters(), other.parameters(), strict=True):
            theirs.copy_(reversed_labels(ours))
        for name, buffer in other.named_buffers():  # computed from the reversed knowledge, or not of labels
            torch.testing.assert_close(buffer, reversed_labels(dict(head.named_buffers())[name]))
    targets = torch.randint(-1, 2, (6, C), generator=torch.Generator().manual_seed(1))
    logits, loss = losses(head, targets)
    other_logits, other_loss = losses(other, targets.flip(1))
    assert logits.std(dim=1).min() > 1e-3
    torch.testing.assert_close(other_logits, logits.flip(1))
    torch.testing.assert_close(other_loss, loss)
    loss.backward()
    other_loss.backward()
    for (name, ours), theirs in zip(head.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            theirs.grad, reversed_labels(ours.grad), msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_buffer_is_contiguous(variant: str):
    """NCCL refuses tensors that are not contiguous; gloo, which the tests use, accepts them."""
    head = small_head(variant, D, KNOWLEDGE)
    assert [name for name, buffer in head.named_buffers() if not buffer.is_contiguous()] == []


@pytest.mark.parametrize("variant", GRAPHS)
def test_a_label_side_stays_in_full_precision_under_autocast(variant: str, randomise: Callable[..., None]):
    head = small_head(variant, D, KNOWLEDGE)
    randomise(head)
    side = head.label_weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = head.label_weights()
    assert side is not None and autocast is not None
    assert torch.equal(autocast.weights, side.weights) and autocast.weights.dtype == torch.float32
    assert torch.equal(autocast.graph, side.graph)


@pytest.mark.parametrize("variant", WITH_DROPOUT)
def test_feature_dropout_is_active_only_in_training(variant: str, randomise: Callable[..., None]):
    head = small_head(variant, D, KNOWLEDGE, feature_dropout=0.5)
    randomise(head)
    feature_maps = maps().float()
    torch.manual_seed(0)
    first, second = (head.train()(training_input(head, feature_maps)).logits for _ in range(2))
    assert not torch.allclose(first, second)
    assert torch.equal(head.eval()(feature_maps).logits, head(feature_maps).logits)
