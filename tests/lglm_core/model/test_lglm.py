"""Extremes, sizes and symmetries of LGLM's head; test_reference compares it with the equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lglm_core.errors import InputError
from lglm_core.model.config import LglmConfig, head_config
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head
from tests.lglm_core.model.small_heads import small_head

C, D, WIDTH = 7, 10, 5


def build(vectors: Tensor, feature_width: int = D, **options: Any) -> Head:
    return small_head("lglm", feature_width, LabelKnowledge(len(vectors), vectors), **options)


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(C, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(4, D, 2, 2, generator=torch.Generator().manual_seed(2)).double()


@pytest.fixture(params=["mfc", "dot"])
def head(request: pytest.FixtureRequest, vectors: Tensor, randomise: Callable[[nn.Module], None]) -> Head:
    head = build(vectors, fusion=request.param)
    randomise(head)
    return head.double().eval()


def test_a_zero_word_vector_gives_finite_scores_and_gradients(vectors: Tensor, maps: Tensor):
    vectors[3] = 0
    head = build(vectors).double()
    logits = head(maps).logits
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_the_scale_of_word_vectors_matters_only_without_conditioning(vectors: Tensor, maps: Tensor):
    for conditioning, matters in (("conditioned", False), ("text", True)):
        graphs = []
        for scale in (1.0, 3.0):
            side = build(vectors * scale, conditioning=conditioning).label_weights()
            assert side is not None
            graphs.append(side.graph)
        assert torch.allclose(graphs[0], graphs[1]) is not matters


def count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_paper():
    """For C labels with 300-dimensional vectors, D = 2048, m = 1024, g = 2."""
    knowledge = LabelKnowledge(80, torch.ones(80, 300))
    head = build_head("lglm", LglmConfig(conditioning="text"), 2048, knowledge)
    label_side: Any = head.label_side
    image_side: Any = head.image_side
    assert count(label_side.graph) == 616_448
    assert count(label_side.layers) == 2_404_352
    assert count(image_side.projection) + count(label_side.fusion.projection) == 4_196_352
    assert count(label_side.fusion.score) == 512
    assert count(head) == 616_448 + 2_404_352 + 4_196_352 + 512 + 1  # the last fc's bias
    # Conditioning adds LayerNorm's scales and shifts, and has 80 biases in place of one.
    assert count(build_head("lglm", LglmConfig(), 2048, knowledge)) == count(head) + 2 * 1024 + 79


def test_a_group_that_does_not_divide_m_is_refused():
    with pytest.raises(InputError, match="g = 5 does not divide m = 12; choose a divisor"):
        head_config("lglm", {"m": 12, "group": 5})


def test_a_labels_vector_affects_the_scores_of_all_labels_through_the_graph(head: Head, maps: Tensor):
    side: Any = head.label_side
    before = head(maps).logits
    side.vectors[0] = nn.functional.normalize(torch.randn(WIDTH, dtype=torch.float64), dim=0)
    moved = (head(maps).logits - before).abs().amax(dim=0)
    assert (moved > 1e-6).all()


def test_with_the_identity_as_graph_a_labels_vector_affects_only_its_own_scores(
    vectors: Tensor, maps: Tensor
):
    """This holds for the text's form; the conditioned one also subtracts the mean of all embeddings."""
    head = build(vectors, conditioning="text").double()
    side: Any = head.label_side
    with torch.no_grad():
        side.graph.alpha.weight.zero_()
        side.graph.alpha.bias.zero_()
    before = head(maps).logits
    side.vectors[0] = nn.functional.normalize(torch.randn(WIDTH, dtype=torch.float64), dim=0)
    moved = (head(maps).logits - before).abs().amax(dim=0)
    assert moved[0] > 1e-6
    assert not moved[1:].any()


def test_permuting_the_labels_permutes_the_scores_and_nothing_else(head: Head, maps: Tensor):
    side: Any = head.label_side
    image_side: Any = head.image_side
    logits, graph = head(maps).logits, side().graph
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    with torch.no_grad():
        side.vectors.copy_(side.vectors[order].clone())
        image_side.bias.copy_(image_side.bias[order].clone())
    torch.testing.assert_close(head(maps).logits, logits[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(side().graph, graph[order][:, order], rtol=0, atol=1e-12)


def test_every_parameter_of_a_trained_head_has_a_gradient(head: Head, maps: Tensor):
    head(maps).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
