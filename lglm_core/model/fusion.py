"""Fusion: a picture's pooled feature and a label's embedding → one score (Eq. 7).

Everything right of M1 is linear in M1, so for all labels at once the scores are M1 · Sᵀ + b with
S = expand(w) ∘ M2, and no tensor of size B·C·m ever exists. S [C, m] is the label side's part, and the rest
is the image side's.
"""

import torch
from torch import Tensor, nn

from lglm_core.model.config import Conditioning, Pooling
from lglm_core.model.head import PooledSide, Standardise


class FusedLabels(nn.Module):
    """The label side's part of MFC: S = expand(w) ∘ M2, for label embeddings W.

    Per label the paper takes M2 = fc(W_i), sums M1 ∘ M2 over groups of *group*, and maps the m/g sums to a
    score by one fc with weights w that all labels share.

    Conditioned (not in the paper, which trains poorly without): LayerNorm on M2, the last fc starts at
    0, and the projection's bias starts at 0, because torch's default one outweighs what tells one label
    from another.
    """

    def __init__(self, label_width: int, m: int, group: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.group = group
        self.projection = nn.Linear(label_width, m)
        self.norm = nn.LayerNorm(m) if conditioning == "conditioned" else nn.Identity()
        self.score = nn.Linear(m // group, 1, bias=False)
        if conditioning == "conditioned":
            start_projection(self.projection)
            nn.init.zeros_(self.score.weight)

    def forward(self, label_embeddings: Tensor) -> Tensor:
        """Return S [C, m] for label embeddings W [C, label_width]."""
        m2 = self.norm(self.projection(label_embeddings))
        return m2 * self.score.weight.repeat_interleave(self.group, dim=1)


class ScaledLabels(nn.Module):
    """The label side's part of the conditioned plain product: S = w ∘ W, conditioned as MFC is.

    LayerNorm on W, and one weight per dimension that starts at 0: MFC without its two projections.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Parameter(torch.zeros(width))

    def forward(self, label_embeddings: Tensor) -> Tensor:
        """Return S [C, D] for label embeddings W [C, D]."""
        scaled: Tensor = self.norm(label_embeddings) * self.score
        return scaled


class FusedScores(PooledSide):
    """The image side of every head with a label side: project(F) · Sᵀ + b.

    Args:
        feature_width: D.
        label_width: m, the width of S; None: no projection, S is D wide (the plain product).
        labels: C, for a bias per label; one that all share (the text's last fc) where unconditioned.
        residual: Whether labels have weights of their own [C, D], right of S.
    """

    def __init__(
        self,
        feature_width: int,
        label_width: int | None,
        labels: int,
        *,
        pooling: Pooling,
        conditioning: Conditioning,
        feature_dropout: float = 0.0,
        fusion_dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__(pooling)
        self.feature_width = feature_width
        self.residual = residual
        conditioned = conditioning == "conditioned"
        self.norm = Standardise(feature_width) if conditioned else None
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.projection = nn.Linear(feature_width, label_width) if label_width else None
        self.fusion_dropout = nn.Dropout(fusion_dropout)
        if conditioned and self.projection is not None:
            start_projection(self.projection)
        # As published, the text's last fc has one that all labels share, and the plain product has none.
        biased = conditioned or self.projection is not None
        self.bias = nn.Parameter(torch.zeros(labels if conditioned else 1)) if biased else None

    def score(self, features: Tensor, label_weights: Tensor | None = None) -> Tensor:
        """Return logits [B, C] of pooled features [B, D] and S [C, m] (with residual weights, [C, m + D])."""
        fused, residual = self._split(label_weights)
        if self.norm is not None:
            features = self.norm(features)
        features = self.feature_dropout(features)
        projected = features if self.projection is None else self.projection(features)
        logits = self.fusion_dropout(projected) @ fused.T.to(projected.dtype)
        if residual is not None:
            logits = logits + features.to(projected.dtype) @ residual.T.to(projected.dtype)
        return logits if self.bias is None else logits + self.bias

    def _split(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Divide what the label side came to into S [C, m] and residual weights [C, D], if there are any."""
        assert label_weights is not None
        if not self.residual:
            return label_weights, None
        fused, residual = label_weights.tensor_split([label_weights.shape[1] - self.feature_width], dim=1)
        return fused, residual

    @torch.no_grad()
    def affine(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return S·P and S·p + b, with residual weights and the standardisation moved into them."""
        fused, residual = self._split(label_weights)
        weight = fused.double()
        bias = weight.new_zeros(len(weight)) + (0 if self.bias is None else self.bias.double())
        if self.projection is not None:
            bias = bias + weight @ self.projection.bias.double()
            weight = weight @ self.projection.weight.double()
        if residual is not None:
            weight = weight + residual.double()
        return self.norm.folded_into(weight, bias) if self.norm is not None else (weight, bias)

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Start each label's bias at its log-odds, where labels have biases of their own."""
        if self.bias is not None and self.norm is not None:
            self.bias.copy_(log_odds)


def start_projection(projection: nn.Linear) -> None:
    """Xavier's weights and zero bias."""
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)
