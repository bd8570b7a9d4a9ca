"""The multi-modal fusion component (MFC): a picture's feature and a label's embedding → one score."""

import torch
from torch import Tensor, nn

from lglm_core.errors import InputError


class MultiModalFusion(nn.Module):
    """MFC, Eq. 7, for all labels as one matrix product.

    Per label the paper takes M1 = fc(F), M2 = fc(W_i), sums M1 ∘ M2 over groups of *group*, and maps
    the m/g sums to a score by one fc that all labels share. Since everything after M1 is linear in M1, the
    scores are (M1 ∘ expand(w)) · M2ᵀ, and no tensor of size B·C·m ever exists.

    Conditioning (not in the paper, which trains poorly without): LayerNorm on M2; the last fc
    starts at 0; each label has a bias of its own that starts at its log-odds; and the projections'
    biases start at 0, because torch's default ones outweigh what tells one label from another.
    """

    def __init__(
        self, image_width: int, label_width: int, labels: int, *, m: int = 1024, group: int = 2
    ) -> None:
        super().__init__()
        if m % group:
            raise InputError(f"g = {group} does not divide m = {m}; choose a divisor")
        self.group = group
        self.image_projection = nn.Linear(image_width, m)
        self.label_projection = nn.Linear(label_width, m)
        for projection in (self.image_projection, self.label_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        self.label_norm = nn.LayerNorm(m)
        self.score = nn.Linear(m // group, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.label_bias = nn.Parameter(torch.zeros(labels))

    def label_side(self, label_embeddings: Tensor) -> Tensor:
        """Return expand(w) ∘ M2, [C, m], for label embeddings W [C, label_width]."""
        m2 = self.label_norm(self.label_projection(label_embeddings))
        return m2 * self.score.weight.repeat_interleave(self.group, dim=1)

    def forward(self, features: Tensor, label_embeddings: Tensor) -> Tensor:
        """Return logits [B, C] for pooled features [B, image_width]."""
        return self.image_projection(features) @ self.label_side(label_embeddings).T + self.label_bias
