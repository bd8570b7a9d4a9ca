"""LGLM in NumPy and double precision, written from its equations, as a reference for lglm_core.

It is written from section 3 of Xie et al. 2022 and not from lglm_core: label by label, as in the text, with
the minus sign that is missing in Eq. 8. The variants that lglm_core offers are included.

All functions accept complex numbers and are analytic between their kinks. So gradients are computed by a
complex step, Im f(x + ih) / h (Squire and Trapp, 1998): nothing is subtracted, and with h = 1e-30 they are
exact to rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Parameters = Mapping[str, np.ndarray]
STEP = 1e-30
EPSILON = 1e-5  # torch's default, for both normalisations


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, 0)


def leaky_relu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, 0.2 * x)


def absolute(x: np.ndarray) -> np.ndarray:
    return np.where(x.real < 0, -x, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def standardise(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return (x - mean) / np.sqrt(variance + EPSILON)


def moments(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the (biased) variance; np.var would take the modulus of complex numbers."""
    mean = x.mean(axis, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis, keepdims=True)


def fc(x: np.ndarray, p: Parameters, name: str) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def global_max_pooling(maps: np.ndarray) -> np.ndarray:
    """Return F [B, D] of feature maps [B, D, h, w] (Eq. 2)."""
    cells = maps.reshape(*maps.shape[:2], -1)
    return np.take_along_axis(cells, cells.real.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]


def correlation(L: np.ndarray, p: Parameters, *, squashed: bool) -> np.ndarray:
    """Return A of Eq. 3; *squashed* adds the public code's sigmoid behind both branches."""
    L1, L2 = fc(L, p, "alpha"), fc(L, p, "beta")
    if squashed:
        L1, L2 = sigmoid(L1), sigmoid(L2)
    return L1 @ L2.T / len(L)


def normalised(A: np.ndarray, *, by_absolute_values: bool) -> np.ndarray:
    """Return Â of Eq. 4, or with the degrees Σ|Ã|, at least 0.01."""
    a_tilde = A + np.eye(len(A))
    if by_absolute_values:
        degrees = absolute(a_tilde).sum(axis=1)
        degrees = np.where(degrees.real > 0.01, degrees, 0.01)
    else:
        degrees = a_tilde.sum(axis=1)
        assert (degrees.real > 0).all(), "Eq. 4 has no value here; choose other inputs"
    D = np.diag(1 / np.sqrt(degrees))
    return D @ a_tilde @ D


def counted_graph(counts: np.ndarray, threshold: float, reweighting: float) -> np.ndarray:
    """Return ML-GCN's graph from counts of label pairs (its Eqs. 6–8 and its code's normalisation).

    The published code divides by zero for a label that never occurs; here such a label has no edges.
    """
    labels = range(len(counts))
    edge = np.zeros(counts.shape)
    for i in labels:
        for j in labels:
            if i != j and counts[i, i]:
                edge[i, j] = counts[i, j] / counts[i, i] >= threshold  # P(j | i)
    A = np.eye(len(counts))
    for j in labels:
        A[:, j] += reweighting * edge[:, j] / (edge[:, j].sum() + 1e-6)
    degrees = A.sum(axis=1)
    return np.array([[A[j, i] / np.sqrt(degrees[i] * degrees[j]) for j in labels] for i in labels])


def gcn(L: np.ndarray, graph: np.ndarray, p: Parameters, *, leaky: bool) -> np.ndarray:
    """Return W of Eq. 5; *leaky* takes the public code's LeakyReLU, behind all layers but the last."""
    layers = [name for name in sorted(p) if name.startswith("U")]
    for name in layers:
        L = graph @ L @ p[name]
        if not leaky:
            L = relu(L)
        elif name != layers[-1]:
            L = leaky_relu(L)
    return L


def graph_loss(graph: np.ndarray, reduction: str) -> np.ndarray:
    """Return L_A of Eq. 6 as the printed Frobenius norm, or as the sum or mean of absolute values."""
    difference = graph - np.eye(len(graph))
    if reduction == "frobenius":
        return np.sqrt((difference**2).sum())
    return absolute(difference).sum() / (difference.size if reduction == "mean" else 1)


def mfc(F: np.ndarray, W: np.ndarray, p: Parameters, g: int, *, conditioned: bool) -> np.ndarray:
    """Return Y of Eq. 7: the fusion of every label with F, then one fc for all labels, without its bias.

    *conditioned* adds LayerNorm on M2.
    """
    Y = []
    for W_i in W:
        M1, M2 = fc(F, p, "fc1"), fc(W_i, p, "fc2")
        if conditioned:
            M2 = standardise(M2, *moments(M2, axis=0)) * p["norm.weight"] + p["norm.bias"]
        product = M1 * M2
        groups = [product[:, start : start + g].sum(axis=1) for start in range(0, product.shape[1], g)]
        Y.append(np.stack(groups, axis=1) @ p["fc.weight"])
    return np.stack(Y, axis=1)


def dot(F: np.ndarray, W: np.ndarray, p: Parameters, *, conditioned: bool) -> np.ndarray:
    """Return Y of LGLM without MFC; *conditioned* adds LayerNorm on W and a weight per dimension."""
    if not conditioned:
        return F @ W.T
    W = standardise(W, *moments(W, axis=1)) * p["norm.weight"] + p["norm.bias"]
    return np.stack([F @ (W_i * p["fc.weight"]) for W_i in W], axis=1)


def residual_weights(vectors: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return each label's residual weights plus 0.75 of others' by squared similarity (not in the paper)."""
    words = vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    words = words - words.mean(axis=0)
    size = np.sqrt((words**2).sum(axis=1))
    weights = R.astype(complex)
    for i in range(len(R)):
        for j in range(len(R)):
            similarity = (words[i] @ words[j]) / (size[i] * size[j])
            if i != j and similarity.real > 0:
                weights[i] += 0.75 * similarity**2 * R[j]
    return weights if np.iscomplexobj(R) else weights.real


def label_loss(Y: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return L_M of Eq. 8 with its minus sign, averaged over images."""
    present = sigmoid(Y)
    return -(targets * np.log(present) + (1 - targets) * np.log(1 - present)).sum(axis=1).mean()


class Result(NamedTuple):
    """The results of one batch: Y, Â, L_M, L_A and L_total."""

    logits: np.ndarray
    graph: np.ndarray
    label_loss: np.ndarray
    graph_loss: np.ndarray
    total: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Lglm:
    """LGLM; the defaults are the text's.

    ``counts`` (with threshold and reweighting) selects ML-GCN's graph in place of Eqs. 3 and 4. ``running``
    is the mean and variance of the conditioned feature in eval mode; None takes the batch's own.
    """

    vectors: np.ndarray
    g: int = 1
    lambda_: float = 1.0
    conditioned: bool = False
    normalisation: Literal["text", "absolute", "public"] = "text"
    reduction: Literal["frobenius", "mean", "sum"] = "frobenius"
    leaky: bool = False
    fusion: Literal["mfc", "dot"] = "mfc"
    residual: bool = False
    counts: tuple[np.ndarray, float, float] | None = None
    running: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, p: Parameters, targets: np.ndarray) -> Result:
        """Score the feature maps ``p["maps"]`` and compare with *targets*."""
        L, F = self.vectors, global_max_pooling(p["maps"])
        if self.conditioned:
            L = L / np.sqrt((L**2).sum(axis=1, keepdims=True))
            F = standardise(F, *(self.running or moments(F, axis=0)))
        if self.counts is not None:
            graph, L_A = counted_graph(*self.counts), np.zeros(())
        else:
            A = correlation(L, p, squashed=self.normalisation == "public")
            graph = normalised(A, by_absolute_values=self.normalisation == "absolute")
            L_A = graph_loss(graph, self.reduction)
        W = gcn(L, graph, p, leaky=self.leaky)
        if self.conditioned:
            W = W - W.mean(axis=0)
        if self.fusion == "mfc":
            Y = mfc(F, W, p, self.g, conditioned=self.conditioned)
        else:
            Y = dot(F, W, p, conditioned=self.conditioned)
        if self.residual:  # the fusion is then divided by the root of its width
            width = len(p["fc1.bias"]) if self.fusion == "mfc" else F.shape[1]
            Y = Y / np.sqrt(width) + F @ residual_weights(self.vectors, p["R"]).T
        Y = Y + p.get("bias", 0)  # the text has one for all labels, and none without MFC
        L_M = label_loss(Y, targets)
        return Result(Y, graph, L_M, L_A, L_M + self.lambda_ * L_A)  # Eq. 9


def gradient(function: Callable[[Parameters], np.ndarray], p: Parameters, name: str) -> np.ndarray:
    """Return the gradient of a real function with respect to the parameter *name*."""
    slopes = np.empty(p[name].shape)
    for index in np.ndindex(slopes.shape):
        shifted = p[name].astype(complex)
        shifted[index] += STEP * 1j
        slopes[index] = function({**p, name: shifted}).imag / STEP
    return slopes
