"""The model in double precision against the paper's equations: scores, graph, losses and all gradients."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lglm_core.loading.loader import Batch
from lglm_core.model import losses
from lglm_core.model.config import GraphConfig, LearnedGraphConfig, LglmConfig, MlGcnConfig, head_config
from lglm_core.model.graph import CountedGraph, LearnedGraph
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.training.loop import Trainer
from lglm_core.training.recipe import TrainingRecipe
from tests.lglm_core.model import paper

WIDTH = 4  # of the label vectors
TOLERANCE = 1e-9

NAMES = {
    "alpha.weight": "label_side.graph.alpha.weight",
    "alpha.bias": "label_side.graph.alpha.bias",
    "beta.weight": "label_side.graph.beta.weight",
    "beta.bias": "label_side.graph.beta.bias",
    "fc1.weight": "image_side.projection.weight",
    "fc1.bias": "image_side.projection.bias",
    "fc2.weight": "label_side.fusion.projection.weight",
    "fc2.bias": "label_side.fusion.projection.bias",
    "norm.weight": "label_side.fusion.norm.weight",
    "norm.bias": "label_side.fusion.norm.bias",
    "bias": "image_side.bias",
    "R": "label_side.residual",
}
"""The paper's names of parameters and those of lglm_core, where both have the same shape."""

TEXT = {"conditioning": "text", "normalisation": "text", "graph_loss": "frobenius"}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def make_case(randomise: Callable[..., None]) -> Callable[..., "Case"]:
    def make_case(
        name: str,
        options: dict[str, Any],
        *,
        labels: int = 5,
        images: int = 3,
        D: int = 6,
        cells: tuple[int, int] = (2, 3),
        weight: float = 1.0,
        training: bool = False,
        counts: np.ndarray | None = None,
    ) -> "Case":
        torch.manual_seed(0)
        vectors = torch.randn(labels, WIDTH)
        known = None if counts is None else torch.from_numpy(counts)
        head = build_head(name, head_config(name, options), D, LabelKnowledge(labels, vectors, known))
        randomise(head)
        with torch.no_grad():
            for parameter_name, parameter in head.named_parameters():
                if ".graph." in parameter_name:
                    parameter.mul_(0.5)  # A stays small, and Eq. 4 has a value
                elif parameter_name.endswith("residual"):
                    parameter.normal_()
        targets = (torch.rand(images, labels) < 0.4).to(torch.int8)
        maps = torch.randn(images, D, *cells)
        return Case(head.train(training), vectors, targets, maps, weight)

    return make_case


class Case:
    """A head and its reference, with one batch."""

    def __init__(self, head: Head, vectors: Tensor, targets: Tensor, maps: Tensor, weight: float) -> None:
        self.head, self.targets, self.maps, self.weight = head, targets, maps.requires_grad_(), weight
        config = head.config
        assert isinstance(config, GraphConfig)
        self.reference = paper.Lglm(
            vectors=vectors.numpy(),
            lambda_=weight,
            conditioned=config.conditioning == "conditioned",
            leaky=config.activation == "leaky",
            fusion="dot",
        )
        if isinstance(config, LearnedGraphConfig):
            self.reference = replace(
                self.reference, normalisation=config.normalisation, reduction=config.graph_loss
            )
        if isinstance(config, LglmConfig):
            self.reference = replace(
                self.reference, fusion=config.fusion, g=config.group, residual=config.residual
            )
        if self.reference.conditioned and not head.training:
            norm = dict(head.named_buffers())
            mean, var = (norm[f"image_side.norm.norm.running_{what}"].numpy() for what in ("mean", "var"))
            self.reference = replace(self.reference, running=(mean, var))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that has a gradient, by the paper's names."""
        theirs = dict(self.head.named_parameters())
        tensors = {name: theirs.pop(ours) for name, ours in NAMES.items() if ours in theirs}
        for name in list(theirs):
            if name.startswith("label_side.layers.weights."):
                tensors[f"U{name.split('.')[3]}"] = theirs.pop(name)
            elif name.startswith("label_side.fusion.score"):
                tensors["fc.weight"] = theirs.pop(name)
        assert not theirs, "parameters that the equations do not have"
        return tensors | {"maps": self.maps}

    def check(self, *, backward: Callable[["Case"], None] | None = None) -> paper.Result:
        """Compare all outputs, and the gradients of the total loss with respect to every parameter."""
        side = self.head.label_weights()
        assert side is not None
        logits = self.head(self.maps).logits
        label_loss = losses.multi_label_loss(logits, self.targets).mean()
        total = label_loss + self.weight * side.penalty
        tensors = self.tensors()
        p = {name: as_in_paper(name, tensor) for name, tensor in tensors.items()}
        targets = self.targets.numpy()
        expected = self.reference(p, targets)
        ours = paper.Result(*map(array, (logits, side.graph, label_loss, side.penalty, total)))
        for field, value in ours._asdict().items():
            assert value.dtype == np.float64
            assert_close(value, getattr(expected, field), field)
        if backward is None:
            total.backward()
        else:
            backward(self)
        for name, tensor in tensors.items():
            gradient = paper.gradient(lambda shifted: self.reference(shifted, targets).total, p, name)
            assert np.abs(gradient).max() > 1e-6, f"the gradient of {name} is zero, which compares nothing"
            assert tensor.grad is not None
            assert_close(as_in_paper(name, tensor.grad), gradient, f"gradient of {name}")
        return expected


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def as_in_paper(name: str, tensor: Tensor) -> np.ndarray:
    """Return the text's layout: U_l is to the right of L_l, and the last fc has one row."""
    if name == "fc.weight":
        return array(tensor).ravel()
    return array(tensor).T if name.startswith("U") else array(tensor)


def assert_close(ours: np.ndarray, expected: np.ndarray, name: str) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=name)


SIZES = [
    # labels, images, d_L, m, g, layers, λ
    (2, 1, 1, 2, 1, 2, 1.0),
    (5, 3, 3, 6, 2, 2, 0.7),
    (7, 2, 4, 12, 3, 3, 0.2),
    (4, 4, 6, 8, 8, 4, 0.0),  # one group; no L_A
    (6, 5, 2, 10, 5, 3, 1.0),
]


@pytest.mark.parametrize(("labels", "images", "d_l", "m", "group", "layers", "weight"), SIZES)
def test_the_texts_form(
    make_case: Callable[..., Case],
    labels: int,
    images: int,
    d_l: int,
    m: int,
    group: int,
    layers: int,
    weight: float,
):
    options = {"d_l": d_l, "m": m, "group": group, "layers": layers, "graph_width": 7}
    case = make_case("lglm", TEXT | options, labels=labels, images=images, weight=weight)
    result = case.check()
    assert (result.graph != np.diag(result.graph.diagonal())).any()


@pytest.mark.parametrize("training", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize(("labels", "images", "d_l", "m", "group", "layers", "weight"), SIZES[1:])
def test_the_conditioned_form(
    make_case: Callable[..., Case],
    labels: int,
    images: int,
    d_l: int,
    m: int,
    group: int,
    layers: int,
    weight: float,
    training: bool,
):
    """Unit vectors, degrees Σ|Ã|, a standardised feature, a centred W, LayerNorm on M2, a bias per label."""
    options = {"d_l": d_l, "m": m, "group": group, "layers": layers, "graph_width": 7}
    make_case("lglm", options, labels=labels, images=images, weight=weight, training=training).check()


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "text-dot": ("lglm", TEXT | {"fusion": "dot"}),
    "dot": ("lglm", {"fusion": "dot"}),
    "public": ("lglm", TEXT | {"normalisation": "public", "activation": "leaky", "graph_loss": "sum"}),
    "public-conditioned": ("lglm", {"normalisation": "public", "activation": "leaky", "layers": 3}),
    "residual": ("lglm", {"residual": True}),
    "residual-dot": ("lglm", {"residual": True, "fusion": "dot"}),
    "residual-text": ("lglm", TEXT | {"residual": True}),
    "residual-text-dot": ("lglm", TEXT | {"residual": True, "fusion": "dot"}),
    "text-leaky": ("lglm", TEXT | {"activation": "leaky", "layers": 4}),
    "conditioned-frobenius": ("lglm", {"graph_loss": "frobenius", "normalisation": "text"}),
    "a-gcn": ("a-gcn", {}),
    "a-gcn-text": ("a-gcn", TEXT | {"normalisation": "public"}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_other_forms(make_case: Callable[..., Case], case: str):
    name, options = OTHERS[case]
    small = {"d_l": 3, "graph_width": 5} | ({"m": 6, "group": 3} if name == "lglm" else {})
    make_case(name, small | options, weight=0.5).check()


@pytest.mark.parametrize("pooled", [(1, 1), (3, 1)])
def test_one_cell_and_one_column_of_cells(make_case: Callable[..., Case], pooled: tuple[int, int]):
    make_case("lglm", {"d_l": 3, "graph_width": 5, "m": 6}, cells=pooled).check()


COUNTS = np.array([[10, 4, 3, 0, 1], [4, 5, 2, 0, 0], [3, 2, 20, 0, 8], [0, 0, 0, 0, 0], [1, 0, 8, 0, 9]])
"""Counts of label pairs; the fourth label never occurs, and P(1 | 0) is exactly the threshold."""


@pytest.mark.parametrize("conditioning", ["conditioned", "text"])
@pytest.mark.parametrize(("threshold", "reweighting"), [(0.4, 0.25), (0.15, 0.6)])
def test_ml_gcn(make_case: Callable[..., Case], conditioning: str, threshold: float, reweighting: float):
    options = {"graph_width": 5, "conditioning": conditioning}
    options |= {"threshold": threshold, "reweighting": reweighting}
    case = make_case("ml-gcn", options, counts=COUNTS)
    assert isinstance(case.head.config, MlGcnConfig)
    case.reference = replace(case.reference, counts=(COUNTS, threshold, reweighting))
    graph = case.check().graph
    assert graph[3].tolist() == [0, 0, 0, 1, 0]  # a label that never occurs has no edges


def test_ml_gcns_graph_by_hand():
    """P(1|0) = 4/10 and P(0|1) = 4/4 are edges; each column has 0.2 beside its 1."""
    graph = CountedGraph(torch.tensor([[10, 4], [4, 4]]), threshold=0.4, reweighting=0.2)
    torch.testing.assert_close(graph.graph, torch.tensor([[1, 0.2], [0.2, 1]]) / 1.2, rtol=1e-6, atol=0)
    alone = CountedGraph(torch.tensor([[10, 4], [4, 4]]), threshold=0.41, reweighting=0.2)
    degree = 1.2  # of label 1, whose row holds P(0|1)
    expected = torch.tensor([[1, 0.2 / degree**0.5], [0, 1 / degree]])
    torch.testing.assert_close(alone.graph, expected, rtol=1e-6, atol=0)


def test_a_degree_is_held_at_a_hundredth():
    """Label 0 has Ã_00 = 0.003 and Σ|Ã_0j| = 0.006, so Â_00 is 0.003 / 0.01."""
    A = np.array([[-0.997, 0.001, -0.002], [0.1, 0.3, -0.4], [-0.2, 0.1, 0.2]])
    graph = LearnedGraph(3, 3, "absolute")
    with torch.no_grad():  # L_1 = 3A and L_2 = I for label vectors I
        graph.alpha.weight.copy_(3 * torch.from_numpy(A).T)
        graph.beta.weight.copy_(torch.eye(3))
        graph.alpha.bias.zero_()
        graph.beta.bias.zero_()
    result = graph(torch.eye(3))
    assert result[0, 0].item() == pytest.approx(0.3, rel=1e-9)
    losses.graph_loss(result).backward()

    def loss(p: paper.Parameters) -> np.ndarray:
        A = paper.correlation(np.eye(3), p, squashed=False)
        return paper.graph_loss(paper.normalised(A, by_absolute_values=True), "mean")

    parameters = dict(graph.named_parameters())
    p = {name: array(parameter) for name, parameter in parameters.items()}
    assert_close(array(losses.graph_loss(result)), loss(p), "L_A")
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert_close(array(parameter.grad), paper.gradient(loss, p, name), name)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [TEXT, {}], ids=["text", "conditioned"])
def test_the_training_loop_computes_these_gradients(
    make_case: Callable[..., Case], options: dict[str, Any], accumulate: int
):
    """It runs the label side forward once and backward once for all micro-batches."""
    case = make_case("lglm", options | {"d_l": 3, "graph_width": 5, "m": 6}, images=4, weight=0.3)

    def backward(case: Case) -> None:
        recipe = TrainingRecipe(accumulate=accumulate).filled_in()
        model = torch.nn.Module()
        model.head = case.head
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        trainer = Trainer(
            model=model,  # type: ignore[arg-type]
            path=case.head.image_side,
            prepare=lambda images: images,
            recipe=recipe,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.ConstantLR(optimizer),
            device=torch.device("cpu"),
            penalty_weight=case.weight,
        )
        rows = np.arange(len(case.maps))
        for _ in trainer.fit(iter([Batch(case.maps, case.targets, torch.ones(4), 4, rows)])):
            pass

    case.check(backward=backward)


def test_a_model_in_double_precision_gives_double_precision():
    """Half precision is promoted, because it is too coarse for statistics."""
    torch.set_default_dtype(torch.float32)
    config = head_config("lglm", {"d_l": 3, "graph_width": 5, "m": 6})
    single = build_head("lglm", config, 6, LabelKnowledge(5, torch.randn(5, WIDTH))).eval()
    maps = torch.randn(3, 6, 2, 2)
    assert single(maps).logits.dtype == torch.float32
    assert single(maps.bfloat16()).logits.dtype == torch.float32
    expected = single(maps).logits.double()
    double = single.double()
    assert double(maps.double()).logits.dtype == torch.float64
    torch.testing.assert_close(double(maps.double()).logits, expected, rtol=1e-5, atol=1e-5)
