"""What holds of label graph and fusion beside the equations (test_reference): extremes, sizes, symmetries."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lglm_core.errors import InputError
from lglm_core.model.config import LglmConfig, head_config
from lglm_core.model.graph import LearnedGraph
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head

C, D, WIDTH = 7, 10, 5
SMALL: dict[str, Any] = {"d_l": 6, "graph_width": 8, "m": 12, "group": 3}


def build(vectors: Tensor, feature_width: int = D, **options: Any) -> Head:
    torch.manual_seed(0)
    config = head_config("lglm", SMALL | options)
    return build_head("lglm", config, feature_width, LabelKnowledge(len(vectors), vectors))


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


def words_like_glove(seed: int) -> Tensor:
    """80 vectors as those of COCO's names in glove.6B.300d: norms 5 to 8, and 0.4 of each in common."""
    rng = torch.Generator().manual_seed(seed)
    common, own = torch.randn(1, 300, generator=rng), torch.randn(80, 300, generator=rng)
    directions = nn.functional.normalize(0.4 * common + 0.9 * own, dim=1)
    return directions * (5 + 3 * torch.rand(80, 1, generator=rng))


def graph_with(a: float, normalisation: Any = "absolute") -> LearnedGraph:
    """A graph that has A = a·I for two labels whose vectors are the unit vectors."""
    graph = LearnedGraph(2, 2, normalisation)
    with torch.no_grad():
        graph.alpha.weight.copy_(2 * a * torch.eye(2))  # A is divided by C = 2
        graph.beta.weight.copy_(torch.eye(2))
        graph.alpha.bias.zero_()
        graph.beta.bias.zero_()
    return graph


def test_the_label_graph_is_finite_where_a_row_vanishes():
    """A = -I leaves nothing of A + I: its degree is held at 0.01."""
    graph = graph_with(-1.0)
    result = graph(torch.eye(2))
    result.sum().backward()
    torch.testing.assert_close(result, torch.zeros(2, 2))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in graph.parameters())


def test_a_row_with_a_negative_sum_is_divided_by_its_size():
    torch.testing.assert_close(graph_with(-4.0)(torch.eye(2)), -torch.eye(2))
    assert graph_with(-4.0, "text")(torch.eye(2)).isnan().all()


def test_with_words_like_real_ones_the_text_has_no_graph_for_most_seeds_and_ours_always_has():
    """ΣÃ is negative somewhere: measured with GloVe's own vectors, for 34 of 40 seeds."""
    without: dict[Any, int] = {"text": 0, "absolute": 0, "public": 0}
    for normalisation in without:
        for seed in range(20):
            words = words_like_glove(seed)
            torch.manual_seed(seed)
            graph = LearnedGraph(300, LglmConfig().d_l, normalisation)
            without[normalisation] += not graph(words).isfinite().all()
    assert without["text"] > 10
    assert without["absolute"] == without["public"] == 0


def test_a_zero_word_vector_gives_finite_scores_and_slopes(vectors: Tensor, maps: Tensor):
    vectors[3] = 0
    head = build(vectors).double()
    logits = head(maps).logits
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_the_scale_of_word_vectors_matters_only_as_the_text_has_it(vectors: Tensor, maps: Tensor):
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
    # LayerNorm's scales and shifts, and 80 biases in place of one.
    assert count(build_head("lglm", LglmConfig(), 2048, knowledge)) == count(head) + 2 * 1024 + 79


def test_a_group_that_does_not_divide_m_is_refused():
    with pytest.raises(InputError, match="g = 5 does not divide m = 12; choose a divisor"):
        head_config("lglm", {"m": 12, "group": 5})


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes, forwards or backwards."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_holds_products_of_every_picture_with_every_label():
    """Eq. 7 read literally has B·C·m of them: here 192,000, against m·D in the largest weight."""
    labels, images, m, feature_width = 40, 50, 96, 20
    head = build(torch.randn(labels, WIDTH), feature_width, m=m).train()
    maps = torch.randn(images, feature_width, 1, 1, requires_grad=True)
    with Sizes() as sizes:
        head(maps).logits.sum().backward()
    parts = [m * feature_width, images * m, labels * m, images * labels, images * feature_width]
    assert sizes.largest == max(parts) == 4800


def test_one_labels_vector_reaches_the_scores_of_all_through_the_graph(head: Head, maps: Tensor):
    side: Any = head.label_side
    before = head(maps).logits
    side.vectors[0] = nn.functional.normalize(torch.randn(WIDTH, dtype=torch.float64), dim=0)
    moved = (head(maps).logits - before).abs().amax(dim=0)
    assert (moved > 1e-6).all()


def test_with_the_identity_as_graph_a_labels_vector_reaches_its_own_scores_alone(
    vectors: Tensor, maps: Tensor
):
    """As the text has it; ours also takes from every embedding what all have in common."""
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


def test_sums_over_neighbours_make_units_of_one_group_interchangeable(vectors: Tensor, maps: Tensor):
    """M1 ∘ M2 is summed within groups of g neighbours: units may change places there, not between groups."""
    head = build(vectors, conditioning="text").double().eval()
    side: Any = head.label_side
    image_side: Any = head.image_side
    before = head(maps).logits

    def swapped(one: int, other: int) -> Tensor:
        order = torch.arange(SMALL["m"])
        order[[one, other]] = order[[other, one]]
        with torch.no_grad():
            for projection in (side.fusion.projection, image_side.projection):
                projection.weight.copy_(projection.weight[order].clone())
                projection.bias.copy_(projection.bias[order].clone())
        return head(maps).logits

    torch.testing.assert_close(swapped(3, 5), before, rtol=0, atol=1e-12)
    assert (swapped(2, 3) - before).abs().max() > 1e-4


def test_every_parameter_of_a_trained_head_has_a_gradient(head: Head, maps: Tensor):
    head(maps).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
