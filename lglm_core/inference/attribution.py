"""Activation maps and attributions, which show where in a picture a label's score comes from.

A head that folds has one weight vector w and one bias b per label, on the feature pooled from a map F:

    average pooling:  logit = b + mean over cells of Σ_d w_d F_d(cell)
    max pooling:      logit = b + Σ_d w_d max over cells of F_d(cell)

The *activation map* (CAM) is Σ_d w_d F_d(cell) for every cell. Under average pooling its mean plus b is the
logit; under max pooling there is no such relation, because most of its values never reach the score. The
*attribution* adds up under both poolings: each cell is credited with what it contributes to the score, so
that the sum over cells plus b is the logit. Under average pooling it is the activation map divided by the
number of cells; under max pooling each channel's w_d F_d is credited to the cell of its maximum, the first
one where several are equal.

Source of the CAM: Zhou et al., Learning deep features for discriminative localization, CVPR 2016.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lglm_core.images.codec import decode
from lglm_core.images.transforms import squash
from lglm_core.model.bundle import Bundle, load_bundle
from lglm_core.model.config import Pooling
from lglm_core.model.fold import fold
from lglm_core.model.head import PooledSide, pool


def activation(feature_map: Tensor, weight: Tensor) -> Tensor:
    """Return the class activation maps [B, L, h, w] of feature maps [B, D, h, w], without the bias.

    Args:
        feature_map: [B, D, h, w].
        weight: [L, D], the rows of the wanted labels.
    """
    return (weight @ feature_map.flatten(2)).unflatten(2, feature_map.shape[2:])


def attribution(feature_map: Tensor, weight: Tensor, pooling: Pooling) -> Tensor:
    """Return each cell's contribution to the logits, [B, L, h, w]; their sum plus the bias is the logit.

    Args:
        feature_map: [B, D, h, w].
        weight: [L, D], the rows of the wanted labels.
        pooling: How the head pools [B, D, h, w] to [B, D].
    """
    return activation(pooled_contributions(feature_map, pooling), weight)


def pooled_contributions(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """Return each cell's contribution to the pooled feature, [B, D, h, w]; the feature is their sum."""
    cells = feature_map.flatten(2)
    if pooling == "average":
        return feature_map / cells.shape[2]
    first = cells.argmax(dim=2, keepdim=True)  # unlike max, it guarantees the first of equal values
    kept = torch.zeros_like(cells).scatter_(2, first, cells.gather(2, first))
    return kept.unflatten(2, feature_map.shape[2:])


@dataclass(frozen=True)
class Explanation:
    """A model's view of a picture: the feature map [1, D, h, w] and the logits [C], both float64."""

    feature_map: Tensor
    logits: Tensor

    @property
    def probabilities(self) -> np.ndarray:
        """The labels' probabilities, float64 [C]."""
        return self.logits.sigmoid().cpu().numpy()


@dataclass(frozen=True)
class LabelMap:
    """The maps of one label on one picture, float32 [h, w]; the attribution's sum plus ``bias`` is ``logit``.

    ``threshold`` is the probability from which a picture is tagged with the label.
    """

    activation: np.ndarray
    attribution: np.ndarray
    bias: float
    logit: float
    probability: float
    threshold: float


class Explainer:
    """A model that shows where its scores come from; everything behind the backbone runs in float64.

    Args:
        bundle: The loaded model.
        device: Where the model runs.

    Raises:
        InputError: the head does not fold.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        model = bundle.model.eval().to(device)
        self.backbone = model.backbone.to(memory_format=torch.channels_last)
        folded = fold(model.head).double()
        assert isinstance(model.head.image_side, PooledSide)  # or it would not fold
        self.pooling: Pooling = model.head.image_side.pooling
        self.weight, self.bias = folded.weight, folded.bias
        self.labels = bundle.labels
        self.thresholds = np.array(bundle.thresholds, dtype=np.float64)
        self.preprocessing = bundle.preprocessing
        self.head_name, self.backbone_name = model.head.name, model.backbone.name
        self.device = device

    @classmethod
    def load(cls, model: str) -> "Explainer":
        """Load the model room at *model*, fold the model, and move it to the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_bundle(model), device)

    @torch.inference_mode()
    def explain(self, image: bytes) -> Explanation:
        """Score an encoded image in the way the tagger does.

        Raises:
            UnreadableImage: the bytes are no image that can be decoded.
        """
        square = squash(decode(image), self.preprocessing.image_size)
        pixels = self.preprocessing.normalise(square[None].to(self.device))
        feature_map = self.backbone(pixels).double()
        return Explanation(feature_map, pool(feature_map, self.pooling)[0] @ self.weight.T + self.bias)

    @torch.inference_mode()
    def maps(self, explanation: Explanation, labels: Sequence[str]) -> list[LabelMap]:
        """Return the maps of some of the model's labels on an explained picture, in the order of *labels*."""
        columns = [self.labels.column(label) for label in labels]
        weight = self.weight[columns]
        feature_map = explanation.feature_map
        activations = activation(feature_map, weight)[0].float().cpu().numpy()
        attributions = attribution(feature_map, weight, self.pooling)[0].float().cpu().numpy()
        probabilities = explanation.probabilities
        return [
            LabelMap(
                activation=activations[row],
                attribution=attributions[row],
                bias=float(self.bias[column]),
                logit=float(explanation.logits[column]),
                probability=float(probabilities[column]),
                threshold=float(self.thresholds[column]),
            )
            for row, column in enumerate(columns)
        ]
