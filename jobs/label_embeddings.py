"""Embed the labels of a dataset by word vectors, ready-made vectors, or label co-occurrence in training.

lglm label-embeddings --dataset DATASET --out LABELS
lglm label-embeddings --dataset DATASET --out LABELS --glove glove.6B.300d.txt --alias 'cell phone=phone'
lglm label-embeddings --dataset DATASET --out LABELS --glove glove.6B.zip/glove.6B.300d.txt --oov cooccurrence
lglm label-embeddings --dataset DATASET --out LABELS --vectors vectors.parquet
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.options import MakeLabelEmbeddings
from lglm_core import storage
from lglm_core.dataset.layout import load_labels
from lglm_core.labels.aliases import parse_aliases, read_aliases, refuse_unknown
from lglm_core.rooms import DatasetManifest, LabelEmbeddingsManifest, LabelOrigin, Provenance, Room, require
from lglm_core.storage import compressed

if TYPE_CHECKING:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.labels.embeddings import LabelEmbeddings

SOURCES = {
    "glove": "GloVe word vectors",
    "vectors": "ready-made vectors",
    "ppmi": "label co-occurrence in the training split (PPMI; no GloVe file was given)",
}
ORIGINS = {"glove": "its name", "alias": "an alias", "cooccurrence": "co-occurrence", "zero": "zeros"}
ROWS_SHOWN = 50
WORDS_SHOWN = 3


def run(options: MakeLabelEmbeddings) -> Outcome:
    """Make the embeddings, unless the same ones are complete."""
    dataset = require(options.dataset, DatasetManifest)
    given = _aliases_by_option(options, dataset)
    aliases = {label: words for pairs in given.values() for label, words in pairs.items()}
    inputs = {"labels": dataset.labels, **_inputs(options, dataset)}
    made_with = {"alias": aliases, "oov": options.oov}
    room = Room(options.out, Provenance(LabelEmbeddingsManifest, inputs, made_with))
    return make_room(
        room,
        lambda: _make(options, given, aliases, room, dataset.fingerprint),
        lambda manifest, status: _summary(options.out, manifest, status),
    )


def _aliases_by_option(options: MakeLabelEmbeddings, dataset: DatasetManifest) -> dict[str, dict[str, str]]:
    """Return the aliases by the option that gave them; a later option overrides an earlier one."""
    file = options.alias_file
    if not file and not options.alias:
        return {}
    names = load_labels(options.dataset, dataset).names  # a name may hold '=' or begin with '#'
    from_file = {f"--alias-file {storage.redact_url(file)}": read_aliases(file, names)} if file else {}
    return from_file | {"--alias": parse_aliases(options.alias, names)}


def _inputs(options: MakeLabelEmbeddings, dataset: DatasetManifest) -> dict[str, str]:
    """Return the digests of what the vectors come from, with the dataset where its pictures give vectors."""
    if options.vectors:
        return {"vectors": storage.sha256(options.vectors)}
    counted = {"dataset": dataset.fingerprint}
    if not options.glove:
        return counted
    words = {"glove": compressed.sha256(options.glove)}
    return words | counted if options.oov == "cooccurrence" else words


def _make(
    options: MakeLabelEmbeddings,
    given: Mapping[str, Mapping[str, str]],
    aliases: dict[str, str],
    room: Room[LabelEmbeddingsManifest],
    fingerprint: str,
) -> LabelEmbeddingsManifest:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.labels.embeddings import FILE

    dataset = Dataset.open(options.dataset, fingerprint=fingerprint)
    for option, labels in given.items():
        refuse_unknown(labels, dataset.labels.names, option)
    embeddings, counts = _embed(options, aliases, dataset)
    room.begin()
    embeddings.save(room.path(FILE))
    return room.commit(
        LabelEmbeddingsManifest(
            fingerprint=embeddings.digest,
            **room.provenance.fields,
            counts=_counts(embeddings) | counts,
            source=embeddings.source,
            of_note=_of_note(embeddings),
        )
    )


def _embed(
    options: MakeLabelEmbeddings, aliases: dict[str, str], dataset: "Dataset"
) -> "tuple[LabelEmbeddings, dict[str, int]]":
    """Return the embeddings, and the counts that only their source has."""
    from lglm_core.labels.cooccurrence import cooccurrence_embeddings, fill_by_cooccurrence
    from lglm_core.labels.glove import glove_embeddings
    from lglm_core.labels.vector_table import ready_made_embeddings

    if options.vectors:
        embeddings, unused = ready_made_embeddings(dataset.labels, options.vectors)
        return embeddings, {"vectors_of_no_label": unused}
    if not options.glove:
        return cooccurrence_embeddings(dataset.labels, dataset.split("train").targets), {}
    if options.oov != "cooccurrence":
        return glove_embeddings(dataset.labels, options.glove, alias=aliases, oov=options.oov), {}
    embeddings = glove_embeddings(dataset.labels, options.glove, alias=aliases, oov="zero")
    return fill_by_cooccurrence(embeddings, dataset.split("train").targets), {}


def _counts(embeddings: "LabelEmbeddings") -> dict[str, int]:
    missing = zip(embeddings.missing, embeddings.origin, strict=True)
    return {
        "labels": len(embeddings.labels),
        "width": embeddings.vectors.shape[1],
        "partly_missing": sum(bool(lost) for lost, origin in missing if origin in ("glove", "alias")),
        "by_alias": embeddings.origin.count("alias"),
        "by_cooccurrence": embeddings.origin.count("cooccurrence"),
        "without_vector": embeddings.origin.count("zero"),
    }


def _of_note(embeddings: "LabelEmbeddings") -> tuple[LabelOrigin, ...]:
    """Return the origin of every label whose vector is not simply the source's vector of its whole name."""
    rows = zip(embeddings.labels, embeddings.origin, embeddings.words, embeddings.missing, strict=True)
    return tuple(LabelOrigin(*row) for row in rows if row[3] or row[1] != embeddings.source)


def _summary(out: str, manifest: LabelEmbeddingsManifest, status: str) -> str:
    from lglm_core.labels.embeddings import FILE

    counts = manifest.counts
    first = f"{out}: label embeddings, {status}: {counts['labels']} labels, {counts['width']} wide, from "
    first += SOURCES[manifest.source]
    if unused := counts.get("vectors_of_no_label"):
        first += f"; {unused} more belong to no label"
    of_note = manifest.of_note
    lines = [first, *(_table(of_note[:ROWS_SHOWN]) if of_note else [])]
    if more := len(of_note[ROWS_SHOWN:]):
        lines.append(f"  and {more} more labels: {storage.join(out, FILE)}")
    return "\n".join(lines)


def _table(of_note: Sequence[LabelOrigin]) -> list[str]:
    """Return the lines of a table that shows where each label's vector comes from."""
    rows = [("label", "from", "words used", "missing")]
    for row in of_note:
        rows.append((row.label, ORIGINS[row.origin], _brief(row.words), _brief(row.missing)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _brief(words: Sequence[str]) -> str:
    rest = len(words) - WORDS_SHOWN
    return ", ".join(words[:WORDS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("label-embeddings", MakeLabelEmbeddings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
