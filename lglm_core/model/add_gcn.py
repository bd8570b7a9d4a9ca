"""The ADD-GCN head, whose label graph depends on the picture.

Source: Ye et al., Attention-driven dynamic graph convolutional network for multi-label image recognition,
ECCV 2020, arXiv:2012.02994; details follow the authors' public code, which produced the published numbers.

Class activation maps say where each label is, and pool one vector per label there (semantic attention):

    M = W X,  s_m = max over positions of M,  V = σ(M) (W_t X + b_t)ᵀ                [C, hw], [C], [C, w]

Two graphs pass messages between the labels: first a static one A_s, which is learned and the same for all
pictures, then a dynamic one A_d, which is computed from each picture's own label vectors:

    H = V + f(f(A_s V) W_s + b_s)                                                     [C, w]
    A_d = σ(H W_hᵀ + 1 (W_g h_g)ᵀ + b),  h_g = f(BatchNorm(W_c mean_c(H)))            [C, C]
    Z = V + f(f(A_d H) W_d + b_d),  s_r = <z_c, u_c> + b_c,  logits = (s_m + s_r) / 2

with f = LeakyReLU(0.2). Row c of A_d says how much label c receives from each label; it is computed from c's
own vector and the picture's.

These follow the public code rather than the paper's equations: the two residual paths (V + …), the inner f,
the biases, the BatchNorm, and s_m pooled from M before its sigmoid (logits need scores of both signs). These
differ from the public code: W_c has no bias, because the BatchNorm behind it would cancel one; the layer over
[h_g; h_c] is the sum of two layers, so that the concatenated pairs are never stored; of the last layer, which
scores each label's vector for all labels and keeps the diagonal, only the diagonal is computed.

Conditioned (not published): the map is standardised per channel; pooling is a mean over positions and
messages are means over labels, whereas the published sums grow with the map (49 positions at 224, 196 at 448)
and with the number of labels; both score layers start at 0, and the bias starts at the label's log-odds.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model.config import AddGcnConfig
from lglm_core.model.head import HeadOutput, ImageSide, LabelKnowledge, Standardise
from lglm_core.model.recompute import in_chunks

LEAK = 0.2
CHUNK_SIZE = 2**26  # numbers; 256 MiB in float32


class AddGcn(ImageSide):
    """The whole ADD-GCN head; it has no label side, because its graph depends on the picture.

    A_d holds B·C² numbers, so with many labels it is computed for a few pictures at a time.

    Args:
        feature_width: D, the channels of the feature map.
        knowledge: Only its number of labels C is used.
    """

    def __init__(self, feature_width: int, knowledge: LabelKnowledge, config: AddGcnConfig) -> None:
        super().__init__()
        labels, width = knowledge.labels, config.width
        self.pooling = config.pooling
        self.conditioned = config.conditioning == "conditioned"
        self.norm = Standardise(feature_width) if self.conditioned else None
        self.dropout = nn.Dropout1d(config.feature_dropout)
        self.activation_maps = nn.Linear(feature_width, labels, bias=False)  # W
        self.transform = nn.Linear(feature_width, width)  # W_t
        self.static_graph = nn.Linear(labels, labels, bias=False)  # A_s
        self.static_layer = nn.Linear(width, width)  # W_s
        self.picture_layer = nn.Linear(width, width, bias=False)  # W_c
        self.picture_norm = nn.BatchNorm1d(width)
        self.graph_from_picture = nn.Linear(width, labels, bias=False)  # W_g
        self.graph_from_label = nn.Linear(width, labels)  # W_h, b
        self.dynamic_layer = nn.Linear(width, width)  # W_d
        self.classifiers = nn.Linear(width, labels)  # u, one row per label
        if self.conditioned:
            nn.init.zeros_(self.activation_maps.weight)
            nn.init.zeros_(self.classifiers.weight)
            nn.init.zeros_(self.classifiers.bias)

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Return the logits [B, C] of feature maps [B, D, h, w]."""
        features = feature_map.flatten(2)
        if self.norm is not None:
            features = self.norm(features)
        features = self.dropout(features).transpose(1, 2)  # [B, hw, D]
        maps = self.activation_maps(features)  # [B, hw, C]
        direct = maps.amax(dim=1) if self.pooling == "max" else maps.mean(dim=1)

        vectors = self._label_vectors(maps, features)
        hidden, picture = self._apply_static_graph(vectors)
        _, labels, width = hidden.shape
        messages = in_chunks(
            self._messages, hidden, picture, row_size=labels * max(labels, width), chunk_size=CHUNK_SIZE
        )
        joined = vectors + _f(self.dynamic_layer(_f(messages)))
        related = (joined * self.classifiers.weight).sum(dim=2) + self.classifiers.bias
        return HeadOutput((direct + related) / 2)

    def graph(self, hidden: Tensor, picture: Tensor) -> Tensor:
        """Return the dynamic graph A_d [B, C, C] for label vectors H [B, C, w] and pictures h_g [B, w]."""
        scores = self.graph_from_label(hidden) + self.graph_from_picture(picture)[:, None]
        return scores.sigmoid()

    def _label_vectors(self, maps: Tensor, features: Tensor) -> Tensor:
        """Return V [B, C, w], the features pooled over the positions of each label."""
        mask = maps.sigmoid().transpose(1, 2)
        if self.conditioned:
            mask = mask / mask.shape[2]
        return mask @ self.transform(features)

    def _apply_static_graph(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the label vectors H [B, C, w] and the picture's vector h_g [B, w]."""
        received = _f(self.static_graph(vectors.transpose(1, 2))).transpose(1, 2)
        hidden = vectors + _f(self.static_layer(received))
        picture = _f(self.picture_norm(self.picture_layer(hidden.mean(dim=1))))
        return hidden, picture

    def _messages(self, hidden: Tensor, picture: Tensor) -> Tensor:
        """Return the messages A_d H along the dynamic graph, [B, C, w]."""
        graph = self.graph(hidden, picture)
        if self.conditioned:
            graph = graph / graph.shape[2]
        return graph @ hidden

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Set the biases of a conditioned head so that its first logits are the labels' log-odds."""
        if self.conditioned:
            self.classifiers.bias.copy_(2 * log_odds)  # a logit is half of the term that holds the bias


def _f(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)
