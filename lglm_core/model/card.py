"""The model card: what a model is, what it was trained on, how good it is, and how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary

VECTORS = {
    "glove": "GloVe word vectors",
    "vectors": "ready-made vectors",
    "ppmi": "co-occurrence of the labels in the training split (PPMI); it belongs to this vocabulary alone",
}
MEASURES = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def model_card(
    facts: Mapping[str, Any],
    labels: LabelVocabulary,
    embeddings: LabelEmbeddings | None,
    untrained: Sequence[str] = (),
    metrics: Mapping[str, Any] | None = None,
    head: str = "lglm",
) -> str:
    """Write the card as Markdown.

    Args:
        facts: Rows of its table.
        embeddings: None where the head reads no label vectors.
        untrained: Labels that no picture was labelled with.
        metrics: As ``metrics.json`` of an evaluation holds them.
        head: The head's name.
    """
    rows = dict(facts)
    if embeddings is not None:
        width = embeddings.vectors.shape[1]
        rows["label vectors"] = f"{width} wide, from {VECTORS[embeddings.source]}{_otherwise(embeddings)}"
    table = "\n".join(f"| {name} | {value} |" for name, value in {"head": head, **rows}.items())
    never = (
        f"\nNever trained, known by their names alone: {', '.join(untrained)}. "
        "No picture was labelled with them; expect less of these.\n"
        if untrained
        else ""
    )
    return f"""# A multi-label recogniser

Says which of {len(labels)} labels a picture shows. `model.safetensors` holds the weights, `config.json` what
they belong to and how pictures are prepared: squashed to the square, then standardised by `mean` and `std`.

| | |
|---|---|
{table}
{_measured(metrics)}{never}
Use it:

    lglm tag --model . --images FOLDER --out TAGS

Labels: {", ".join(labels)}.
"""


def _otherwise(embeddings: LabelEmbeddings) -> str:
    """Name the labels whose vectors the source did not hold."""
    instead = {
        "cooccurrence": "from co-occurrence in the training split",
        "zero": "zeros, for want of a vector",
    }
    named = {
        text: [
            name for name, came in zip(embeddings.labels, embeddings.origin, strict=True) if came == origin
        ]
        for origin, text in instead.items()
    }
    return "".join(f"; {text}: {', '.join(names)}" for text, names in named.items() if names)


def _measured(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return ""
    header = " | ".join(MEASURES)
    low, high = metrics["mAP_low"], metrics["mAP_high"]
    interval = "" if low is None else f"95% interval {low:.1f} to {high:.1f}; "
    lines = [
        "",
        f"Measured on {metrics['n_images']} pictures: mAP {metrics['mAP']:.1f} "
        f"({interval}predicting the prior: {metrics['prior_mAP']:.1f}).",
        "",
        f"| predicted | {header} |",
        "|---|" + "---:|" * len(MEASURES),
        "| at one half | " + " | ".join(f"{metrics[name]:.1f}" for name in MEASURES) + " |",
        "| and among the top 3 | " + " | ".join(f"{metrics['top3'][name]:.1f}" for name in MEASURES) + " |",
    ]
    if missing := metrics["labels_without_positives"]:
        lines += ["", f"Not measured, for want of a picture that shows them: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"
