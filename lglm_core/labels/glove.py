"""Label embeddings from word vectors: each label gets the mean vector of the words in its name.

Source: Pennington et al., EMNLP 2014; any file of word vectors in GloVe's text format can be read.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.aliases import refuse_unknown
from lglm_core.labels.embeddings import MAX_NAMED, LabelEmbeddings, name_with_closest
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.labels.word_vectors import closest_words, read_vectors


class NameVectors(NamedTuple):
    """Vectors of names, float32 [names, d], with each name's words used, words missing, and origin."""

    vectors: np.ndarray
    words: tuple[tuple[str, ...], ...]
    missing: tuple[tuple[str, ...], ...]
    origin: tuple[str, ...]


def words_of(label: str) -> tuple[str, ...]:
    """Split a label name into the words whose vectors are averaged, in lower case and NFC.

    Names derived from file names on a Mac are in NFD, which writes é as two characters.
    """
    return tuple(re.findall(r"[^\s_\-/]+", unicodedata.normalize("NFC", label.lower())))


def glove_embeddings(
    labels: LabelVocabulary,
    url: str,
    *,
    alias: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
) -> LabelEmbeddings:
    """Average the word vectors of each label's name.

    Args:
        labels: The names to embed.
        url: A GloVe text file, plain or compressed; the first line gives the width d.
        alias: The words to look up in place of a label's name, by label.
        oov: What happens to a label if the file holds none of its words: an error, or a zero vector, which
            :func:`lglm_core.labels.cooccurrence.fill_by_cooccurrence` can fill.

    Raises:
        InputError: The file's lines differ in width, an alias belongs to no label, or, with ``oov="error"``,
            a label has no vector.
    """
    advice = "give other words with `alias` 'label=words', or take `oov` zero or cooccurrence"
    named = name_vectors(labels, url, alias=alias, oov=oov, advice=advice)
    return LabelEmbeddings(labels, *named, source="glove")


def name_vectors(
    names: Sequence[str],
    url: str,
    *,
    alias: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
    advice: str = "give other words with `alias` 'label=words'",
) -> NameVectors:
    """Average the word vectors of any names, like :func:`glove_embeddings` does for labels.

    Args:
        advice: What to do about names without a vector, for the message.
    """
    aliases = alias or {}
    refuse_unknown(aliases, names, "`alias`")
    wanted = [words_of(aliases.get(name, name)) for name in names]
    found = read_vectors(url, {word for words in wanted for word in words})
    used = tuple(tuple(word for word in words if word in found) for words in wanted)
    without = {name: words for name, words, kept in zip(names, wanted, used, strict=True) if not kept}
    if without and oov == "error":
        raise InputError(
            f"{storage.redact_url(url)}: holds no word of {_name_with_closest_words(without, url)}; {advice}"
        )
    if not found:
        raise InputError(f"{storage.redact_url(url)}: holds no word of any of the {len(names)} labels")
    zeros = np.zeros_like(next(iter(found.values())))
    vectors = [np.mean([found[word] for word in words], axis=0) if words else zeros for words in used]
    return NameVectors(
        np.stack(vectors).astype(np.float32),
        used,
        tuple(tuple(word for word in words if word not in found) for words in wanted),
        tuple("zero" if name in without else "alias" if name in aliases else "glove" for name in names),
    )


def _name_with_closest_words(without: Mapping[str, tuple[str, ...]], url: str) -> str:
    """List names without a vector, with the file's closest words: those of a name may be one word there."""
    sought = [(*words, "".join(words)) for words in without.values()]
    return name_with_closest(list(without), closest_words(url, sought[:MAX_NAMED]))
