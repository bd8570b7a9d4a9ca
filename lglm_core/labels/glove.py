"""Label names → label embeddings, by word vectors.

Source: Pennington et al., EMNLP 2014; any file of word vectors in GloVe's text format will do.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.aliases import refuse_unknown
from lglm_core.labels.embeddings import LOST_NAMED, LabelEmbeddings, with_closest
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.labels.word_vectors import closest_words, read_vectors


class NameVectors(NamedTuple):
    """Vectors float32 [names, d]; per name the words they came from, those missing, and whose words."""

    vectors: np.ndarray
    words: tuple[tuple[str, ...], ...]
    missing: tuple[tuple[str, ...], ...]
    origin: tuple[str, ...]


def words_of(label: str) -> tuple[str, ...]:
    """Split a label name into the lower-case words whose vectors are averaged, in NFC.

    File names on a Mac, and what is made of them, write é as two characters: NFD.
    """
    return tuple(re.findall(r"[^\s_\-/]+", unicodedata.normalize("NFC", label.lower())))


def glove_embeddings(
    labels: LabelVocabulary,
    url: str,
    *,
    aliases: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
) -> LabelEmbeddings:
    """Average the word vectors of each label's name.

    Args:
        labels: The names to embed.
        url: A GloVe text file, as it is or packed; its width is what its lines hold.
        aliases: Other words to use for a label, by its name.
        oov: What becomes of a label none of whose words the file holds: refuse, or a zero vector, which
            :func:`lglm_core.labels.cooccurrence.fill_by_cooccurrence` can fill.

    Raises:
        InputError: a ragged file, an alias for no label, or, with ``oov="error"``, labels without a vector.
    """
    advice = "give other words with --alias 'label=words', or take --oov zero or cooccurrence"
    named = name_vectors(labels, url, aliases=aliases, oov=oov, advice=advice)
    return LabelEmbeddings(labels, *named, source="glove")


def name_vectors(
    names: Sequence[str],
    url: str,
    *,
    aliases: Mapping[str, str] | None = None,
    oov: Literal["error", "zero"] = "error",
    advice: str = "give other words with --alias 'label=words'",
) -> NameVectors:
    """Do what :func:`glove_embeddings` does, for any names; *advice* is for names without a vector."""
    aliases = aliases or {}
    refuse_unknown(aliases, names, "aliases")
    wanted = [words_of(aliases.get(name, name)) for name in names]
    found = read_vectors(url, {word for words in wanted for word in words})
    used = tuple(tuple(word for word in words if word in found) for words in wanted)
    lost = {name: words for name, words, kept in zip(names, wanted, used, strict=True) if not kept}
    if lost and oov == "error":
        raise InputError(
            f"{storage.redact_url(url)}: holds no word of {_with_closest_words(lost, url)}; {advice}"
        )
    if not found:
        raise InputError(f"{storage.redact_url(url)}: holds no word of any of the {len(names)} labels")
    nothing = np.zeros_like(next(iter(found.values())))
    vectors = [np.mean([found[word] for word in words], axis=0) if words else nothing for words in used]
    return NameVectors(
        np.stack(vectors).astype(np.float32),
        used,
        tuple(tuple(word for word in words if word not in found) for words in wanted),
        tuple("zero" if name in lost else "alias" if name in aliases else "glove" for name in names),
    )


def _with_closest_words(lost: Mapping[str, tuple[str, ...]], url: str) -> str:
    """Describe labels without a vector; what is written apart in a name may be one word in the file."""
    sought = [(*words, "".join(words)) for words in lost.values()]
    return with_closest(list(lost), closest_words(url, sought[:LOST_NAMED]))
