"""The label graph and its convolutions, from label vectors to one embedding per label (Eqs. 3–5)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lglm_core.model.config import Activation, Normalisation

MIN_DEGREE = 1e-2
LEAK = 0.2  # slope of the public code's LeakyReLU


class LearnedGraph(nn.Module):
    """Learns from the label vectors how labels go together: Eqs. 3 and 4.

    Args:
        vector_width: d, the width of the label vectors.
        d_l: Width of the two branches.
        normalisation: ``absolute`` divides by the roots of the degrees Σ|Ã|, at least 0.01. ``text`` takes
            ΣÃ as the paper has it, whose root is NaN where negative entries of A make the sum negative.
            ``public`` puts a sigmoid behind both branches, as the authors' code does.
    """

    def __init__(self, vector_width: int, d_l: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.alpha = nn.Linear(vector_width, d_l)  # a 1×1 convolution over labels maps each one linearly
        self.beta = nn.Linear(vector_width, d_l)
        self.normalisation = normalisation

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the normalised graph Â, [C, C], of label vectors [C, d]."""
        a_tilde = self.raw(vectors, vectors, labels=len(vectors))
        a_tilde = a_tilde + torch.eye(len(vectors), device=vectors.device, dtype=vectors.dtype)
        scale = self.degrees(a_tilde).rsqrt()
        return scale[:, None] * a_tilde * scale[None, :]

    def raw(self, rows: Tensor, columns: Tensor, *, labels: int) -> Tensor:
        """Return A between two sets of label vectors, [rows, columns]; *labels* is the C of Eq. 3."""
        l1, l2 = self.alpha(rows), self.beta(columns)
        if self.normalisation == "public":
            l1, l2 = l1.sigmoid(), l2.sigmoid()
        return l1 @ l2.T / labels

    def degrees(self, a_tilde: Tensor) -> Tensor:
        """Return the degrees D̃ [rows] of rows of Ã [rows, columns]."""
        if self.normalisation == "absolute":
            return a_tilde.abs().sum(dim=1).clamp(min=MIN_DEGREE)
        return a_tilde.sum(dim=1)


class CountedGraph(nn.Module):
    """ML-GCN's graph of conditional probabilities of labels in the training split; it has no parameters.

    Probabilities below *threshold* are dropped and the others set to 1; the edges from each label are scaled
    to sum to *reweighting*, the identity is added, and the result is normalised symmetrically (Chen et al.,
    CVPR 2019, with the column sums and the transposition of their code).

    Args:
        counts: int64 [C, C], the number of training pictures that carry both labels.
        threshold: The least conditional probability that gives an edge.
        reweighting: Total weight of a label's edges to others, beside 1 for itself.
    """

    graph: Tensor

    def __init__(self, counts: Tensor, threshold: float, reweighting: float) -> None:
        super().__init__()
        counts = counts.double()
        pictures = counts.diagonal()
        conditional = torch.where(pictures[:, None] > 0, counts / pictures.clamp(min=1)[:, None], 0.0)
        edges = (conditional >= max(threshold, torch.finfo(torch.float64).tiny)).double()
        edges.fill_diagonal_(0)
        weighted = edges * reweighting / (edges.sum(dim=0, keepdim=True) + 1e-6)
        a_tilde = weighted + torch.eye(len(counts), dtype=torch.float64)
        scale = a_tilde.sum(dim=1).rsqrt()
        graph = (scale[:, None] * a_tilde * scale[None, :]).T
        # NCCL sends only contiguous tensors.
        self.register_buffer("graph", graph.to(torch.get_default_dtype()).contiguous())

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the normalised graph Â, [C, C], in the precision of *vectors*."""
        return self.graph.to(vectors.dtype)


class GraphLayers(nn.Module):
    """Graph convolutions L_{l+1} = f(Â L_l U_l), Eq. 5, without bias as in the paper.

    Args:
        widths: Width of the label vectors, then of the output of each layer.
        activation: ``relu`` behind every layer, or ``leaky`` (slope 0.2) behind every layer but the last.
    """

    def __init__(self, widths: tuple[int, ...], activation: Activation) -> None:
        super().__init__()
        weights = [nn.Linear(before, after, bias=False) for before, after in pairwise(widths)]
        for weight in weights:  # He's initialisation keeps the scale; torch's default shrinks it 2.4-fold
            nn.init.kaiming_uniform_(weight.weight, nonlinearity="relu")
        self.weights = nn.ModuleList(weights)
        self.activation = activation

    def forward(self, graph: Tensor, vectors: Tensor) -> Tensor:
        """Return label embeddings W, [C, widths[-1]], of label vectors [C, widths[0]]."""
        for layer in range(len(self.weights)):
            vectors = self.layer(layer, graph, vectors)
        return vectors

    def layer(self, number: int, graph: Tensor, vectors: Tensor) -> Tensor:
        """Return the output [rows, …] of one layer; *graph* [rows, C] may hold only some rows of Â."""
        # Multiply the narrower side by the graph: with thousands of labels that product is the cost.
        weight = self.weights[number]
        assert isinstance(weight, nn.Linear)
        if vectors.shape[1] < weight.out_features:
            vectors = weight(graph @ vectors)
        else:
            vectors = graph @ weight(vectors)
        if self.activation == "relu":
            return F.relu(vectors)
        last = number + 1 == len(self.weights)
        return vectors if last else F.leaky_relu(vectors, LEAK)
