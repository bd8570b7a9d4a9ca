"""Label embeddings: one vector per label, with a record of what it was made from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms.canonical import digest

FILE = "label_embeddings.parquet"
COLUMNS = ("label", "words", "missing", "vector", "origin")
MAX_NAMED = 5  # labels without a vector that a message names with their closest matches


@dataclass(frozen=True)
class LabelEmbeddings:
    """One vector per label, ``vectors`` float32 [C, d] in the column order of ``labels``.

    For each label, ``words`` are the words that its vector was made from and ``missing`` the words that the
    source does not hold. ``source`` is ``glove``, ``vectors`` (ready-made) or ``ppmi``, which is valid for
    one dataset only. ``origin`` tells for each label where its vector comes from: the source; ``alias``
    (GloVe vectors of other words than the name); ``cooccurrence`` (the mean of the labels in ``words``, with
    which it occurs together in the training split); or ``zero`` (it has none).
    """

    labels: LabelVocabulary
    vectors: np.ndarray
    words: tuple[tuple[str, ...], ...]
    missing: tuple[tuple[str, ...], ...]
    origin: tuple[str, ...]
    source: str

    @property
    def digest(self) -> str:
        """Return the sha256 of label names and vectors."""
        return digest([self.labels.digest, digest(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes())])

    def save(self, url: str | os.PathLike[str]) -> None:
        """Write a Parquet file with the columns ``label, words, missing, vector, origin`` to *url*."""
        width = self.vectors.shape[1]
        flat = pa.array(self.vectors.astype(np.float32).ravel())
        table = pa.table(
            {
                "label": list(self.labels),
                "words": pa.array([list(words) for words in self.words], pa.list_(pa.string())),
                "missing": pa.array([list(words) for words in self.missing], pa.list_(pa.string())),
                "vector": pa.FixedSizeListArray.from_arrays(flat, width),
                "origin": list(self.origin),
            }
        )
        metadata = {"source": self.source, "digest": self.digest, "labels": self.labels.digest}
        storage.write_parquet(os.fspath(url), table.replace_schema_metadata(metadata))

    @classmethod
    def load(cls, url: str | os.PathLike[str]) -> "LabelEmbeddings":
        """Read a file that :meth:`save` wrote.

        Files of earlier versions have no column ``origin``; it is derived from the source.

        Raises:
            InputError: The file is no such table, or its vectors do not match its digest.
        """
        url = os.fspath(url)
        table = storage.read_parquet(url)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        columns = tuple(table.column_names)
        if columns not in (COLUMNS, COLUMNS[:-1]) or "digest" not in metadata:
            raise InputError(
                f"{url}: not a table of label embeddings; found the columns {', '.join(columns) or 'none'}, "
                f"expected {', '.join(COLUMNS)} and a digest; make the label embeddings again"
            )
        width = table.schema.field("vector").type.list_size
        vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, width)
        source, words = metadata["source"], tuple(map(tuple, table.column("words").to_pylist()))
        derived = [source if used else "zero" for used in words]
        embeddings = cls(
            labels=LabelVocabulary(table.column("label").to_pylist()),
            vectors=vectors,
            words=words,
            missing=tuple(map(tuple, table.column("missing").to_pylist())),
            origin=tuple(table.column("origin").to_pylist() if columns == COLUMNS else derived),
            source=source,
        )
        if embeddings.digest != metadata["digest"]:
            raise InputError(f"{url}: its vectors do not match its digest; make the label embeddings again")
        return embeddings

    def only(self, labels: LabelVocabulary) -> "LabelEmbeddings":
        """Return the embeddings of *labels* alone, in their order; each must have a vector here."""
        columns = [self.labels.column(name) for name in labels]
        return LabelEmbeddings(
            labels,
            self.vectors[columns],
            tuple(self.words[column] for column in columns),
            tuple(self.missing[column] for column in columns),
            tuple(self.origin[column] for column in columns),
            self.source,
        )

    @property
    def learned_from_pictures(self) -> bool:
        """Tell whether any vector was learned from the labels of one dataset's pictures."""
        return not {"ppmi", "cooccurrence"}.isdisjoint(self.origin)

    def learned_from(self, name: str) -> str | None:
        """Return a label whose vector was learned from the pictures that show *name*, or None."""
        for label, words, origin in zip(self.labels, self.words, self.origin, strict=True):
            # Every label shapes all PPMI vectors, but only the labels it names shape a mean.
            if origin == "ppmi" or (origin == "cooccurrence" and name in (label, *words)):
                return label
        return None

    def check_labels(self, labels: LabelVocabulary, url: str, of: str) -> None:
        """Raise an InputError if *labels* is another vocabulary, naming the first label that differs.

        Args:
            labels: The vocabulary expected.
            url: Where these embeddings are, for the message.
            of: Whose vocabulary *labels* is, for the message.
        """
        if self.labels == labels:
            return
        differing = next(
            (
                f"{found!r} is in the place of {expected!r}"
                for found, expected in zip(self.labels, labels, strict=False)
                if found != expected
            ),
            f"{len(self.labels)} labels instead of {len(labels)}",
        )
        raise InputError(
            f"{url}: label embeddings of another vocabulary than {of}: {differing}; "
            "make the label embeddings for this dataset"
        )


def name_with_closest(labels: Sequence[str], closest: Sequence[Sequence[str]]) -> str:
    """List labels in a message, each with its closest matches; labels beyond *closest* are counted."""
    named = [
        f"{label!r}" + (f" (closest: {', '.join(matches)})" if matches else "")
        for label, matches in zip(labels, closest, strict=False)
    ]
    rest = len(labels) - len(named)
    return ", ".join(named) + (f" and {rest} more labels" if rest else "")
