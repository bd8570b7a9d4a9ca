import math

import pytest
import torch

from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.model.backbone import Backbone
from lglm_core.model.lglm import Lglm, LglmConfig
from lglm_core.optim import make_optimizer, make_schedule, parameter_groups

RATES = {"lr": 1e-2, "backbone_lr": 1e-3, "weight_decay": 0.05}


@pytest.fixture(scope="module", params=[False, True], ids=["fine-tuned", "frozen"])
def model(request: pytest.FixtureRequest, shape_embeddings: LabelEmbeddings, small_head: LglmConfig) -> Lglm:
    vectors = torch.from_numpy(shape_embeddings.vectors)
    return Lglm(Backbone("mobilenet_v3_small"), vectors, small_head, frozen=request.param)


def test_every_trainable_parameter_is_in_exactly_one_group(model: Lglm):
    grouped = [id(p) for group in parameter_groups(model, **RATES) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_backbone_learns_at_its_own_rate(model: Lglm):
    rates = {id(p): group["lr"] for group in parameter_groups(model, **RATES) for p in group["params"]}
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-2}
    assert {rates[id(p)] for p in model.backbone.parameters() if p.requires_grad} <= {1e-3}


def test_matrices_decay_and_vectors_do_not(model: Lglm):
    for group in make_optimizer(model, **RATES).param_groups:
        expected = {0.05 if parameter.ndim > 1 else 0.0 for parameter in group["params"]}
        assert expected == {group["weight_decay"]}


def learning_rates(steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


def test_the_rate_rises_linearly_over_the_first_twentieth():
    assert learning_rates(100)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_then_it_falls_along_a_cosine_to_zero():
    rates = learning_rates(100)
    expected = [0.5 + 0.5 * math.cos(math.pi * k / 95) for k in range(96)]
    assert rates[5:] == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_short_run_learns_at_every_step(steps: int):
    rates = learning_rates(steps)
    assert all(0 < rate <= 1 for rate in rates[:steps]) and max(rates) == 1
