"""Gathers the data of the evaluation report from a model, a split and its scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lglm_core import seeds
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.images.codec import to_rgb
from lglm_core.model.bundle import Bundle
from lglm_core.pages.pictures import thumbnail
from lglm_core.pages.report import Example, LabelResult, Report
from lglm_core.rooms import ModelManifest

EXAMPLES = 12
SCORES_SHOWN = 6
EDGES_SHOWN = 40
VECTORS = {
    "glove": ", vectors from GloVe",
    "vectors": ", ready-made vectors",
    "ppmi": ", vectors from co-occurrence (PPMI)",
    None: "",
}


def gather_report(
    bundle: Bundle,
    model: ModelManifest,
    dataset: Dataset,
    split: Split,
    scores: np.ndarray,
    metrics: Mapping[str, Any],
    per_label: pa.Table,
) -> Report:
    """Gather the report of an evaluation, with random example pictures and those with the largest loss.

    Args:
        bundle: The evaluated model.
        model: The manifest of its room.
        dataset: The dataset it was evaluated on.
        split: The split of this dataset.
        scores: Probabilities [N, C] of the split's samples, in the order of the index.
        metrics: From :func:`lglm_core.metrics.multi_label.evaluate`.
        per_label: From :func:`lglm_core.metrics.per_label.per_label_table`.
    """
    chosen = seeds.rng("examples", split.name, len(split)).permutation(len(split))[:EXAMPLES]
    hardest = np.argsort(-_loss(scores, split.targets), kind="stable")[:EXAMPLES]
    head = bundle.model.head.name
    source = bundle.embeddings.source if bundle.embeddings else None
    return Report(
        title=f"{bundle.model.backbone.name} + {head}",
        split=split.name,
        metrics=metrics,
        labels=[LabelResult(**row) for row in per_label.to_pylist()],
        examples=[_example(split, scores, int(row)) for row in chosen],
        hardest=[_example(split, scores, int(row)) for row in hardest],
        history=list(model.history),
        graph=strongest_edges(bundle),
        facts={
            "Model": f"{head} on {bundle.model.backbone.name}",
            "Parameters": f"{model.counts['parameters'] / 1e6:.1f} M",
            "Pictures": f"squashed to {bundle.preprocessing.image_size} pixels square, one view",
            "Labels": f"{len(bundle.labels)}{VECTORS[source]}",
            "Model fingerprint": bundle.fingerprint[:16],
            "Trained on": str(bundle.facts.get("trained on", "not recorded")),
            "Evaluated on dataset": dataset.manifest.fingerprint[:16],
        },
    )


@torch.no_grad()
def strongest_edges(bundle: Bundle) -> list[tuple[str, str, float]]:
    """Return the largest off-diagonal entries of the label graph as (from, to, weight), the largest first.

    They are ordered by absolute weight; a model without a label graph has none.
    """
    side = bundle.model.head.label_weights()
    if side is None:
        return []
    graph = side.graph.cpu().numpy().copy()
    np.fill_diagonal(graph, 0.0)
    flat = np.argsort(-np.abs(graph), axis=None, kind="stable")[:EDGES_SHOWN]
    rows, columns = np.unravel_index(flat, graph.shape)
    names = bundle.labels.names
    entries = zip(rows, columns, strict=True)
    return [(names[r], names[c], float(graph[r, c])) for r, c in entries if r != c]


def _loss(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cross-entropy per image [N] in nats, of probabilities [N, C]; unknown labels add nothing."""
    probability = np.clip(np.where(targets == 1, scores, 1 - scores), 1e-7, 1.0)
    return (-np.log(probability) * (targets >= 0)).sum(axis=1)


def _example(split: Split, scores: np.ndarray, row: int) -> Example:
    names = split.labels.names
    highest = np.argsort(-scores[row], kind="stable")[:SCORES_SHOWN]
    return Example(
        key=split.keys[row],
        jpeg=thumbnail(to_rgb(split.read_image(row))),
        labels=tuple(names[column] for column in np.flatnonzero(split.targets[row] == 1)),
        scores={names[column]: float(scores[row, column]) for column in highest},
    )
