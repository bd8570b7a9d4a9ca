"""The fusion's training step: as a matrix product, as the public code's loop, and as one large product.

All forms compute the same scores (Eq. 7) from the same weights. A step is the fusion alone, forward and
backward, with the projections of pictures and labels: from features [B, D] and label embeddings [C, D] to
the gradients of both and of all weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lglm_core.model.fusion import FusedLabels, FusedScores
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.timing import in_turns

Score = Callable[[Any, Any, Tensor, Tensor], Tensor]
LABELS_TIMED = 50  # the loop runs over some of thousands of labels
WIDTH, M, GROUP = 2048, 1024, 2


def score_as_we_do(images: FusedScores, labels: FusedLabels, features: Tensor, embeddings: Tensor) -> Tensor:
    """Return scores [B, C] of features [B, D] and label embeddings [C, D]."""
    return images.score(features, labels(embeddings))


def score_in_a_loop(images: FusedScores, labels: FusedLabels, features: Tensor, embeddings: Tensor) -> Tensor:
    """Return the same scores by a loop over pictures and labels, one at a time, as in the public code.

    The last layer is the text's, one for all labels, in place of the public code's far larger one.
    """
    rows = []
    for feature in features:
        m1 = images.projection(feature)
        row = [
            labels.score((m1 * labels.projection(embedding)).view(-1, labels.group).sum(dim=1))
            for embedding in embeddings
        ]
        rows.append(torch.cat(row))
    return torch.stack(rows) + images.bias


def score_per_label(images: FusedScores, labels: FusedLabels, features: Tensor, embeddings: Tensor) -> Tensor:
    """Return the same scores by a faster loop over labels, which takes all pictures at once."""
    m1 = images.projection(features)
    columns = [
        labels.score((m1 * labels.projection(embedding)).unflatten(1, (-1, labels.group)).sum(dim=2))
        for embedding in embeddings
    ]
    return torch.cat(columns, dim=1) + images.bias


def score_at_once(images: FusedScores, labels: FusedLabels, features: Tensor, embeddings: Tensor) -> Tensor:
    """Return the same scores by one product of size B·C·m."""
    product = images.projection(features)[:, None] * labels.projection(embeddings)[None]
    return labels.score(product.unflatten(2, (-1, labels.group)).sum(dim=3))[..., 0] + images.bias


def step(score: Score, images: int, labels: int, width: int = WIDTH, m: int = M) -> Callable[[], Tensor]:
    """Return a training step with random weights, the same ones each time; it returns the scores."""
    torch.manual_seed(0)
    label_side = FusedLabels(width, m, GROUP, "text")
    image_side = FusedScores(width, m, labels, pooling="max", conditioning="text")
    trained = [*label_side.parameters(), *image_side.parameters()]
    gradient = torch.randn(labels, images).T  # the same for the first labels, however many there are
    features = torch.randn(images, width).requires_grad_()
    embeddings = torch.randn(labels, width).requires_grad_()

    def run() -> Tensor:
        for tensor in (*trained, features, embeddings):
            tensor.grad = None
        scores = score(image_side, label_side, features, embeddings)
        scores.backward(gradient)
        return scores.detach()

    return run


@benchmark("ms", target=20)
def fusion_80_loop(images: int = 32, labels: int = 80, width: int = WIDTH, m: int = M) -> Measured:
    """The fusion's training step, 80 labels, against the public code's loop over pictures and labels."""
    return _compare(score_in_a_loop, images, labels, labels, width, m)


@benchmark("ms", target=100)
def fusion_5000_loop(
    images: int = 32, labels: int = 5000, timed: int = LABELS_TIMED, width: int = WIDTH, m: int = M
) -> Measured:
    """The same with 5,000 labels; the loop is timed over some of them, and its time is scaled."""
    return _compare(score_in_a_loop, images, labels, timed, width, m)


@benchmark("ms")
def fusion_80_loop_of_batches(images: int = 32, labels: int = 80, width: int = WIDTH, m: int = M) -> Measured:
    """The fusion's training step, 80 labels, against a faster loop that takes all pictures at once."""
    return _compare(score_per_label, images, labels, labels, width, m)


@benchmark("ms")
def fusion_5000_loop_of_batches(
    images: int = 32, labels: int = 5000, timed: int = LABELS_TIMED, width: int = WIDTH, m: int = M
) -> Measured:
    """The same with 5,000 labels; the loop is timed over some of them, and its time is scaled."""
    return _compare(score_per_label, images, labels, timed, width, m)


@benchmark("ms", target=3)
def fusion_80_at_once(images: int = 128, labels: int = 80, width: int = WIDTH, m: int = M) -> Measured:
    """The fusion's training step, 80 labels and a GPU's batch, against one product of size B·C·m."""
    return _compare(score_at_once, images, labels, labels, width, m)


@benchmark("ms", target=3)
def fusion_80_at_once_few(images: int = 32, labels: int = 80, width: int = WIDTH, m: int = M) -> Measured:
    """The same with a small batch, where the two projections, which both forms have, dominate."""
    return _compare(score_at_once, images, labels, labels, width, m)


@benchmark("ms", target=3)
def fusion_5000_at_once(images: int = 32, labels: int = 5000, width: int = WIDTH, m: int = M) -> Measured:
    """The same with 5,000 labels, where the product takes 655 MB."""
    return _compare(score_at_once, images, labels, labels, width, m)


def _compare(other: Score, images: int, labels: int, timed: int, width: int, m: int) -> Measured:
    """Compare our step with another one, which is timed over *timed* labels and scaled to all of them."""
    ours, theirs = step(score_as_we_do, images, labels, width, m), step(other, images, timed, width, m)
    if timed == labels:
        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-3)
    our_s, their_s = in_turns(ours, theirs, rounds=3)
    note = f"B = {images}, C = {labels}, D = {width}, m = {m}"
    if timed < labels:
        note += f"; the loop over {timed} labels, times {labels / timed:g}"
    return Measured(1e3 * our_s, 1e3 * their_s * labels / timed, note)


@benchmark("MB", target=20)
def fusion_memory_growth(
    images: tuple[int, int] = (8, 32), labels: int = 5000, width: int = WIDTH, m: int = M
) -> Measured:
    """Growth of the training step's peak memory with the batch, against the growth of B·C·m numbers."""
    few, many = (peak_memory(step(score_as_we_do, b, labels, width, m)) for b in images)
    product = 4 * (images[1] - images[0]) * labels * m
    note = f"B from {images[0]} to {images[1]}, C = {labels}, D = {width}, m = {m}"
    return Measured((many - few) / 1e6, product / 1e6, note)


@benchmark("MB")
def fusion_memory(images: int = 32, labels: int = 5000, width: int = WIDTH, m: int = M) -> Measured:
    """Peak memory of the training step, against a step through one product of size B·C·m."""
    ours, theirs = (
        peak_memory(step(score, images, labels, width, m)) for score in (score_as_we_do, score_at_once)
    )
    note = f"B = {images}, C = {labels}, D = {width}, m = {m}; B·C·m is {4e-6 * images * labels * m:.0f} MB"
    return Measured(ours / 1e6, theirs / 1e6, note)


def peak_memory(run: Callable[[], object]) -> int:
    """Return the peak number of bytes in tensors, including those that existed before."""
    with _LiveTensors() as live:
        run()
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Sums up, after every operation, the storage of all tensors seen so far that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, result)):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result
