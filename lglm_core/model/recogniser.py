"""The whole model, which consists of a backbone and a head."""

import numpy as np
import torch
from torch import Tensor, nn

from lglm_core.model.backbone import Backbone
from lglm_core.model.head import Head, HeadOutput


class Recogniser(nn.Module):
    """Maps normalised images [B, 3, H, W] to a :class:`HeadOutput`.

    Args:
        backbone: Computes feature maps.
        head: Scores feature maps.
        frozen: Train only the head; the backbone keeps its weights and its batch statistics.
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

    def forward(self, images: Tensor) -> HeadOutput:
        """Score normalised images [B, 3, H, W]."""
        output: HeadOutput = self.head(self.backbone(images))
        return output

    def start_at_prior(self, targets: np.ndarray) -> None:
        """Set each label's bias, where there is one, to the log-odds of the label in the training split.

        Args:
            targets: int8 [N, C], 1 where a training sample has the label, 0 where not, -1 where unknown.
        """
        present, known = (targets == 1).sum(axis=0), (targets != -1).sum(axis=0)
        prior = (torch.as_tensor(present, dtype=torch.float64) + 0.5) / (torch.as_tensor(known) + 1.0)
        self.head.image_side.start_at_prior(torch.logit(prior))


class ImagePath(nn.Module):
    """Backbone and image side of a model, with the model's own parameters.

    This part runs per micro-batch, and data parallelism wraps it. The label side is left out: it depends on
    no picture, so every worker computes the same one.
    """

    def __init__(self, model: Recogniser) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.image_side = model.head.image_side

    def forward(self, images: Tensor, label_weights: Tensor | None) -> HeadOutput:
        """Score images [B, 3, H, W] with label weights [C, m].

        In training, mirror images are scored too, where the head wants them.
        """
        if self.training and self.image_side.wants_mirror:
            images = torch.cat([images, images.flip(-1)])
        output: HeadOutput = self.image_side(self.backbone(images), label_weights)
        return output
