"""Linear heads: the network's own classifier, a tuned probe, ridge regression, and a folded head."""

import torch
from torch import Tensor, nn

from lglm_core.model.config import Pooling
from lglm_core.model.head import PooledSide, Standardise


class LinearScores(PooledSide):
    """One linear layer on the pooled feature.

    Args:
        feature_width: D, the width of the pooled feature.
        labels: C, the number of labels.
        pooling: How the feature map becomes one feature.
        conditioned: Standardise the feature, and start the weights at 0 and the biases at the labels'
            log-odds; otherwise keep torch's initialisation.
        feature_dropout: Fraction of the pooled feature dropped in training.
    """

    def __init__(
        self,
        feature_width: int,
        labels: int,
        *,
        pooling: Pooling,
        conditioned: bool,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__(pooling)
        self.norm = Standardise(feature_width) if conditioned else None
        self.dropout = nn.Dropout(feature_dropout)
        self.linear = nn.Linear(feature_width, labels)
        if conditioned:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def score(self, features: Tensor, label_weights: Tensor | None = None) -> Tensor:
        """Return the logits [B, C] of pooled features [B, D]."""
        if self.norm is not None:
            features = self.norm(features)
        logits: Tensor = self.linear(self.dropout(features))
        return logits

    @torch.no_grad()
    def affine(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] of the layer, float64, with the standardisation folded in."""
        weight, bias = self.linear.weight.double(), self.linear.bias.double()
        return self.norm.fold_into(weight, bias) if self.norm is not None else (weight, bias)

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Set the biases of a conditioned layer to the labels' log-odds [C]."""
        if self.norm is not None:
            self.linear.bias.copy_(log_odds)
