"""The paper's two losses L_M and L_A, and the asymmetric loss, with the reductions that λ depends on.

λ = 1 preserves the label graph only where L_M is summed over labels *and* L_A is averaged over the entries of
the graph, which are the defaults: 0.30 of the graph's weight stays off the diagonal (0.37 at λ = 0). Where
L_M is averaged over labels, or L_A is a sum or a Frobenius norm, λ = 1 drives Â to the identity.

Losses of half-precision inputs are computed in float32; float64 stays float64.
"""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from lglm_core.model.config import GraphReduction, LabelReduction


def multi_label_loss(logits: Tensor, targets: Tensor, *, reduction: LabelReduction = "sum") -> Tensor:
    """Return the binary cross-entropy per image, Eq. 8 (with the minus sign that is missing in print).

    Args:
        logits: Raw scores [B, C] of any float dtype; the sigmoid is applied here.
        targets: [B, C] of 1 = present, 0 = absent, -1 = unknown (adds nothing to the loss).
        reduction: Sum the losses over labels, or divide that sum by C, which counts unknown labels too.

    Returns:
        Nats, float32 [B] (float64 for float64 logits).
    """
    logits = _at_least_float32(logits)
    nats = F.binary_cross_entropy_with_logits(logits, (targets == 1).to(logits.dtype), reduction="none")
    return _over_labels(nats, targets, reduction)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
    reduction: LabelReduction = "sum",
) -> Tensor:
    """Return the cross-entropy per image in which confidently absent labels stop contributing.

    The gradient flows through the focusing weights too, as in the paper's analysis.

    Args:
        logits: Raw scores [B, C] of any float dtype; the sigmoid is applied here.
        targets: [B, C] of 1 = present, 0 = absent, -1 = unknown (adds nothing to the loss).
        gamma_pos: Focusing power for present labels; 0 leaves them unfocused.
        gamma_neg: Focusing power for absent labels.
        margin: An absent label below this probability costs nothing, in [0, 1).
        reduction: Sum the losses over labels, or divide that sum by C, which counts unknown labels too.

    Returns:
        Nats, float32 [B] (float64 for float64 logits).

    Source: Ridnik et al., ICCV 2021, arXiv:2009.14119.
    """
    logits = _at_least_float32(logits)  # 1e-8, the usual epsilon, is 0 in float16
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    log_not_shifted = torch.logaddexp(log_not_p, logits.new_tensor(margin).log()).clamp(max=0)
    p_shifted = -torch.expm1(log_not_shifted)

    present = torch.exp(gamma_pos * log_not_p) * log_p
    focus = p_shifted.clamp(min=torch.finfo(logits.dtype).tiny) ** gamma_neg  # 0 ** 0.5 has no slope
    return _over_labels(-torch.where(targets == 1, present, focus * log_not_shifted), targets, reduction)


def graph_loss(graph: Tensor, reduction: GraphReduction = "mean") -> Tensor:
    """Return L_A of Eq. 6, the distance of the label graph Â from the identity I.

    Eq. 6 prints a 2-norm, its text says L1; A-GCN's public code takes the mean, LGLM's takes the sum.

    Args:
        graph: Â, [C, C] of any float dtype.
        reduction: The mean of the C² entries of |Â − I|, their sum, or the Frobenius norm of Â − I.

    Returns:
        A float32 scalar (float64 for a float64 graph), whose gradient is zero at the identity.
    """
    graph = _at_least_float32(graph)
    difference = graph - torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    match reduction:
        case "mean":
            return difference.abs().mean()
        case "sum":
            return difference.abs().sum()
        case "frobenius":
            return torch.linalg.vector_norm(difference)
        case _:
            assert_never(reduction)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _over_labels(nats: Tensor, targets: Tensor, reduction: LabelReduction) -> Tensor:
    """Reduce losses [B, C] to [B], with unknown labels counted as zero."""
    known = nats.where(targets >= 0, 0.0)
    match reduction:
        case "sum":
            return known.sum(dim=1)
        case "mean":
            return known.mean(dim=1)
        case _:
            assert_never(reduction)
