"""Label graph learning: word vectors → a learned graph → one embedding per label (Eqs. 3–5)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_DEGREE = 1e-2


class LabelGraph(nn.Module):
    """Learns how labels go together from their word vectors: Eqs. 3 and 4.

    The degree is the sum of absolute values, at least 0.01, instead of the plain sum: A has negative
    entries, so a plain sum can be negative and its root NaN.
    """

    def __init__(self, vector_width: int, d_l: int = 1024) -> None:
        super().__init__()
        self.alpha = nn.Linear(vector_width, d_l)  # a 1×1 convolution over labels is a linear map of each
        self.beta = nn.Linear(vector_width, d_l)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the normalised graph Â, [C, C], of label vectors [C, d]."""
        labels = vectors.shape[0]
        a = self.alpha(vectors) @ self.beta(vectors).T / labels
        a_tilde = a + torch.eye(labels, device=a.device, dtype=a.dtype)
        scale = a_tilde.abs().sum(dim=1).clamp(min=MIN_DEGREE).rsqrt()
        return scale[:, None] * a_tilde * scale[None, :]


class GraphLayers(nn.Module):
    """Graph convolutions L_{l+1} = ReLU(Â L_l U_l), Eq. 5, without bias as in the paper."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        weights = [nn.Linear(before, after, bias=False) for before, after in pairwise(widths)]
        for weight in weights:  # He's keeps the scale through ReLU; torch's default shrinks it 2.4-fold
            nn.init.kaiming_uniform_(weight.weight, nonlinearity="relu")
        self.weights = nn.ModuleList(weights)

    def forward(self, graph: Tensor, vectors: Tensor) -> Tensor:
        """Return label co-occurrence embeddings W, [C, widths[-1]], of vectors [C, widths[0]]."""
        for weight in self.weights:
            vectors = F.relu(graph @ weight(vectors))
        return vectors
