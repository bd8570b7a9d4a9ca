"""LGLM, A-GCN and ML-GCN: from label vectors over a graph and embeddings to one weight vector per label.

Source: Xie et al., Label graph learning for multi-label image recognition with cross-modal fusion,
Multimedia Tools and Applications, 2022; in a form that trains well, and as the text has it. ML-GCN (Chen et
al., CVPR 2019) and A-GCN (Li et al., Pattern Recognition Letters 2020) differ from it in where the graph
comes from and in how label and picture are joined.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model import losses
from lglm_core.model.config import AGcnConfig, GraphConfig, LearnedGraphConfig, LglmConfig, MlGcnConfig
from lglm_core.model.fusion import FusedLabels, FusedScores, ScaledLabels
from lglm_core.model.graph import CountedGraph, GraphLayers, LearnedGraph
from lglm_core.model.head import ImageSide, LabelKnowledge, LabelWeights

SMOOTHING = 0.75  # of residual weights; chosen on a training split of a few hundred pictures


class LabelSide(nn.Module):
    """Computes :class:`LabelWeights` from label vectors [C, d]; it depends on no picture.

    Labels that were added after training follow the *trained* ones. Each of them receives messages from the
    trained labels and from itself, and sends none. So the weights of the trained labels do not change, and
    the weights of an added label do not depend on the other added labels.

    Args:
        feature_width: D, the width of the last graph layer.
        vectors: float32 [C, d]; their scale matters only where the head is not conditioned.
        graph: Computes or holds the label graph.
        config: The head's options.
        fusion: Computes S from label embeddings.
        trained: How many of the labels, the first ones, were trained; default all.
    """

    vectors: Tensor

    def __init__(
        self,
        feature_width: int,
        vectors: Tensor,
        graph: LearnedGraph | CountedGraph,
        config: GraphConfig,
        fusion: nn.Module,
        trained: int | None = None,
    ) -> None:
        super().__init__()
        vectors = vectors.to(torch.get_default_dtype())  # the type of the parameters below
        self.register_buffer("vectors", vectors.clone())
        self.conditioned = config.conditioning == "conditioned"
        self.trained = len(vectors) if trained is None else trained
        self.graph = graph
        hidden = (config.graph_width,) * (config.layers - 1)
        self.layers = GraphLayers((vectors.shape[1], *hidden, feature_width), config.activation)
        self.fusion = fusion
        self.graph_loss = config.graph_loss if isinstance(config, LearnedGraphConfig) else None
        self.residual = None
        if isinstance(config, LglmConfig) and config.residual:
            self.residual = nn.Parameter(torch.zeros(self.trained, feature_width))

    def forward(self) -> LabelWeights:
        """Return S [C, m], the graph Â of the trained labels, and L_A (0 for a graph that is not learned).

        Residual weights [C, D], where the head has them, are concatenated to S.
        """
        units = F.normalize(self.vectors, dim=1)
        vectors, added = (units if self.conditioned else self.vectors).tensor_split([self.trained])
        graph = self.graph(vectors)
        embeddings = self.layers(graph, vectors)
        if len(added):
            embeddings = torch.cat([embeddings, self._embed_added(graph, vectors, added)])
        if self.conditioned:
            # The common part of all embeddings does not distinguish labels; the next fc's bias can hold it.
            embeddings = embeddings - embeddings[: self.trained].mean(dim=0)
        weights = self.fusion(embeddings)
        if self.residual is not None:
            # Scale the fusion down beside the residual weights: it has many times as many degrees of freedom.
            fused = weights / weights.shape[1] ** 0.5
            weights = torch.cat([fused, self._smoothing(units) @ self.residual], dim=1)
        penalty = losses.graph_loss(graph, self.graph_loss) if self.graph_loss else graph.new_zeros(())
        return LabelWeights(weights, graph, penalty)

    def _smoothing(self, units: Tensor) -> Tensor:
        """Return the factors with which each label uses each trained label's residual weights, [C, trained].

        The factor is 1 for the label's own weights, and grows with the squared similarity of the centred
        label vectors for those of others; it is 0 for dissimilar labels.

        Args:
            units: Label vectors of unit length, [C, d].
        """
        units = F.normalize(units - units[: self.trained].mean(dim=0), dim=1)
        factors = SMOOTHING * (units @ units[: self.trained].T).clamp(min=0).square()
        return factors.fill_diagonal_(1.0)

    def _added_graph_rows(self, vectors: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries of Â from added labels to trained ones, [added, trained], and to themselves."""
        assert isinstance(self.graph, LearnedGraph)
        labels = self.trained
        to_trained = self.graph.raw(added, vectors, labels=labels)
        to_self = torch.stack([self.graph.raw(one, one, labels=labels)[0, 0] + 1 for one in added.split(1)])
        degree = self.graph.degrees(torch.cat([to_trained, to_self[:, None]], dim=1))
        trained_degree = self.graph.degrees(
            self.graph.raw(vectors, vectors, labels=labels)
            + torch.eye(labels, device=vectors.device, dtype=vectors.dtype)
        )
        return degree.rsqrt()[:, None] * to_trained * trained_degree.rsqrt()[None, :], to_self / degree

    def _embed_added(self, graph: Tensor, vectors: Tensor, added: Tensor) -> Tensor:
        """Return the embeddings [added, D] of labels that were added after training."""
        to_trained, to_self = self._added_graph_rows(vectors, added)
        added_rows = torch.cat([to_trained, torch.diag(to_self)], dim=1)
        for number in range(len(self.layers.weights)):
            next_added = self.layers.layer(number, added_rows, torch.cat([vectors, added]))
            vectors, added = self.layers.layer(number, graph, vectors), next_added
        return added


def lglm_sides(
    feature_width: int, knowledge: LabelKnowledge, config: LglmConfig | AGcnConfig | MlGcnConfig
) -> tuple[ImageSide, LabelSide]:
    """Build the image side and the label side of LGLM, A-GCN or ML-GCN.

    Args:
        feature_width: D, the width of the pooled feature.
        knowledge: Holds vectors, and for ML-GCN also counts.
        config: The head's options; its class decides which head is built.
    """
    assert knowledge.vectors is not None
    vectors = knowledge.vectors
    graph: LearnedGraph | CountedGraph
    if isinstance(config, MlGcnConfig):
        assert knowledge.counts is not None
        graph = CountedGraph(knowledge.counts, config.threshold, config.reweighting)
    else:
        graph = LearnedGraph(vectors.shape[1], config.d_l, config.normalisation)
    mfc = isinstance(config, LglmConfig) and config.fusion == "mfc"
    if isinstance(config, LglmConfig) and mfc:
        fusion: nn.Module = FusedLabels(feature_width, config.m, config.group, config.conditioning)
    else:
        fusion = ScaledLabels(feature_width) if config.conditioning == "conditioned" else nn.Identity()
    image_side = FusedScores(
        feature_width,
        config.m if isinstance(config, LglmConfig) and mfc else None,
        knowledge.labels,
        pooling=config.pooling,
        conditioning=config.conditioning,
        feature_dropout=config.feature_dropout,
        fusion_dropout=config.fusion_dropout if isinstance(config, LglmConfig) else 0.0,
        residual=isinstance(config, LglmConfig) and config.residual,
    )
    return image_side, LabelSide(feature_width, vectors, graph, config, fusion, knowledge.trained)
