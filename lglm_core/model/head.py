"""What a head is: the label side and the image side of a model, right of its backbone."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lglm_core.model.config import HeadConfig, Pooling


@dataclass(frozen=True)
class LabelKnowledge:
    """What is known of the labels before training.

    ``vectors`` float32 [C, d], in column order; ``counts`` int64 [C, C], in how many training pictures two
    labels are together, on the diagonal a label at all. Each is None where the head does not need it.
    ``trained``: how many of the labels, the first ones, are trained; None: all.
    """

    labels: int
    vectors: Tensor | None = None
    counts: Tensor | None = None
    trained: int | None = None


class LabelWeights(NamedTuple):
    """What a label side comes to: one vector per label [C, m], its graph Â [C, C], and its own loss L_A."""

    weights: Tensor
    graph: Tensor
    penalty: Tensor


class Prediction(NamedTuple):
    """Logits [B, C], and per picture [B] what the head itself adds to the loss (None: nothing).

    A head that is shown every picture twice (see :class:`Head`) returns logits [2B, C].
    """

    logits: Tensor
    penalty: Tensor | None = None


class ImageSide(nn.Module):
    """From feature maps [B, D, h, w] to a :class:`Prediction`.

    ``wants_mirror``: in training it is shown each picture and its mirror image, as maps [2B, D, h, w],
    the B mirror images last.
    """

    wants_mirror = False

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> Prediction:
        """Score feature maps; *label_weights* [C, m] where the head has a label side."""
        raise NotImplementedError

    def start_at_prior(self, log_odds: Tensor) -> None:
        """Start the labels' biases, where there are any, at their log-odds [C] in the training split."""


class PooledSide(ImageSide):
    """An image side that reads the pooled feature alone, linearly: it folds.

    Args:
        pooling: How [B, D, h, w] becomes [B, D].
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> Prediction:
        """Pool and score."""
        return Prediction(self.score(pool(feature_map, self.pooling), label_weights))

    def score(self, features: Tensor, label_weights: Tensor | None = None) -> Tensor:
        """Return logits [B, C] of pooled features [B, D]."""
        raise NotImplementedError

    def affine(self, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C], float64, that give the same logits in eval mode."""
        raise NotImplementedError


class Head(nn.Module):
    """Everything right of the backbone.

    ``label_side()`` takes no picture and runs once per optimiser step; ``image_side`` takes what it came to
    beside the feature maps.
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
        """Run the label side, if there is one; always in the precision of its parameters."""
        if self.label_side is None:
            return None
        device = next(self.image_side.buffers(), next(self.parameters())).device.type
        with torch.autocast(device, enabled=False):
            weights: LabelWeights = self.label_side()
        return weights

    def forward(self, feature_map: Tensor) -> Prediction:
        """Score feature maps [B, D, h, w]."""
        side = self.label_weights()
        prediction: Prediction = self.image_side(feature_map, side.weights if side else None)
        return prediction


def pool(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """Pool [B, D, h, w] to [B, D]: Eq. 2 takes the maximum."""
    return feature_map.amax(dim=(2, 3)) if pooling == "max" else feature_map.mean(dim=(2, 3))


class Standardise(nn.Module):
    """Standardises features [B, D] by running statistics of each (a BatchNorm without affine)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features, at least float32: statistics of half precision would be rough."""
        standardised: Tensor = self.norm(features.to(torch.promote_types(features.dtype, torch.float32)))
        return standardised

    def folded_into(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a layer (float64 [C, D], [C]) on standardised features into the same one on raw features."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None  # BatchNorm tracks them by default
        weight = weight / (variance.double() + self.norm.eps).sqrt()
        return weight, bias - weight @ mean.double()
