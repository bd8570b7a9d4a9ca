"""The paper's two losses L_M and L_A, and the asymmetric loss, with the reductions that λ depends on.

λ = 1 keeps a label graph only with L_M summed over labels *and* L_A averaged over the entries of the graph,
which are the defaults (off the diagonal stays 0.30 of the graph's weight; 0.37 at λ = 0). With L_M averaged
over labels, or L_A a sum or a Frobenius norm, λ = 1 drives Â to the identity.

Half precision is computed in float32; float64 stays float64.
"""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from lglm_core.model.config import GraphReduction, LabelReduction


def multi_label_loss(logits: Tensor, targets: Tensor, *, reduction: LabelReduction = "sum") -> Tensor:
    """Binary cross-entropy per image, Eq. 8 (with the minus sign that it lacks in print).

    Args:
        logits: [B, C] of any float dtype; the sigmoid is applied here.
        targets: [B, C] of 1 = present, 0 = absent, -1 = unknown (adds nothing).
        reduction: Over the labels: their sum, or that sum divided by C, unknown labels counted too.

    Returns:
        float32 [B] (float64 of float64 logits), nats.
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
    """Cross-entropy per image in which confidently absent labels stop contributing.

    The gradient flows through the focusing weights too, as in the paper's analysis.

    Args:
        logits: [B, C] of any float dtype; the sigmoid is applied here.
        targets: [B, C] of 1 = present, 0 = absent, -1 = unknown (adds nothing).
        gamma_pos: Focusing power for present labels; 0 leaves them unfocused.
        gamma_neg: Focusing power for absent labels.
        margin: An absent label below this probability costs nothing, in [0, 1).
        reduction: Over the labels: their sum, or that sum divided by C, unknown labels counted too.

    Returns:
        float32 [B] (float64 of float64 logits), nats.

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
    """L_A of Eq. 6: how far the label graph Â is from the identity I.

    Eq. 6 prints a 2-norm, its text says L1; A-GCN's public code takes the mean, LGLM's the sum.

    Args:
        graph: [C, C] of any float dtype.
        reduction: The mean of the C² entries of |Â − I|, their sum, or the Frobenius norm of Â − I.

    Returns:
        float32 scalar (float64 of a float64 graph). At the identity its gradient is zero.
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
    """Reduce [B, C] to [B], leaving out what is unknown."""
    known = nats.where(targets >= 0, 0.0)
    match reduction:
        case "sum":
            return known.sum(dim=1)
        case "mean":
            return known.mean(dim=1)
        case _:
            assert_never(reduction)
