"""Optimiser, learning-rate schedule, and the averaged model."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel

from lglm_core.model.recogniser import Recogniser
from lglm_core.training.recipe import FullRecipe

MOMENTUM = 0.9
WARM_UP = 0.05  # fraction of all steps in which the cosine schedule rises
EPOCHS_BETWEEN_DROPS = 40  # in the step schedule


def parameter_groups(model: Recogniser, *, lr: float, backbone_lr: float, weight_decay: float) -> list[dict]:
    """Put every trainable parameter into exactly one group: of head or backbone, decayed or not.

    Vectors (biases and the parameters of normalisations) are not decayed. Empty groups are left out.

    Args:
        model: The model to train.
        lr: Peak learning rate of the head.
        backbone_lr: Peak learning rate of the backbone.
        weight_decay: Decay of matrices.
    """
    groups = []
    for module, rate in ((model.head, lr), (model.backbone, backbone_lr)):
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trainable if parameter.ndim > 1]
        vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
        groups.append({"params": matrices, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def make_optimizer(model: Recogniser, recipe: FullRecipe) -> torch.optim.Optimizer:
    """Return AdamW or SGD with momentum over :func:`parameter_groups`; fused, it is several times as fast."""
    groups = parameter_groups(
        model, lr=recipe.lr, backbone_lr=recipe.backbone_lr, weight_decay=recipe.weight_decay
    )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: FullRecipe, steps_per_epoch: int) -> LRScheduler:
    """Return the recipe's learning-rate schedule, which is stepped once per optimiser step."""
    steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "step":
        return StepLR(optimizer, EPOCHS_BETWEEN_DROPS * steps_per_epoch, gamma=0.1)
    if recipe.schedule == "one-cycle":
        # OneCycleLR takes one step beyond the last one. Momentum and Adam's betas stay constant.
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, cycle_momentum=False)
    return LambdaLR(optimizer, _cosine(steps))


def _cosine(steps: int) -> Callable[[int], float]:
    """Return a factor that rises linearly over the first 5% of *steps*, then falls to 0 along a cosine."""
    warm_up = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of *model*'s weights and batch statistics.

    After n updates the decay is at most (1 + n) / (10 + n), because with a constant decay the beginning would
    dominate the average over a short run.
    """

    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], _: Tensor | int) -> None:
        updates = int(average.n_averaged)  # the argument would be a copy on the device
        current_decay = min(decay, (1 + updates) / (10 + updates))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(currents), 1 - current_decay)
        else:  # a count of batches
            torch._foreach_copy_(list(averages), list(currents))

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average.requires_grad_(False)
