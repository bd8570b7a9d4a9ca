"""The SS-GRL head: word vectors attend to the picture, then labels exchange messages over a counted graph.

Source: Chen et al., Learning semantic-specific graph representation for multi-label image recognition,
ICCV 2019, arXiv:1908.07325; where the text leaves details open, they follow the authors' public code.

Semantic decoupling: a low-rank bilinear product of each position's feature f_p and each label's word vector
x_c gives the label's attention there, and the label's feature is the mean weighted by this attention:

    α_cp = softmax over p of  f_a · Pᵀ tanh((Uᵀ f_p) ∘ (Vᵀ x_c)),   f_c = Σ_p α_cp f_p

Semantic interaction: a gated graph network over A_cc' = P(c' | c), counted in the training split, runs T
steps from h_c = f_c:

    a_c = [Σ_c' A_cc' h_c',  Σ_c' A_c'c h_c']
    z = σ(W_z a + U_z h),  r = σ(W_r a + U_r h),  h̃ = tanh(W a + U (r ∘ h)),  h ← (1 − z) ∘ h + z ∘ h̃

A classifier per label follows: o_c = tanh(W_o [h_c^T, h_c^0]), logit = <o_c, u_c> + b_c.

Differences from the publication: P and f_a have no biases, because a softmax over positions cancels them. The
two are multiplied first, as nothing lies between them, so the largest tensor is B·C·h·w·d_1 alone and not
also its image under P; it is computed for a few labels at a time and never kept. The gate r has its own U_r,
as in the paper; the public code uses U_z there, and its U_r is never used. Each gate has one bias, not the
sum of two. With ``state_width`` (not in the paper, where h is as wide as f) the label features are projected
first.

Conditioned (not published): the map is standardised per channel; word vectors are scaled to a root mean
square of 1; messages are weighted means, because rows and columns of A are scaled to sum to at most 1 (a
label such as *person* otherwise receives messages from up to C others, and its gates saturate); the
classifiers start at 0, and their biases at the labels' log-odds.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model.config import SsGrlConfig
from lglm_core.model.head import HeadOutput, ImageSide, LabelKnowledge, Standardise
from lglm_core.model.recompute import in_chunks

ATTENTION_CHUNK_SIZE = 2**22  # numbers; it fits a CPU's cache, and is 3 times as fast there as 2**24
GATES_CHUNK_SIZE = 2**26


class SemanticDecoupling(nn.Module):
    """Computes one feature per label from the features at hw positions, by attention of the word vectors.

    Args:
        feature_width: D, the channels of the feature map.
        vectors: Word vectors of the labels, float32 [C, d].
        d_1: Width of the product of position and word vector.
        d_2: Width of the layer P behind it.
    """

    vectors: Tensor

    def __init__(self, feature_width: int, vectors: Tensor, d_1: int, d_2: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.from_position = nn.Linear(feature_width, d_1, bias=False)  # U
        self.from_word = nn.Linear(vectors.shape[1], d_1, bias=False)  # V
        self.joined = nn.Linear(d_1, d_2, bias=False)  # P
        self.coefficient = nn.Linear(d_2, 1, bias=False)  # f_a

    def forward(self, features: Tensor) -> Tensor:
        """Return the labels' features [B, C, D] of features [B, hw, D]."""
        return self.attention(features) @ features

    def attention(self, features: Tensor) -> Tensor:
        """Return the attention α [B, C, hw] of features [B, hw, D]; it sums to 1 over positions."""
        positions = self.from_position(features)
        words = self.from_word(self.vectors)
        weights = (self.coefficient.weight @ self.joined.weight)[0]

        def coefficients(words: Tensor) -> Tensor:
            return torch.tanh(positions * words[:, None, None]) @ weights.to(positions.dtype)

        scores = in_chunks(
            coefficients, words, row_size=positions.numel(), chunk_size=ATTENTION_CHUNK_SIZE
        )  # [C, B, hw]
        precise = torch.promote_types(scores.dtype, torch.float32)
        return scores.transpose(0, 1).softmax(dim=2, dtype=precise)


class SemanticInteraction(nn.Module):
    """The gated graph network, in which labels exchange messages.

    Args:
        width: Width of a label's state.
        graph: A, float32 [C, C].
        steps: T, the number of steps.
        means: Whether rows and columns of A are scaled to sum to at most 1, so that messages are means.
    """

    graph: Tensor

    def __init__(self, width: int, graph: Tensor, steps: int, *, means: bool) -> None:
        super().__init__()
        self.register_buffer("graph", graph)
        self.steps = steps
        self.means = means
        self.from_messages = nn.Linear(2 * width, 3 * width)  # W_z, W_r, W
        self.from_state = nn.Linear(width, 2 * width, bias=False)  # U_z, U_r
        self.from_kept = nn.Linear(width, width, bias=False)  # U

    def forward(self, states: Tensor) -> Tensor:
        """Return the states [B, C, width] after T steps."""
        for _ in range(self.steps):
            gates, candidate = self.from_messages(self.messages(states)).tensor_split(
                [2 * states.shape[2]], dim=2
            )
            update, keep = (gates + self.from_state(states)).sigmoid().chunk(2, dim=2)
            candidate = torch.tanh(candidate + self.from_kept(keep * states))
            states = states + update * (candidate - states)
        return states

    def messages(self, states: Tensor) -> Tensor:
        """Return the messages a [B, C, 2 width] that labels receive along the edges of A and against them."""
        along, against = self.graph @ states, self.graph.T @ states
        if self.means:
            along = along / self.graph.sum(dim=1).clamp(min=1)[:, None]
            against = against / self.graph.sum(dim=0).clamp(min=1)[:, None]
        return torch.cat([along, against], dim=2)


class SsGrl(ImageSide):
    """The whole SS-GRL head; it has no label side, because the word vectors attend to the picture.

    Args:
        feature_width: D, the channels of the feature map.
        knowledge: Holds vectors and counts.
        config: The head's options.
    """

    def __init__(self, feature_width: int, knowledge: LabelKnowledge, config: SsGrlConfig) -> None:
        super().__init__()
        assert knowledge.vectors is not None and knowledge.counts is not None
        self.conditioned = config.conditioning == "conditioned"
        self.norm = Standardise(feature_width) if self.conditioned else None
        self.dropout = nn.Dropout1d(config.feature_dropout)
        vectors = knowledge.vectors.float()
        if self.conditioned:
            vectors = F.normalize(vectors, dim=1) * vectors.shape[1] ** 0.5
        self.decoupling = SemanticDecoupling(feature_width, vectors, config.d_1, config.d_2)
        width = config.state_width or feature_width
        self.projection = nn.Linear(feature_width, width) if config.state_width else None
        self.interaction = SemanticInteraction(
            width, _conditional_probabilities(knowledge.counts), config.steps, means=self.conditioned
        )
        self.output = nn.Linear(2 * width, config.output_width)
        self.classifiers = nn.Linear(config.output_width, knowledge.labels)  # u, one row per label
        if self.conditioned:
            nn.init.zeros_(self.classifiers.weight)
            nn.init.zeros_(self.classifiers.bias)

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Return the logits [B, C] of feature maps [B, D, h, w]."""
        features = feature_map.flatten(2)
        if self.norm is not None:
            features = self.norm(features)
        features = self.decoupling(self.dropout(features).transpose(1, 2))
        if self.projection is not None:
            features = self.projection(features)
        row_size = 3 * features.shape[1:].numel()  # the three gates
        return HeadOutput(in_chunks(self._score, features, row_size=row_size, chunk_size=GATES_CHUNK_SIZE))

    def _score(self, features: Tensor) -> Tensor:
        """Return the logits [B, C] of the labels' features [B, C, width]."""
        states = self.interaction(features)
        outputs = torch.tanh(self.output(torch.cat([states, features], dim=2)))
        return (outputs * self.classifiers.weight).sum(dim=2) + self.classifiers.bias

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Set the biases of a conditioned head to the labels' log-odds [C]."""
        if self.conditioned:
            self.classifiers.bias.copy_(log_odds)


def _conditional_probabilities(counts: Tensor) -> Tensor:
    """Return A, float32 [C, C]: P(column | row), with zeros in the row of a label without pictures."""
    return counts / counts.diagonal().clamp(min=1)[:, None]
