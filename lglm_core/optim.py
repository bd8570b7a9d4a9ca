"""Optimiser and learning-rate schedule."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from lglm_core.model.lglm import Lglm

WARM_UP = 0.05  # share of all steps


def parameter_groups(model: Lglm, *, lr: float, backbone_lr: float, weight_decay: float) -> list[dict]:
    """Put every trainable parameter into exactly one group: head or backbone, decayed or not.

    Vectors (biases, normalisations, the label bias) are not decayed.
    """
    groups = []
    for module, rate in ((model.head, lr), (model.backbone, backbone_lr)):
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trainable if parameter.ndim > 1]
        vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
        groups.append({"params": matrices, "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: Lglm, *, lr: float, backbone_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over :func:`parameter_groups`, in its fused form: several times as fast, on CPUs too."""
    return torch.optim.AdamW(
        parameter_groups(model, lr=lr, backbone_lr=backbone_lr, weight_decay=weight_decay), fused=True
    )


def make_schedule(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Rise linearly over the first 5% of *steps*, then fall to zero along a cosine."""
    warm_up = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return LambdaLR(optimizer, factor)
