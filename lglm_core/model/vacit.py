"""The VACIT head, whose class activation maps are trained to follow a flip of the picture.

Source: Guo et al., Visual attention consistency under image transforms for multi-label image
classification, CVPR 2019.

The plain head, average pooling and one linear layer, has class activation maps M_c(p) = Σ_k W_ck F_k(p).
VACIT trains it on each picture and its mirror image, with the penalty per picture

    ℓ_a = mean over labels and positions of (M_c − T(M̂_c))²

where M̂ are the mirror image's maps and T mirrors them back, exactly, by reversing the columns. The maps are
linear in the feature map, so their difference is computed from the difference of the feature maps, which
takes half the products.

Differences from the publication: the flip is the only transform, so there is no second image size; the
classification loss is the recipe's, without weights for rare labels. The public code holds W fixed within
ℓ_a, which then trains only the backbone, and nothing where the backbone is frozen; here W is trained too,
unless ``penalty_trains`` says otherwise. λ = 1 belongs to the classification loss summed over labels, as in
the public code.

Conditioned (not published): the map is standardised per channel, the weights start at 0, the biases at the
labels' log-odds. Standardisation commutes with means over positions, so the head still folds.
"""

import torch
from torch import Tensor

from lglm_core.model.config import VacitConfig
from lglm_core.model.head import HeadOutput, LabelKnowledge, pool
from lglm_core.model.linear import LinearScores


class Vacit(LinearScores):
    """The whole VACIT head; in training it takes maps [2B, D, h, w], the B mirror images last.

    Args:
        feature_width: D, the channels of the feature map.
        knowledge: Only its number of labels C is used.
        config: The head's options.
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

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Return logits [2B, C] and the penalty ℓ_a [B] in training, and logits [B, C] in eval mode."""
        if not self.training:
            return super().forward(feature_map, label_weights)
        if self.norm is not None:
            feature_map = self.norm(feature_map.flatten(2)).view(feature_map.shape)
        logits = self.linear(self.dropout(pool(feature_map, self.pooling)))
        return HeadOutput(logits, self._inconsistency(feature_map))

    def _inconsistency(self, feature_map: Tensor) -> Tensor:
        """Return the penalty ℓ_a [B] of (standardised) feature maps [2B, D, h, w]."""
        original, mirrored = feature_map.chunk(2)
        difference = (original - mirrored.flip(3)).flatten(2)
        weight = self.linear.weight.detach() if self.hold_weights else self.linear.weight
        maps = weight @ difference
        precise = torch.promote_types(maps.dtype, torch.float32)
        return maps.to(precise).square().mean(dim=(1, 2))
