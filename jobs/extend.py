"""Add labels to a model by their names alone.

lglm extend --model RUN/model --label skateboard 'fire hydrant' --glove glove.6B.300d.txt --out MODEL
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.options import Extend
from jobs.tag import CARD_USAGE
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.aliases import parse_aliases, read_aliases, refuse_unknown
from lglm_core.rooms import ModelManifest, Provenance, Room, require
from lglm_core.storage import compressed

if TYPE_CHECKING:
    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.model.bundle import Bundle


def run(options: Extend) -> Outcome:
    """Extend the model, unless the same extension is complete."""
    model = require(options.model, ModelManifest)
    names = [*model.names, *options.label]
    from_file = read_aliases(options.alias_file, names) if options.alias_file else {}
    aliases = {label: from_file[label] for label in options.label if label in from_file}
    aliases |= parse_aliases(options.alias, options.label)
    thresholds = storage.sha256(storage.join(options.model, "thresholds.json"))  # people may edit them
    inputs = {
        "model": model.fingerprint,
        "thresholds": thresholds,
        "glove": compressed.sha256(options.glove),
    }
    added = {"added": list(options.label), "alias": aliases}
    room = Room(options.out, Provenance(ModelManifest, inputs, added))
    return make_room(
        room,
        lambda: _extend(options, aliases, from_file, model, room),
        lambda manifest, status: _summary(options, manifest, status),
    )


def _summary(options: Extend, manifest: ModelManifest, status: str) -> str:
    added = ", ".join(options.label)
    lines = [f"{options.out}: model, {status}: {manifest.counts['labels']} labels, of which by name: {added}"]
    for name, words in _missing_words(options).items():
        lines.append(f"  {name!r} goes without {', '.join(words)}, which the word vectors lack")
    return "\n".join(lines)


def _missing_words(options: Extend) -> dict[str, tuple[str, ...]]:
    """Per added label, the words of its name that it had to do without."""
    from lglm_core.labels.embeddings import FILE, LabelEmbeddings

    embeddings = LabelEmbeddings.load(storage.join(options.out, FILE))
    missing = dict(zip(embeddings.labels, embeddings.missing, strict=True))
    return {name: missing[name] for name in options.label if missing[name]}


def _extend(
    options: Extend,
    aliases: dict[str, str],
    from_file: Iterable[str],
    trained: ModelManifest,
    room: Room[ModelManifest],
) -> ModelManifest:
    import torch

    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.model.bundle import DEFAULT_THRESHOLD, load_bundle, save_bundle
    from lglm_core.model.extend import check_extensible, extend

    bundle = load_bundle(options.model)
    check_extensible(bundle.model)
    refuse_unknown(aliases, options.label, "--alias", of="labels to add")
    if options.alias_file:  # which may be the one that the model's own labels had theirs from
        where = f"--alias-file {storage.redact_url(options.alias_file)}"
        refuse_unknown(from_file, [*bundle.labels, *options.label], where, of="labels, old and new")
    for name in options.label:
        if name in bundle.labels.names:
            raise InputError(
                f"--label {name!r}: {options.model} has that label already; leave it out, or name the new "
                "label otherwise, and give its words with --alias 'label=words'"
            )
    labels = LabelVocabulary([*bundle.labels, *options.label])  # refuses a name that is given twice
    embeddings = _embeddings(options, aliases, bundle, labels)
    vectors = torch.from_numpy(embeddings.vectors[len(bundle.labels) :].copy())
    room.begin()
    return save_bundle(
        room,
        extend(bundle.model, vectors),
        labels,
        embeddings=embeddings,
        preprocessing=bundle.preprocessing,
        facts=bundle.facts,
        thresholds=[*bundle.thresholds, *[DEFAULT_THRESHOLD] * len(options.label)],
        untrained=[*bundle.untrained, *options.label],
        history=trained.history,
        usage=CARD_USAGE,
    )


def _embeddings(
    options: Extend, aliases: dict[str, str], bundle: "Bundle", labels: "LabelVocabulary"
) -> "LabelEmbeddings":
    """Return the vectors of all labels; refuse a file that is not the one the model was trained with."""
    import numpy as np

    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.labels.glove import name_vectors

    before = bundle.embeddings
    if before is None or before.source != "glove":
        source = (
            "are ready-made" if before and before.source == "vectors" else "come from co-occurrence (PPMI)"
        )
        raise InputError(
            f"{options.model}: its label vectors {source}, and a new label's name says nothing about those; "
            "train with GloVe vectors to add labels by name"
        )
    worded = [column for column, origin in enumerate(before.origin) if origin in ("glove", "alias")]
    named = {before.labels[column]: " ".join(before.words[column]) for column in worded}
    found = name_vectors([*named, *options.label], options.glove, alias=named | aliases)
    known = len(worded)
    same = found.vectors.shape[1] == before.vectors.shape[1] and np.allclose(
        found.vectors[:known], before.vectors[worded], rtol=1e-4, atol=1e-5
    )
    if not same:
        raise InputError(
            f"{options.glove}: not the word vectors that {options.model} was trained with: those of its "
            "labels differ; name the same file"
        )
    return LabelEmbeddings(
        labels,
        np.concatenate([before.vectors, found.vectors[known:]]),
        before.words + found.words[known:],
        before.missing + found.missing[known:],
        before.origin + found.origin[known:],
        before.source,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("extend", Extend, run, argv)


if __name__ == "__main__":
    sys.exit(main())
