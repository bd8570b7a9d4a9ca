"""Fusion of a picture's pooled feature and a label's embedding into one score (Eq. 7).

Everything behind M1 is linear in M1, so the scores of all labels are M1 · Sᵀ + b with S = expand(w) ∘ M2,
and no tensor of size B·C·m ever exists. The label side computes S [C, m], the image side the rest.
"""

import torch
from torch import Tensor, nn

from lglm_core.model.config import Conditioning, Pooling
from lglm_core.model.head import PooledSide, Standardise


class FusedLabels(nn.Module):
    """The label side of MFC: S = expand(w) ∘ M2, for label embeddings W.

    Per label the paper takes M2 = fc(W_i), sums M1 ∘ M2 over groups of *group*, and maps the m/g sums to a
    score by one fc with weights w that all labels share.

    Conditioned (not in the paper, whose form trains poorly): LayerNorm on M2; the last fc starts at 0; the
    projection's bias starts at 0, because torch's default bias outweighs the differences between labels.

    Args:
        label_width: Width of the label embeddings.
        m: Width of the fused vectors.
        group: g, how many products are summed into one.
        conditioning: ``conditioned``, or ``text`` for the paper's form.
    """

    def __init__(self, label_width: int, m: int, group: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.group = group
        self.projection = nn.Linear(label_width, m)
        self.norm = nn.LayerNorm(m) if conditioning == "conditioned" else nn.Identity()
        self.score = nn.Linear(m // group, 1, bias=False)
        if conditioning == "conditioned":
            init_projection(self.projection)
            nn.init.zeros_(self.score.weight)

    def forward(self, label_embeddings: Tensor) -> Tensor:
        """Return S [C, m] for label embeddings W [C, label_width]."""
        m2 = self.norm(self.projection(label_embeddings))
        return m2 * self.score.weight.repeat_interleave(self.group, dim=1)


class ScaledLabels(nn.Module):
    """The label side of the conditioned plain product: S = w ∘ LayerNorm(W), with w starting at 0.

    This is the conditioned MFC without its two projections.

    Args:
        width: D, the width of the label embeddings and of the pooled feature.
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
        feature_width: D, the width of the pooled feature.
        label_width: m, the width of S; None for the plain product, which has no projection and a D wide S.
        labels: C. Conditioned heads have a bias per label; the text's last fc has one for all labels.
        pooling: How the feature map becomes one feature.
        conditioning: ``conditioned``, or ``text`` for the paper's form.
        feature_dropout: Fraction of the pooled feature dropped in training.
        fusion_dropout: Fraction of the m products dropped in training.
        residual: Whether every label also has weights of its own [C, D], which are concatenated to S.
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
            init_projection(self.projection)
        # In the text, all labels share the bias of the last fc, and the plain product has no bias.
        has_bias = conditioned or self.projection is not None
        self.bias = nn.Parameter(torch.zeros(labels if conditioned else 1)) if has_bias else None

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
        """Split the label side's weights into S [C, m] and the residual weights [C, D], if there are any."""
        assert label_weights is not None
        if not self.residual:
            return label_weights, None
        fused, residual = label_weights.tensor_split([label_weights.shape[1] - self.feature_width], dim=1)
        return fused, residual

    @torch.no_grad()
    def affine(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C], float64: S·P and S·p + b with the standardisation folded in."""
        fused, residual = self._split(label_weights)
        weight = fused.double()
        bias = weight.new_zeros(len(weight)) + (0 if self.bias is None else self.bias.double())
        if self.projection is not None:
            bias = bias + weight @ self.projection.bias.double()
            weight = weight @ self.projection.weight.double()
        if residual is not None:
            weight = weight + residual.double()
        return self.norm.fold_into(weight, bias) if self.norm is not None else (weight, bias)

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Set each label's bias to the label's log-odds [C], where labels have biases of their own."""
        if self.bias is not None and self.norm is not None:
            self.bias.copy_(log_odds)


def init_projection(projection: nn.Linear) -> None:
    """Initialise a projection with Xavier's uniform weights and a zero bias."""
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)
