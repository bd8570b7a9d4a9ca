from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lglm_core.errors import InputError
from lglm_core.model.backbone import Backbone
from lglm_core.model.config import AGcnConfig, HeadConfig, LglmConfig, MlGcnConfig, ProbeConfig
from lglm_core.model.extend import extend
from lglm_core.model.fold import fold
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import Recogniser

SMALL = {"d_l": 16, "graph_width": 12}
CONFIGS: dict[str, tuple[str, HeadConfig]] = {
    "lglm": ("lglm", LglmConfig(**SMALL, m=12, group=3)),
    "lglm residual": ("lglm", LglmConfig(**SMALL, m=12, group=3, residual=True)),
    "lglm dot residual": ("lglm", LglmConfig(**SMALL, fusion="dot", residual=True)),
    "lglm text": ("lglm", LglmConfig(**SMALL, m=12, group=3, conditioning="text", normalisation="public")),
    "lglm leaky, 3 layers": ("lglm", LglmConfig(**SMALL, m=12, group=3, layers=3, activation="leaky")),
    "a-gcn": ("a-gcn", AGcnConfig(**SMALL)),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("mobilenet_v3_small").eval()


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest, backbone: Backbone, randomise: Callable[..., None]) -> Recogniser:
    """A model of five labels with weights as if trained."""
    name, config = CONFIGS[request.param]
    torch.manual_seed(0)
    head = build_head(name, config, backbone.width, LabelKnowledge(5, vectors(5, seed=1)))
    randomise(head)
    if head.label_side is not None and getattr(head.label_side, "residual", None) is not None:
        torch.nn.init.normal_(head.label_side.residual)
    return Recogniser(backbone, head).eval()


def vectors(labels: int, seed: int) -> Tensor:
    return torch.randn(labels, 8, generator=torch.Generator().manual_seed(seed)) * 3


def logits(model: Recogniser) -> Tensor:
    features = torch.randn(6, 576, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return fold(model.head)(features)


def test_the_trained_labels_logits_do_not_change(model: Recogniser):
    torch.testing.assert_close(logits(extend(model, vectors(3, seed=2)))[:, :5], logits(model))


def test_an_added_label_does_not_depend_on_the_other_added_labels(model: Recogniser):
    added = vectors(3, seed=2)
    together = logits(extend(model, added))[:, 5:]
    alone = torch.cat([logits(extend(model, added[[number]]))[:, 5:] for number in range(3)], dim=1)
    torch.testing.assert_close(together, alone)


def test_adding_twice_is_adding_at_once(model: Recogniser):
    added = vectors(3, seed=2)
    twice = extend(extend(model, added[:1]), added[1:])
    torch.testing.assert_close(logits(twice), logits(extend(model, added)))


def test_different_vectors_give_different_scores(model: Recogniser):
    scores = logits(extend(model, vectors(2, seed=2)))
    assert (scores[:, 5] - scores[:, 6]).std() > 1e-3


def test_the_bias_of_an_added_label_is_the_mean_of_the_trained_ones(
    backbone: Backbone, randomise: Callable[..., None]
):
    name, config = CONFIGS["lglm"]
    head = build_head(name, config, backbone.width, LabelKnowledge(5, vectors(5, seed=1)))
    head.image_side.start_at_prior(torch.tensor([-5.0, -4.0, -3.0, -2.0, -1.0]))
    extended = extend(Recogniser(backbone, head), vectors(2, seed=2))
    np.testing.assert_allclose(extended.head.state_dict()["image_side.bias"][5:], -3.0)


def test_a_graph_that_is_not_finite_for_an_added_label_is_refused(backbone: Backbone):
    """The text's degrees are sums with terms of both signs, which may be negative."""
    config = LglmConfig(**SMALL, m=12, group=3, normalisation="text", conditioning="text")
    refusals = 0
    for seed in range(20):
        torch.manual_seed(seed)
        head = build_head("lglm", config, backbone.width, LabelKnowledge(5, vectors(5, seed=1)))
        is_finite = head.label_weights().weights.isfinite().all()
        for added in range(20):
            try:
                extended = extend(Recogniser(backbone, head), vectors(1, seed=added))
            except InputError as error:
                assert "normalisation=absolute" in str(error)
                refusals += bool(is_finite)
            else:
                assert extended.head.label_weights().weights.isfinite().all()
    assert refusals


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("probe", ProbeConfig(), "it reads no label vectors"),
        ("ml-gcn", MlGcnConfig(graph_width=12), "its label graph is counted from labelled pictures"),
    ],
)
def test_a_head_whose_scores_do_not_come_from_vectors_is_refused(
    backbone: Backbone, name: str, config: HeadConfig, reason: str
):
    knowledge = LabelKnowledge(5, vectors(5, seed=1), torch.eye(5, dtype=torch.int64))
    model = Recogniser(backbone, build_head(name, config, backbone.width, knowledge))
    with pytest.raises(InputError, match=f"{name} cannot take labels by name: {reason}"):
        extend(model, vectors(1, seed=2))
