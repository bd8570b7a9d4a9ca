import math
from typing import Any

import pytest
import torch
from torch import nn

from lglm_core.model.recogniser import Recogniser
from lglm_core.training.optim import averaged, make_optimizer, make_schedule, parameter_groups
from lglm_core.training.recipe import FullRecipe, TrainingRecipe
from tests.lglm_core.model.small_heads import VARIANTS, draw_knowledge, small_head

RATES = {"lr": 1e-2, "backbone_lr": 1e-3, "weight_decay": 0.05}
KNOWLEDGE = draw_knowledge(5, 8)


def recipe(**values: Any) -> FullRecipe:
    return TrainingRecipe(**{**RATES, **values}).filled_in()


def model_of(variant: str, *, frozen: bool = False) -> Recogniser:
    """Return a head on a convolution with batch statistics."""
    backbone = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20))
    return Recogniser(backbone, small_head(variant, 20, KNOWLEDGE), frozen=frozen)


@pytest.mark.parametrize("frozen", [False, True], ids=["fine-tuned", "frozen"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trainable_parameter_is_in_exactly_one_group(variant: str, frozen: bool):
    model = model_of(variant, frozen=frozen)
    grouped = [id(p) for group in parameter_groups(model, **RATES) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in model.head.parameters()} <= set(grouped)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_moves_every_parameter_that_has_a_gradient(variant: str, optimizer: str):
    model = model_of(variant)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    stepper = make_optimizer(model, recipe(optimizer=optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepper.step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("variant", ["lglm", "plain"])
def test_the_backbone_learns_at_its_own_rate(variant: str):
    model = model_of(variant)
    rates = {id(p): group["lr"] for group in parameter_groups(model, **RATES) for p in group["params"]}
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-2}
    assert {rates[id(p)] for p in model.backbone.parameters()} == {1e-3}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_matrices_decay_and_vectors_do_not(variant: str, optimizer: str):
    for group in make_optimizer(model_of(variant), recipe(optimizer=optimizer)).param_groups:
        expected = {0.05 if parameter.ndim > 1 else 0.0 for parameter in group["params"]}
        assert expected == {group["weight_decay"]}


def test_the_papers_optimizer_has_momentum():
    optimizer = make_optimizer(model_of("lglm"), TrainingRecipe(recipe="paper").filled_in())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def learning_rates(schedule: str, epochs: int, steps_per_epoch: int = 1, peak: float = 1.0) -> list[float]:
    """Return the rate of every step, and the rate after the last one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make_schedule(optimizer, recipe(schedule=schedule, epochs=epochs), steps_per_epoch)
    rates = []
    for _ in range(epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


def test_the_cosine_rises_linearly_over_the_first_twentieth():
    assert learning_rates("cosine", 100)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_cosine_then_falls_to_zero():
    rates = learning_rates("cosine", 20, steps_per_epoch=5)
    expected = [0.5 + 0.5 * math.cos(math.pi * k / 95) for k in range(96)]
    assert rates[5:] == pytest.approx(expected)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_step_schedule_divides_by_ten_every_forty_epochs():
    rates = learning_rates("step", 90, steps_per_epoch=3)
    assert rates == pytest.approx([1.0] * 120 + [0.1] * 120 + [0.01] * 31)


def test_one_cycle_rises_over_three_tenths_and_falls_for_the_rest():
    """Smith and Topin's schedule as torch counts it: cosines from 1/25 of the peak, and down to 1/25/10⁴."""
    rates = learning_rates("one-cycle", 20, steps_per_epoch=5)
    top = 0.3 * 101 - 1
    up = [0.04 + 0.96 * (1 - math.cos(math.pi * k / top)) / 2 for k in range(30)]
    least = 0.04 / 1e4
    down = [
        least + (1 - least) * (1 + math.cos(math.pi * (k - top) / (100 - top))) / 2 for k in range(30, 101)
    ]
    assert rates == pytest.approx(up + down)


@pytest.mark.parametrize("schedule", ["cosine", "step", "one-cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_short_run_learns_at_every_step(schedule: str, steps: int):
    rates = learning_rates(schedule, 1, steps_per_epoch=steps)
    assert all(0 < rate <= 1 for rate in rates[:steps]) and max(rates) > 0.5


@pytest.mark.parametrize("schedule", ["cosine", "step", "one-cycle"])
def test_backbone_and_head_rise_and_fall_together(schedule: str):
    model = model_of("lglm")
    full_recipe = recipe(schedule=schedule, epochs=90)
    optimizer = make_optimizer(model, full_recipe)
    scheduler = make_schedule(optimizer, full_recipe, 1)
    for _ in range(90):
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert len(rates) == 2 and rates[0] / rates[1] == pytest.approx(0.1)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["one-cycle", "step", "cosine"])
def test_a_schedule_does_not_change_momentum(schedule: str):
    optimizer = make_optimizer(model_of("plain"), recipe(optimizer="sgd"))
    scheduler = make_schedule(optimizer, recipe(schedule=schedule, epochs=3), 1)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


class Counter(nn.Module):
    """A module with one weight, one statistic, one constant and one count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("constant", torch.tensor(0.1))
        self.register_buffer("count", torch.tensor(0))

    def move(self, step: int) -> None:
        with torch.no_grad():
            self.weight.fill_(step)
            self.mean.fill_(-step)
            self.count.fill_(step)


def test_the_average_has_its_full_decay_after_the_first_updates():
    """By hand: the first weights are copied; after n updates the decay is at most (1 + n) / (10 + n)."""
    model = Counter()
    average = averaged(model, decay=0.25)
    found, expected, current = [], [], 0.0
    for step in range(1, 7):
        model.move(step)
        average.update_parameters(model)
        found.append(average.module.weight.item())
        decay = 0.0 if step == 1 else min(0.25, step / (9 + step))  # n = step - 1; full from the third
        current = decay * current + (1 - decay) * step
        expected.append(current)
    assert found == pytest.approx(expected)


def test_the_average_over_a_short_run_is_not_dominated_by_its_beginning():
    """With a constant decay of 0.9997 the first weights would have a weight of 0.997 after ten steps."""
    model = Counter()
    average = averaged(model, decay=0.9997)
    for step in range(1, 11):
        model.move(step)
        average.update_parameters(model)
    assert 7 < average.module.weight.item() < 10


def test_statistics_are_averaged_like_weights_and_counts_are_the_last_ones():
    model = Counter()
    average = averaged(model, decay=0.9)
    for step in range(1, 6):
        model.move(step)
        average.update_parameters(model)
    assert average.module.mean.item() == pytest.approx(-average.module.weight.item())
    assert average.module.count.item() == 5


def test_averaging_does_not_change_constants():
    model = Counter()
    average = averaged(model, decay=0.7)
    for step in range(20):
        model.move(step)
        average.update_parameters(model)
    assert torch.equal(average.module.constant, torch.tensor(0.1))


def test_an_average_has_no_gradients_and_does_not_change_the_model():
    model = model_of("lglm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = averaged(model, 0.9)
    average.update_parameters(model)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
