"""The model card: what a model is, what it was trained on, how good it is, and how to use it."""

from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary

VECTORS = {
    "glove": "GloVe word vectors",
    "vectors": "ready-made vectors",
    "ppmi": "co-occurrence of the labels in the training split (PPMI); it belongs to this vocabulary alone",
}
METRICS = ("CP", "CR", "CF1", "OP", "OR", "OF1")
NOTEBOOK_USAGE = """\
from lglm_core import Tagger
tagger = Tagger.load(".")
tagger.predict([open("photo.jpg", "rb").read()])"""


def model_card(
    facts: Mapping[str, Any],
    labels: LabelVocabulary,
    embeddings: LabelEmbeddings | None,
    *,
    head: str,
    untrained: Sequence[str] = (),
    metrics: Mapping[str, Any] | None = None,
    usage: str = NOTEBOOK_USAGE,
) -> str:
    """Return the card as Markdown.

    Args:
        facts: Rows of the card's table, by name.
        labels: All labels of the model.
        embeddings: The label embeddings; None where the head reads no label vectors.
        head: The head's name.
        untrained: Labels that were added after training.
        metrics: The metrics as an evaluation's ``metrics.json`` holds them.
        usage: Lines that show how the model in the current folder is used.
    """
    rows = dict(facts)
    if embeddings is not None:
        width = embeddings.vectors.shape[1]
        source = VECTORS[embeddings.source]
        rows["label vectors"] = f"{width} wide, from {source}{_vectors_from_elsewhere(embeddings)}"
    table = "\n".join(f"| {name} | {value} |" for name, value in {"head": head, **rows}.items())
    untrained_note = (
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
{_metrics_table(metrics)}{untrained_note}
Use it:

{indent(usage, "    ")}

Labels: {", ".join(labels)}.
"""


def _vectors_from_elsewhere(embeddings: LabelEmbeddings) -> str:
    """Return a phrase that names the labels whose vectors do not come from the main source."""
    phrases = {
        "cooccurrence": "from co-occurrence in the training split",
        "zero": "zeros, for want of a vector",
    }
    origins = dict(zip(embeddings.labels, embeddings.origin, strict=True))
    labels = {
        phrase: [label for label, origin in origins.items() if origin == kind]
        for kind, phrase in phrases.items()
    }
    return "".join(f"; {phrase}: {', '.join(names)}" for phrase, names in labels.items() if names)


def _metrics_table(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return ""
    header = " | ".join(METRICS)
    low, high = metrics["mAP_low"], metrics["mAP_high"]
    interval = "" if low is None else f"95% interval {low:.1f} to {high:.1f}; "
    lines = [
        "",
        f"Measured on {metrics['n_images']} pictures: mAP {metrics['mAP']:.1f} "
        f"({interval}predicting the prior: {metrics['prior_mAP']:.1f}).",
        "",
        f"| predicted | {header} |",
        "|---|" + "---:|" * len(METRICS),
        "| at one half | " + " | ".join(f"{metrics[name]:.1f}" for name in METRICS) + " |",
        "| and among the top 3 | " + " | ".join(f"{metrics['top3'][name]:.1f}" for name in METRICS) + " |",
    ]
    if missing := metrics["labels_without_positives"]:
        lines += ["", f"Not measured, for want of a picture that shows them: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"
