"""Embed the labels of a dataset: GloVe word vectors, or co-occurrence in its training split.

lglm label-embeddings --dataset DATASET --out LABELS
lglm label-embeddings --dataset DATASET --out LABELS --glove glove.6B.300d.txt --alias 'cell phone=phone'
"""

import sys
from collections.abc import Sequence

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import MakeLabelEmbeddings
from lglm_core import rooms
from lglm_core.data import storage
from lglm_core.errors import InputError


def run(options: MakeLabelEmbeddings) -> Outcome:
    """Make the vectors, unless the same ones are there."""
    dataset = rooms.require(options.dataset, "dataset")
    aliases = parse_aliases(options.alias)
    inputs = {"labels": dataset.details["labels"]}
    if options.glove:
        inputs["glove"] = storage.sha256(options.glove)
    else:
        inputs["dataset"] = dataset.fingerprint
    recipe = rooms.Recipe("label-embeddings", inputs, {"alias": aliases, "oov": options.oov})
    manifest = rooms.find(options.out, recipe)
    status = "already complete" if manifest else "done"
    manifest = manifest or _make(options, aliases, recipe)
    return Outcome(status, options.out, _summary(options.out, manifest, status), counts=manifest.counts)


def _make(options: MakeLabelEmbeddings, aliases: dict[str, str], recipe: rooms.Recipe) -> rooms.Manifest:
    from lglm_core.cooccurrence import cooccurrence_embeddings
    from lglm_core.data.dataset import Dataset
    from lglm_core.glove import glove_embeddings
    from lglm_core.label_embeddings import FILE

    dataset = Dataset.open(options.dataset)
    if options.glove:
        embeddings = glove_embeddings(dataset.labels, options.glove, aliases=aliases, oov=options.oov)
    else:
        embeddings = cooccurrence_embeddings(dataset.labels, dataset.split("train").targets)
    rooms.begin(options.out, recipe)
    embeddings.save(storage.join(options.out, FILE))
    per_label = list(zip(embeddings.labels, embeddings.words, embeddings.missing, strict=True))
    partly = [label for label, used, lost in per_label if used and lost]
    without = [label for label, used, _ in per_label if not used]
    return rooms.commit(
        options.out,
        rooms.Manifest(
            kind="label-embeddings",
            fingerprint=embeddings.digest,
            inputs=recipe.inputs,
            options=recipe.options,
            counts={
                "labels": len(dataset.labels),
                "width": embeddings.vectors.shape[1],
                "partly_missing": len(partly),
                "without_vector": len(without),
            },
            details={"source": embeddings.source, "partly_missing": partly, "without_vector": without},
        ),
    )


def parse_aliases(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``label=words`` pairs as words by label."""
    for pair in pairs:
        if not all(part.strip() for part in pair.partition("=")):
            raise InputError(f"--alias {pair!r}: expected 'label=words', such as 'cell phone=phone'")
    return {label.strip(): words.strip() for label, _, words in (pair.partition("=") for pair in pairs)}


def _summary(out: str, manifest: rooms.Manifest, status: str) -> str:
    counts, details = manifest.counts, manifest.details
    origin = {
        "glove": "GloVe word vectors",
        "ppmi": "label co-occurrence in the training split (PPMI; no GloVe file was given)",
    }[details["source"]]
    lines = [
        f"{out}: label embeddings, {status}: {counts['labels']} labels, {counts['width']} wide, from {origin}"
    ]
    if details["partly_missing"]:
        lines.append(f"  averaged over the words that were found: {', '.join(details['partly_missing'])}")
    if details["without_vector"]:
        lines.append(f"  without a vector (zeros): {', '.join(details['without_vector'])}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("label-embeddings", MakeLabelEmbeddings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
