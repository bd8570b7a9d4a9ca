"""Activation maps: where in a picture a label's score comes from.

A head that folds is one weight vector w and one bias b per label, on the feature pooled from a map F:

    average pooling:  logit = b + mean over cells of Σ_d w_d F_d(cell)
    max pooling:      logit = b + Σ_d w_d max over cells of F_d(cell)

The *activation map* (CAM) is Σ_d w_d F_d(cell) for every cell. Under average pooling its mean plus b is the
logit; under max pooling nothing of the kind holds, for most of what it shows never reached the score.
The *attribution* does add up, under either: each cell is credited with what entered the score there, so that
its sum plus b is the logit. Under average pooling that is the activation map divided by the number of cells;
under max pooling each channel's w_d F_d goes to the cell of its maximum, and to the first of equal ones.

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
        weight: [L, D], of the labels asked for.
    """
    return (weight @ feature_map.flatten(2)).unflatten(2, feature_map.shape[2:])


def attribution(feature_map: Tensor, weight: Tensor, pooling: Pooling) -> Tensor:
    """Return what each cell adds to the logits, [B, L, h, w]: its sum over cells plus the bias is the logit.

    Args:
        weight: [L, D], of the labels asked for.
        pooling: How the head pools [B, D, h, w] to [B, D].
    """
    return activation(entering(feature_map, pooling), weight)


def entering(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """Return what of a map [B, D, h, w] enters the pooled feature, which is its sum over cells."""
    cells = feature_map.flatten(2)
    if pooling == "average":
        return feature_map / cells.shape[2]
    first = cells.argmax(dim=2, keepdim=True)  # unlike max, it promises the first of equal ones
    kept = torch.zeros_like(cells).scatter_(2, first, cells.gather(2, first))
    return kept.unflatten(2, feature_map.shape[2:])


@dataclass(frozen=True)
class Explanation:
    """What a model sees in a picture: the feature map [1, D, h, w] and the logits [C], both float64."""

    feature_map: Tensor
    logits: Tensor

    @property
    def probabilities(self) -> np.ndarray:
        """Float64 [C]."""
        return self.logits.sigmoid().cpu().numpy()


@dataclass(frozen=True)
class LabelMap:
    """One label on one picture: maps float32 [h, w]; the attribution's sum plus ``bias`` is ``logit``.

    ``threshold`` is the probability from which the label is given.
    """

    activation: np.ndarray
    attribution: np.ndarray
    bias: float
    logit: float
    probability: float
    threshold: float


class Explainer:
    """A model that tells where its scores come from. Reckons in float64 behind the backbone.

    Raises:
        InputError: the head does not fold.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        model = bundle.model.eval().to(device)
        self.backbone = model.backbone.to(memory_format=torch.channels_last)
        folded = fold(model.head).double()
        assert isinstance(model.head.image_side, PooledSide)  # it folded
        self.pooling: Pooling = model.head.image_side.pooling
        self.weight, self.bias = folded.weight, folded.bias
        self.labels = bundle.labels
        self.thresholds = np.array(bundle.thresholds, dtype=np.float64)
        self.preprocessing = bundle.preprocessing
        self.head_name, self.backbone_name = model.head.name, model.backbone.name
        self.device = device

    @classmethod
    def load(cls, model: str) -> "Explainer":
        """Load a model room, fold it, and put it on the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_bundle(model), device)

    @torch.inference_mode()
    def explain(self, image: bytes) -> Explanation:
        """Score an encoded image, as the tagger does; UnreadableImage where it is none."""
        view = squash(decode(image), self.preprocessing.image_size)
        pixels = self.preprocessing.normalise(view[None].to(self.device))
        feature_map = self.backbone(pixels).double()
        return Explanation(feature_map, pool(feature_map, self.pooling)[0] @ self.weight.T + self.bias)

    @torch.inference_mode()
    def maps(self, view: Explanation, labels: Sequence[str]) -> list[LabelMap]:
        """Return what *view* holds of some of the model's labels, in their order."""
        columns = [self.labels.column(label) for label in labels]
        weight = self.weight[columns]
        shown = activation(view.feature_map, weight)[0].float().cpu().numpy()
        added = attribution(view.feature_map, weight, self.pooling)[0].float().cpu().numpy()
        probabilities = view.probabilities
        return [
            LabelMap(
                activation=shown[row],
                attribution=added[row],
                bias=float(self.bias[column]),
                logit=float(view.logits[column]),
                probability=float(probabilities[column]),
                threshold=float(self.thresholds[column]),
            )
            for row, column in enumerate(columns)
        ]
