"""The whole model: a backbone and a head."""

import numpy as np
import torch
from torch import Tensor, nn

from lglm_core.model.backbone import Backbone
from lglm_core.model.head import Head, Prediction


class Recogniser(nn.Module):
    """Normalised images [B, 3, H, W] → :class:`Prediction`.

    Args:
        frozen: Train the head alone; the backbone also keeps its batch statistics.
    """

    def __init__(self, backbone: Backbone, head: Head, *, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.frozen = frozen
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Recogniser":
        """Set training mode; a frozen backbone keeps its batch statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Prediction:
        """Score images."""
        prediction: Prediction = self.head(self.backbone(images))
        return prediction

    def start_at_prior(self, targets: np.ndarray) -> None:
        """Start each label's bias, where it has one, at the log-odds of its share in the training split.

        Args:
            targets: int8 [N, C], 1 where a training sample has the label, 0 where not, -1 where unknown.
        """
        present, known = (targets == 1).sum(axis=0), (targets != -1).sum(axis=0)
        share = (torch.as_tensor(present, dtype=torch.float64) + 0.5) / (torch.as_tensor(known) + 1.0)
        self.head.image_side.start_at_prior(torch.logit(share))


class ImagePath(nn.Module):
    """What of a model reads pictures: backbone and image side, sharing their parameters with it.

    This is what runs per micro-batch, and what data parallelism wraps: the label side reads no picture, so
    every worker computes the same one.
    """

    def __init__(self, model: Recogniser) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.image_side = model.head.image_side

    def forward(self, images: Tensor, label_weights: Tensor | None) -> Prediction:
        """Score images by label weights [C, m]; in training also mirror images, where the head wants them."""
        if self.training and self.image_side.wants_mirror:
            images = torch.cat([images, images.flip(-1)])
        prediction: Prediction = self.image_side(self.backbone(images), label_weights)
        return prediction
