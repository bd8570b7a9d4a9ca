"""What a head consists of: the label side and the image side of a model, behind its backbone."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lglm_core.model.config import HeadConfig, Pooling


@dataclass(frozen=True)
class LabelKnowledge:
    """Facts about the labels that are known before training.

    ``vectors`` are float32 [C, d], in column order. ``counts``, int64 [C, C], is the number of training
    pictures that carry both labels, and on the diagonal the number that carry one. Each is None where the
    head does not need it. The first ``trained`` labels are trained; None means all of them.
    """

    labels: int
    vectors: Tensor | None = None
    counts: Tensor | None = None
    trained: int | None = None


class LabelWeights(NamedTuple):
    """A label side's output: one vector per label [C, m], the label graph Â [C, C], and the penalty L_A."""

    weights: Tensor
    graph: Tensor
    penalty: Tensor


class HeadOutput(NamedTuple):
    """Logits [B, C] and the head's penalty per picture [B], which is added to the loss; None for no penalty.

    In training, an image side that wants mirror images returns logits [2B, C].
    """

    logits: Tensor
    penalty: Tensor | None = None


class ImageSide(nn.Module):
    """Maps feature maps [B, D, h, w] to a :class:`HeadOutput`.

    Where ``wants_mirror`` is true, the training loop passes the maps of each picture and of its mirror image,
    [2B, D, h, w], the B mirror images last.
    """

    wants_mirror = False

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Score feature maps; *label_weights* [C, m] are given where the head has a label side."""
        raise NotImplementedError

    def start_at_prior(self, log_odds: Tensor) -> None:
        """Set the labels' biases, where there are any, to their log-odds [C] in the training split."""


class PooledSide(ImageSide):
    """An image side that is linear in the pooled feature, so that its head folds.

    Args:
        pooling: How a feature map [B, D, h, w] becomes one feature [B, D].
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Return the logits [B, C] of feature maps [B, D, h, w]."""
        return HeadOutput(self.score(pool(feature_map, self.pooling), label_weights))

    def score(self, features: Tensor, label_weights: Tensor | None = None) -> Tensor:
        """Return the logits [B, C] of pooled features [B, D]."""
        raise NotImplementedError

    def affine(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a weight [C, D] and a bias [C], float64, that give the same logits in eval mode."""
        raise NotImplementedError


class Head(nn.Module):
    """Everything behind the backbone.

    ``label_side()`` depends on no picture and runs once per optimiser step; ``image_side`` takes its label
    weights together with the feature maps.

    Args:
        name: The head's name, one of :data:`lglm_core.model.config.HEADS`.
        config: Its options.
        image_side: Scores feature maps.
        label_side: Returns :class:`LabelWeights`; None where the head has no label side.
    """

    def __init__(
        self, name: str, config: HeadConfig, image_side: ImageSide, label_side: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.image_side = image_side
        self.label_side = label_side

    def label_weights(self) -> LabelWeights | None:
        """Run the label side, if there is one, in the precision of its parameters even under autocast."""
        if self.label_side is None:
            return None
        device = next(self.image_side.buffers(), next(self.parameters())).device.type
        with torch.autocast(device, enabled=False):
            weights: LabelWeights = self.label_side()
        return weights

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Score feature maps [B, D, h, w]."""
        side = self.label_weights()
        output: HeadOutput = self.image_side(feature_map, side.weights if side else None)
        return output


def pool(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """Pool feature maps [B, D, h, w] to features [B, D]; Eq. 2 takes the maximum."""
    return feature_map.amax(dim=(2, 3)) if pooling == "max" else feature_map.mean(dim=(2, 3))


class Standardise(nn.Module):
    """Standardises features [B, D] by running means and variances: a BatchNorm without scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features, at least float32: half precision is too coarse for statistics."""
        standardised: Tensor = self.norm(features.to(torch.promote_types(features.dtype, torch.float32)))
        return standardised

    def fold_into(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a layer on standardised features into the equivalent layer on raw features.

        Args:
            weight: float64 [C, D].
            bias: float64 [C].
        """
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None  # BatchNorm tracks both by default
        weight = weight / (variance.double() + self.norm.eps).sqrt()
        return weight, bias - weight @ mean.double()
