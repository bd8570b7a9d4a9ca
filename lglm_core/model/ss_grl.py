"""SS-GRL: a word vector finds its label in the picture, and labels that go together talk.

Source: Chen et al., Learning semantic-specific graph representation for multi-label image recognition,
ICCV 2019, arXiv:1908.07325; what the text leaves open is as in the authors' public code.

Semantic decoupling: a low-rank bilinear product of each position's feature f_p and each label's word vector
x_c says how much the label looks there, and the label's own feature is the mean it sees:

    α_cp = softmax over p of  f_a · Pᵀ tanh((Uᵀ f_p) ∘ (Vᵀ x_c)),   f_c = Σ_p α_cp f_p

Semantic interaction: a gated graph network over A_cc' = P(c' | c), counted in the training split, for T
steps from h_c = f_c:

    a_c = [Σ_c' A_cc' h_c',  Σ_c' A_c'c h_c']
    z = σ(W_z a + U_z h),  r = σ(W_r a + U_r h),  h̃ = tanh(W a + U (r ∘ h)),  h ← (1 − z) ∘ h + z ∘ h̃

and a classifier per label: o_c = tanh(W_o [h_c^T, h_c^0]), logit = <o_c, u_c> + b_c.

Other than published: P and f_a have no biases, which a softmax over positions cannot see. The two are
multiplied first, as nothing lies between them, so the largest tensor is B·C·h·w·d_1 and not that and its
image under P; it is computed for a few labels at a time and never kept. The gate r has a U_r of its own, as
in the paper; the public code takes U_z there, and its U_r is dead weight. Each gate has one bias, not two
that are added. With ``state_width`` (not in the paper, where h is as wide as f) the label features
are projected first.

Conditioned (not published): the map is standardised per channel; word vectors are scaled to a
root mean square of 1; messages are weighted means, as rows and columns of A are scaled to sum to at most 1 (a
label like *person* otherwise hears up to C others, and its gates saturate); the classifiers start at 0, and
their biases at the labels' log-odds.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model.config import SsGrlConfig
from lglm_core.model.head import ImageSide, LabelKnowledge, Prediction, Standardise
from lglm_core.model.recompute import in_parts

ATTENTION_PART_SIZE = 2**22  # numbers; small enough for a cache: 3 times as fast on a CPU as 2**24
GATES_PART_SIZE = 2**26


class SemanticDecoupling(nn.Module):
    """From features at hw positions and word vectors to one feature per label.

    Args:
        feature_width: D.
        vectors: float32 [C, d].
        d_1: Width of the product.
        d_2: Width behind P.
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
        """Return [B, C, D] of features [B, hw, D]."""
        return self.attention(features) @ features

    def attention(self, features: Tensor) -> Tensor:
        """Return α [B, C, hw] of features [B, hw, D]."""
        positions = self.from_position(features)
        words = self.from_word(self.vectors)
        weights = (self.coefficient.weight @ self.joined.weight)[0]

        def coefficients(words: Tensor) -> Tensor:
            return torch.tanh(positions * words[:, None, None]) @ weights.to(positions.dtype)

        scores = in_parts(
            coefficients, words, row_size=positions.numel(), part_size=ATTENTION_PART_SIZE
        )  # [C, B, hw]
        precise = torch.promote_types(scores.dtype, torch.float32)
        return scores.transpose(0, 1).softmax(dim=2, dtype=precise)


class SemanticInteraction(nn.Module):
    """The gated graph network.

    Args:
        width: Of a label's state.
        graph: A, float32 [C, C].
        steps: T.
        means: Scale rows and columns of A to sum to at most 1.
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
        """Return a [B, C, 2 width]: what labels receive along A and against it."""
        along, against = self.graph @ states, self.graph.T @ states
        if self.means:
            along = along / self.graph.sum(dim=1).clamp(min=1)[:, None]
            against = against / self.graph.sum(dim=0).clamp(min=1)[:, None]
        return torch.cat([along, against], dim=2)


class SsGrl(ImageSide):
    """The whole head: the words look at the picture, so there is no label side apart from it.

    Args:
        feature_width: D.
        knowledge: With vectors and counts.
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

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> Prediction:
        """Score feature maps [B, D, h, w]."""
        features = feature_map.flatten(2)
        if self.norm is not None:
            features = self.norm(features)
        features = self.decoupling(self.dropout(features).transpose(1, 2))
        if self.projection is not None:
            features = self.projection(features)
        row_size = 3 * features.shape[1:].numel()  # the three gates
        return Prediction(in_parts(self._score, features, row_size=row_size, part_size=GATES_PART_SIZE))

    def _score(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of the labels' features [B, C, width]."""
        states = self.interaction(features)
        outputs = torch.tanh(self.output(torch.cat([states, features], dim=2)))
        return (outputs * self.classifiers.weight).sum(dim=2) + self.classifiers.bias

    @torch.no_grad()
    def start_at_prior(self, log_odds: Tensor) -> None:
        """Start the biases of a conditioned head at the labels' log-odds."""
        if self.conditioned:
            self.classifiers.bias.copy_(log_odds)


def _conditional_probabilities(counts: Tensor) -> Tensor:
    """Return A [C, C], float32: P(column | row), 0 in the row of a label without pictures."""
    return counts / counts.diagonal().clamp(min=1)[:, None]
