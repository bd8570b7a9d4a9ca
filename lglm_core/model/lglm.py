"""LGLM: a CNN, a label graph network and a multi-modal fusion component.

Source: Xie et al., Label graph learning for multi-label image recognition with cross-modal fusion,
Multimedia Tools and Applications, 2022; in the form that trains (see README, *The model*).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model.backbone import Backbone
from lglm_core.model.fusion import MultiModalFusion
from lglm_core.model.graph import GraphLayers, LabelGraph


@dataclass(frozen=True, kw_only=True)
class LglmConfig:
    """The choices the paper names; its values are the defaults."""

    d_l: int = 1024
    """Width of the two branches that learn the graph (Eq. 3)."""
    graph_widths: tuple[int, ...] = (1024, 2048)
    """Output width of each graph layer (Eq. 5)."""
    m: int = 1024
    """Width of the fused vectors."""
    group: int = 2
    """g: how many products are summed into one; divides m."""
    feature_dropout: float = 0.0
    """Share of the pooled feature dropped while training; strong values are for hundreds of images."""


class Prediction(NamedTuple):
    """Logits [B, C] and the normalised label graph Â [C, C] they came by."""

    logits: Tensor
    graph: Tensor


class LglmHead(nn.Module):
    """Everything right of the pooled feature.

    The feature is standardised (BatchNorm without affine), the word vectors are brought to unit length.
    """

    vectors: Tensor

    def __init__(self, feature_width: int, vectors: Tensor, config: LglmConfig) -> None:
        super().__init__()
        labels, vector_width = vectors.shape
        self.register_buffer("vectors", F.normalize(vectors.float(), dim=1))
        self.feature_norm = nn.BatchNorm1d(feature_width, affine=False)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self.label_graph = LabelGraph(vector_width, config.d_l)
        self.graph_layers = GraphLayers((vector_width, *config.graph_widths))
        self.fusion = MultiModalFusion(
            feature_width, config.graph_widths[-1], labels, m=config.m, group=config.group
        )

    def label_embeddings(self) -> tuple[Tensor, Tensor]:
        """Run the label side: the graph Â [C, C] and the label embeddings W [C, width]."""
        graph = self.label_graph(self.vectors)
        return graph, self.graph_layers(graph, self.vectors)

    def forward(self, features: Tensor) -> Prediction:
        """Score pooled features [B, D]; the label side runs once, whatever B is."""
        graph, embeddings = self.label_embeddings()
        features = self.feature_dropout(self.feature_norm(features))
        return Prediction(self.fusion(features, embeddings), graph)


class Lglm(nn.Module):
    """The whole model: normalised images [B, 3, H, W] → :class:`Prediction`."""

    def __init__(
        self, backbone: Backbone, vectors: Tensor, config: LglmConfig, *, frozen: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = LglmHead(backbone.width, vectors, config)
        self.frozen = frozen
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Lglm":
        """Set training mode; a frozen backbone keeps its batch statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Prediction:
        """Score images."""
        return self.head(self.backbone(images))

    @torch.no_grad()
    def start_at_prior(self, label_counts: np.ndarray, samples: int) -> None:
        """Set each label's bias to the log-odds of its share in the training split.

        Args:
            label_counts: int [C], in how many training samples each label is there.
            samples: How many training samples there are.
        """
        share = (torch.as_tensor(label_counts, dtype=torch.float64) + 0.5) / (samples + 1.0)
        self.head.fusion.label_bias.copy_(torch.logit(share))
