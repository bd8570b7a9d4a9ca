"""Folding: after training, everything behind the pooled feature is equivalent to one Linear(D → C)."""

import torch
from torch import nn

from lglm_core.errors import InputError
from lglm_core.model.head import Head, PooledSide


@torch.no_grad()
def fold(head: Head) -> nn.Linear:
    """Return one linear layer that gives the logits of a trained head in eval mode.

    For a head with a label side, logits = (P·x̂ + p) · Sᵀ + b, where S is the label side and x̂ = (x - μ)/σ
    the standardised feature; so weight = S·P/σ and bias = S·p + b - weight·μ. The products are computed in
    float64, the layer is float32.

    Raises:
        InputError: the head's logits are no linear function of the pooled feature.
    """
    image_side = head.image_side
    if not isinstance(image_side, PooledSide):
        raise InputError(
            f"the head {head.name} does not fold: its scores are no linear function of a pooled feature"
        )
    side = head.label_weights()
    weight, bias = image_side.affine(side.weights if side else None)
    folded = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    folded.weight.copy_(weight)
    folded.bias.copy_(bias)
    return folded.requires_grad_(False)
