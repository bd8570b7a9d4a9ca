"""VACIT: what a label looks at should move with the picture.

Source: Guo et al., Visual attention consistency under image transforms for multi-label image
classification, CVPR 2019.

The plain head, average pooling and one linear layer, has class activation maps M_c(p) = Σ_k W_ck F_k(p).
It is trained on each picture and its mirror image, with the penalty

    ℓ_a = mean over labels and positions of (M_c − T(M̂_c))²,   T: mirrored back, M̂: the mirror image's maps

per picture. T is exact: columns in reverse order. The maps enter linearly, so their difference is computed
from the difference of the feature maps, in half the products.

Other than published: of the transforms only the flip, so no second image size; the classification loss is the
recipe's, without weights for rare labels. The public code holds W fixed within ℓ_a, which then trains the
backbone alone, and nothing at all where that is frozen; here W takes part, unless ``penalty_trains`` says
otherwise. λ = 1 goes with the classification loss summed over labels, as the public code has it.

Conditioned (not published): the map is standardised per channel, the weights start at 0, the biases at the
labels' log-odds. Standardising commutes with means over positions, so all of it folds.
"""

import torch
from torch import Tensor

from lglm_core.model.config import VacitConfig
from lglm_core.model.head import LabelKnowledge, Prediction, pool
from lglm_core.model.linear import LinearScores


class Vacit(LinearScores):
    """The whole head. In training it takes maps [2B, D, h, w], the B mirror images last.

    Args:
        feature_width: D.
        knowledge: Only C is read.
    """

    wants_mirror = True

    def __init__(self, feature_width: int, knowledge: LabelKnowledge, config: VacitConfig) -> None:
        super().__init__(
            feature_width,
            knowledge.labels,
            pooling="average",
            conditioned=config.conditioning == "conditioned",
            feature_dropout=config.feature_dropout,
        )
        self.hold_weights = config.penalty_trains == "backbone"

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> Prediction:
        """Score feature maps: [2B, C] and ℓ_a [B] of pairs in training, [B, C] alone in eval mode."""
        if not self.training:
            return super().forward(feature_map, label_weights)
        if self.norm is not None:
            feature_map = self.norm(feature_map.flatten(2)).view(feature_map.shape)
        logits = self.linear(self.dropout(pool(feature_map, self.pooling)))
        return Prediction(logits, self._inconsistency(feature_map))

    def _inconsistency(self, feature_map: Tensor) -> Tensor:
        """Return ℓ_a [B] of (standardised) maps [2B, D, h, w]."""
        original, mirrored = feature_map.chunk(2)
        difference = (original - mirrored.flip(3)).flatten(2)
        weight = self.linear.weight.detach() if self.hold_weights else self.linear.weight
        maps = weight @ difference
        precise = torch.promote_types(maps.dtype, torch.float32)
        return maps.to(precise).square().mean(dim=(1, 2))
