"""Folding: after training, everything right of the pooled feature is one Linear(D → C)."""

import torch
from torch import nn

from lglm_core.model.lglm import LglmHead


@torch.no_grad()
def fold(head: LglmHead) -> nn.Linear:
    """Return the one linear layer that gives a trained head's logits in eval mode.

    logits = (M1 · Sᵀ) + b with M1 = P·x̂ + p, S the label side, and x̂ = (x - μ)/σ the standardised
    feature; so weight = S·P/σ and bias = S·p + b - weight·μ. Computed in float64, kept in float32.
    """
    _, embeddings = head.label_embeddings()
    label_side = head.fusion.label_side(embeddings).double()
    projection, norm = head.fusion.image_projection, head.feature_norm
    assert norm.running_mean is not None and norm.running_var is not None  # BatchNorm tracks them by default
    weight = label_side @ projection.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = label_side @ projection.bias.double() + head.fusion.label_bias.double()
    bias = bias - weight @ norm.running_mean.double()
    folded = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    folded.weight.copy_(weight)
    folded.bias.copy_(bias)
    return folded.requires_grad_(False)
