"""LGLM and its kin: label vectors → graph → embeddings → one weight vector per label.

Source: Xie et al., Label graph learning for multi-label image recognition with cross-modal fusion,
Multimedia Tools and Applications, 2022; in the form that trains, and as the text has it (see README, *The
model*). ML-GCN (Chen et al., CVPR 2019) and A-GCN (Li et al., Pattern Recognition Letters 2020) are
the same but for where the graph comes from and how label and picture are joined.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model import losses
from lglm_core.model.config import AGcnConfig, GraphConfig, LearnedGraphConfig, LglmConfig, MlGcnConfig
from lglm_core.model.fusion import FusedLabels, FusedScores, ScaledLabels
from lglm_core.model.graph import CountedGraph, GraphLayers, LearnedGraph
from lglm_core.model.head import ImageSide, LabelKnowledge, LabelWeights

SMOOTHING = 0.75  # of residual weights; chosen on the training split of a few hundred pictures


class LabelSide(nn.Module):
    """From label vectors [C, d] to :class:`LabelWeights`; takes no picture.

    Labels added after training (:meth:`add_labels`) stand behind the *trained* ones. Each is joined to the
    trained graph alone: it receives from the trained labels and itself, and gives nothing. So the weights of
    the trained labels stay as they are, and do not depend on what else was added.

    Args:
        feature_width: D, the width of the last graph layer.
        vectors: float32 [C, d]; their scale matters only where unconditioned.
        trained: How many of them were there in training; default all.
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
        vectors = vectors.to(torch.get_default_dtype())  # as the parameters below
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

        With residual weights, those [C, D] stand right of S.
        """
        units = F.normalize(self.vectors, dim=1)
        vectors, added = (units if self.conditioned else self.vectors).tensor_split([self.trained])
        graph = self.graph(vectors)
        embeddings = self.layers(graph, vectors)
        if len(added):
            embeddings = torch.cat([embeddings, self._embed_added(graph, vectors, added)])
        if self.conditioned:
            # What all labels have in common tells none from another; the next fc's bias could hold it.
            embeddings = embeddings - embeddings[: self.trained].mean(dim=0)
        weights = self.fusion(embeddings)
        if self.residual is not None:
            # The fusion starts small beside them: it has many times as much freedom.
            fused = weights / weights.shape[1] ** 0.5
            weights = torch.cat([fused, self._smoothing(units) @ self.residual], dim=1)
        penalty = losses.graph_loss(graph, self.graph_loss) if self.graph_loss else graph.new_zeros(())
        return LabelWeights(weights, graph, penalty)

    def _smoothing(self, units: Tensor) -> Tensor:
        """Return how much each label takes of each trained label's own weights, [C, trained].

        All of its own, and of another's by the squared similarity of their vectors (*units*, of unit length),
        less what the vectors of all labels have in common; nothing of one that is dissimilar.
        """
        units = F.normalize(units - units[: self.trained].mean(dim=0), dim=1)
        shares = SMOOTHING * (units @ units[: self.trained].T).clamp(min=0).square()
        return shares.fill_diagonal_(1.0)

    def _rows_of_added(self, vectors: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Return Â from added labels to trained ones, [added, trained], and to themselves, [added]."""
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
        """Embed the labels added after training, [added, D]."""
        rows, own = self._rows_of_added(vectors, added)
        both_ways = torch.cat([rows, torch.diag(own)], dim=1)
        for number in range(len(self.layers.weights)):
            next_added = self.layers.layer(number, both_ways, torch.cat([vectors, added]))
            vectors, added = self.layers.layer(number, graph, vectors), next_added
        return added


def lglm_sides(
    feature_width: int, knowledge: LabelKnowledge, config: LglmConfig | AGcnConfig | MlGcnConfig
) -> tuple[ImageSide, LabelSide]:
    """Build image side and label side of LGLM, A-GCN or ML-GCN.

    Args:
        feature_width: D.
        knowledge: With vectors, and for ML-GCN with counts.
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
