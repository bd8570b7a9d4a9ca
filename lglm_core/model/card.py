"""The model card: what a model is, what it was trained on, and how to use it."""

from collections.abc import Mapping
from typing import Any

from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.labels import LabelVocabulary

VECTORS = {
    "glove": "GloVe word vectors",
    "ppmi": "co-occurrence of the labels in the training split (PPMI); it belongs to this vocabulary alone",
}


def model_card(facts: Mapping[str, Any], labels: LabelVocabulary, embeddings: LabelEmbeddings) -> str:
    """Write the card as Markdown."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# An LGLM multi-label recogniser

Says which of {len(labels)} labels a picture shows: a CNN, a label graph and multi-modal fusion
(Xie et al., 2022). `model.safetensors` holds the weights as trained; they fold into one linear layer on
loading.

| | |
|---|---|
{rows}
| label vectors | {embeddings.vectors.shape[1]} wide, from {VECTORS[embeddings.source]} |

Use it:

    lglm tag --model . --images FOLDER --out TAGS

Labels: {", ".join(labels)}.
"""
