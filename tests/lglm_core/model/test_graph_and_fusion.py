"""The label side and the fusion, against NumPy in double precision written from the paper's equations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lglm_core.errors import InputError
from lglm_core.model.fusion import MultiModalFusion
from lglm_core.model.graph import GraphLayers, LabelGraph
from lglm_core.model.lglm import LglmConfig, LglmHead

C, D, WIDTH = 7, 10, 5
CONFIG = LglmConfig(d_l=6, graph_widths=(8, 9), m=12, group=3)


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return x @ array(layer.weight).T + (array(layer.bias) if layer.bias is not None else 0)


def graph_by_numpy(graph: LabelGraph, vectors: np.ndarray) -> np.ndarray:
    """Eqs. 3 and 4, entry by entry, with degree = max(Σ|·|, 0.01)."""
    l1, l2 = linear(vectors, graph.alpha), linear(vectors, graph.beta)
    labels = len(vectors)
    a = np.array([[l1[i] @ l2[j] / labels + (i == j) for j in range(labels)] for i in range(labels)])
    degree = np.array([max(sum(abs(entry) for entry in row), 0.01) for row in a])
    return np.array(
        [[a[i, j] / np.sqrt(degree[i] * degree[j]) for j in range(labels)] for i in range(labels)]
    )


def fusion_by_numpy(fusion: MultiModalFusion, features: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Eq. 7, label by label: products, sums over neighbouring groups, one fc for all labels."""
    m1, m2 = linear(features, fusion.image_projection), linear(embeddings, fusion.label_projection)
    m2 = (m2 - m2.mean(1, keepdims=True)) / np.sqrt(m2.var(1, keepdims=True) + fusion.label_norm.eps)
    m2 = m2 * array(fusion.label_norm.weight) + array(fusion.label_norm.bias)
    logits = np.empty((len(features), len(embeddings)))
    for label, embedding in enumerate(m2):
        product = m1 * embedding
        groups = [
            product[:, start : start + fusion.group].sum(1)
            for start in range(0, product.shape[1], fusion.group)
        ]
        weights, bias = array(fusion.score.weight)[0], fusion.label_bias[label].item()
        logits[:, label] = sum(w * pooled for w, pooled in zip(weights, groups, strict=True)) + bias
    return logits


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(C, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def head(vectors: torch.Tensor, randomise: Callable[[nn.Module], None]) -> LglmHead:
    torch.manual_seed(0)
    head = LglmHead(D, vectors, CONFIG)
    randomise(head)
    return head.double().eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_label_graph_is_that_of_the_equations(vectors: torch.Tensor):
    torch.manual_seed(0)
    graph = LabelGraph(WIDTH, 6).double()
    np.testing.assert_allclose(
        array(graph(vectors)), graph_by_numpy(graph, array(vectors)), rtol=0, atol=1e-9
    )


def test_the_label_graph_is_finite_where_a_row_vanishes():
    """A = -I leaves nothing of A + I: its degree is held at 0.01."""
    graph = LabelGraph(2, 2).double()
    with torch.no_grad():
        graph.alpha.weight.copy_(-2 * torch.eye(2))  # A is divided by C = 2
        graph.beta.weight.copy_(torch.eye(2))
        graph.alpha.bias.zero_(), graph.beta.bias.zero_()
    result = graph(torch.eye(2, dtype=torch.float64))
    result.sum().backward()
    np.testing.assert_allclose(array(result), 0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in graph.parameters())


def test_negative_sums_of_a_row_give_no_nan():
    graph = LabelGraph(2, 2).double()
    with torch.no_grad():
        graph.alpha.weight.copy_(-8 * torch.eye(2))
        graph.beta.weight.copy_(torch.eye(2))
        graph.alpha.bias.zero_(), graph.beta.bias.zero_()
    np.testing.assert_allclose(array(graph(torch.eye(2, dtype=torch.float64))), -np.eye(2))


def test_graph_layers_are_those_of_equation_five(vectors: torch.Tensor):
    torch.manual_seed(0)
    layers = GraphLayers((WIDTH, 8, 9)).double()
    graph = torch.randn(C, C, dtype=torch.float64)
    expected = array(vectors)
    for weight in layers.weights:
        expected = np.maximum(array(graph) @ (expected @ array(weight.weight).T), 0)
    np.testing.assert_allclose(array(layers(graph, vectors)), expected, rtol=0, atol=1e-9)


def test_fusion_is_the_sum_over_groups_label_by_label(head: LglmHead, features: torch.Tensor):
    embeddings = torch.randn(C, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = fusion_by_numpy(head.fusion, array(features), array(embeddings))
    np.testing.assert_allclose(array(head.fusion(features, embeddings)), expected, rtol=0, atol=1e-9)


def test_the_whole_head_is_standardise_graph_and_fusion(
    head: LglmHead, features: torch.Tensor, vectors: torch.Tensor
):
    norm = head.feature_norm
    assert norm.running_mean is not None and norm.running_var is not None
    standardised = (array(features) - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + norm.eps)
    words = array(vectors) / np.linalg.norm(array(vectors), axis=1, keepdims=True)
    graph = graph_by_numpy(head.label_graph, words)
    embeddings = words
    for weight in head.graph_layers.weights:
        embeddings = np.maximum(graph @ (embeddings @ array(weight.weight).T), 0)
    expected = fusion_by_numpy(head.fusion, standardised, embeddings)
    prediction = head(features)
    np.testing.assert_allclose(
        array(prediction.logits), expected, rtol=0, atol=1e-6
    )  # vectors are kept in float32
    np.testing.assert_allclose(array(prediction.graph), graph, rtol=0, atol=1e-6)


def test_a_zero_word_vector_gives_finite_logits(vectors: torch.Tensor, features: torch.Tensor):
    vectors[3] = 0
    assert LglmHead(D, vectors, CONFIG).double()(features).logits.isfinite().all()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_paper():
    """For C labels with 300-dimensional vectors, D = 2048, m = 1024, g = 2."""
    head = LglmHead(2048, torch.ones(80, 300), LglmConfig())
    assert count(head.label_graph) == 616_448
    assert count(head.graph_layers) == 2_404_352
    assert count(head.fusion.image_projection) + count(head.fusion.label_projection) == 4_196_352
    assert count(head.fusion.score) == 512
    assert head.fusion.label_bias.numel() == 80
    assert count(head) == 616_448 + 2_404_352 + 4_196_352 + 512 + 80 + count(head.fusion.label_norm)


def test_a_group_that_does_not_divide_m_is_refused():
    with pytest.raises(InputError, match="g = 5 does not divide m = 12"):
        LglmHead(D, torch.ones(C, WIDTH), LglmConfig(m=12, group=5))


def test_permuting_the_labels_permutes_the_logits_and_nothing_else(head: LglmHead, features: torch.Tensor):
    logits, graph = head(features)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    with torch.no_grad():
        head.vectors.copy_(head.vectors[order].clone())
        head.fusion.label_bias.copy_(head.fusion.label_bias[order].clone())
    permuted = head(features)
    torch.testing.assert_close(permuted.logits, logits[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.graph, graph[order][:, order], rtol=0, atol=1e-12)


def test_every_parameter_of_a_trained_head_has_a_gradient(head: LglmHead, features: torch.Tensor):
    head(features).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
