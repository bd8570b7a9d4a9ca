"""Add labels to a model by their names alone.

lglm extend --model RUN/model --label skateboard 'fire hydrant' --glove glove.6B.300d.txt --out MODEL
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.models import CARD_USAGE, require_model
from jobs.options import Extend
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.aliases import parse_aliases, read_aliases, refuse_unknown
from lglm_core.rooms import ModelManifest, Provenance, Room
from lglm_core.storage import compressed

if TYPE_CHECKING:
    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.model.bundle import Bundle


def run(options: Extend) -> Outcome:
    """Extend the model, unless the same extension is complete."""
    model, inputs = require_model(options.model)
    names = [*model.names, *options.label]
    from_file = read_aliases(options.alias_file, names) if options.alias_file else {}
    aliases = {label: from_file[label] for label in options.label if label in from_file}
    aliases |= parse_aliases(options.alias, options.label)
    inputs |= {"glove": compressed.sha256(options.glove)}
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
        lines.append(f"  {name!r} is embedded without {', '.join(words)}, which the word vectors lack")
    return "\n".join(lines)


def _missing_words(options: Extend) -> dict[str, tuple[str, ...]]:
    """Return, of each added label, the words of its name that the word vectors lack, if there are any."""
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
    if options.alias_file:  # the file may hold aliases of the model's existing labels, too
        where = f"--alias-file {storage.redact_url(options.alias_file)}"
        refuse_unknown(from_file, [*bundle.labels, *options.label], where, of="labels, old and new")
    for name in options.label:
        if name in bundle.labels.names:
            raise InputError(
                f"--label {name!r}: {options.model} has that label already; leave it out, or give the new "
                "label another name and its words with --alias 'label=words'"
            )
    labels = LabelVocabulary([*bundle.labels, *options.label])  # refuses a name that occurs twice
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
    """Return the embeddings of all labels; refuse other word vectors than the model was trained with."""
    import numpy as np

    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.labels.glove import name_vectors

    trained = bundle.embeddings
    if trained is None or trained.source != "glove":
        source = (
            "are ready-made" if trained and trained.source == "vectors" else "come from co-occurrence (PPMI)"
        )
        raise InputError(
            f"{options.model}: its label vectors {source}, which the name of a new label does not give; "
            "train with GloVe vectors to add labels by name"
        )
    by_words = [column for column, origin in enumerate(trained.origin) if origin in ("glove", "alias")]
    words = {trained.labels[column]: " ".join(trained.words[column]) for column in by_words}
    read = name_vectors([*words, *options.label], options.glove, alias=words | aliases)
    known = len(by_words)
    same = read.vectors.shape[1] == trained.vectors.shape[1] and np.allclose(
        read.vectors[:known], trained.vectors[by_words], rtol=1e-4, atol=1e-5
    )
    if not same:
        raise InputError(
            f"{options.glove}: not the word vectors that {options.model} was trained with: its labels have "
            "other vectors; name the same file"
        )
    return LabelEmbeddings(
        labels,
        np.concatenate([trained.vectors, read.vectors[known:]]),
        trained.words + read.words[known:],
        trained.missing + read.missing[known:],
        trained.origin + read.origin[known:],
        trained.source,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("extend", Extend, run, argv)


if __name__ == "__main__":
    sys.exit(main())
