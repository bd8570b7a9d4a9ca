"""The paper's two losses, with the reductions under which λ = 1 keeps a graph.

With L_M summed over labels and L_A averaged over the entries of the graph, λ = 1 leaves a label
graph; with L_M averaged, or L_A a sum or a norm, λ = 1 drives Â to the identity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy per image, Eq. 8 (with the minus sign that it lacks in print).

    Args:
        logits: [B, C] of any float dtype; the sigmoid is applied here.
        targets: [B, C] of 1 = present, 0 = absent, -1 = unknown (adds nothing).

    Returns:
        float32 [B], nats summed over labels.
    """
    nats = F.binary_cross_entropy_with_logits(logits.float(), (targets == 1).float(), reduction="none")
    return nats.where(targets >= 0, 0.0).sum(dim=1)


def graph_loss(graph: Tensor) -> Tensor:
    """L_A: mean absolute difference between the label graph Â [C, C] and the identity.

    Eq. 6 prints a 2-norm, its text says L1; this is A-GCN's mean L1.
    """
    return (graph.float() - torch.eye(len(graph), device=graph.device)).abs().mean()
