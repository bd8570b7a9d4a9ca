"""Label embeddings: one vector per label, with a record of what it came from."""

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
LOST_NAMED = 5


@dataclass(frozen=True)
class LabelEmbeddings:
    """Vectors float32 [C, d] in column order of *labels*.

    ``words`` and ``missing`` say, per label, which words gave the vector and which the source does not
    hold. ``source`` is ``glove``, ``vectors`` (ready-made) or ``ppmi``; the latter belong to one dataset
    alone. ``origin`` says the same of each label, or ``alias`` (GloVe's, of other words than its name),
    ``cooccurrence`` (the mean of the labels in ``words``, with which it goes together in the training
    split) or ``zero``.
    """

    labels: LabelVocabulary
    vectors: np.ndarray
    words: tuple[tuple[str, ...], ...]
    missing: tuple[tuple[str, ...], ...]
    origin: tuple[str, ...]
    source: str

    @property
    def digest(self) -> str:
        """The sha256 over label names and vectors."""
        return digest([self.labels.digest, digest(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes())])

    def save(self, url: str | os.PathLike[str]) -> None:
        """Write the table ``label, words, missing, vector, origin`` as a Parquet file at *url*."""
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
        """Read what :meth:`save` wrote; refuse a file whose content is not what its digest says.

        One that an earlier lglm wrote has no column ``origin``; it follows from the source.
        """
        url = os.fspath(url)
        table = storage.read_parquet(url)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        columns = tuple(table.column_names)
        if columns not in (COLUMNS, COLUMNS[:-1]) or "digest" not in metadata:
            raise InputError(f"{url}: not a table of label embeddings; lglm label-embeddings writes one")
        width = table.schema.field("vector").type.list_size
        vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, width)
        source, words = metadata["source"], tuple(map(tuple, table.column("words").to_pylist()))
        untold = [source if used else "zero" for used in words]
        embeddings = cls(
            labels=LabelVocabulary(table.column("label").to_pylist()),
            vectors=vectors,
            words=words,
            missing=tuple(map(tuple, table.column("missing").to_pylist())),
            origin=tuple(table.column("origin").to_pylist() if columns == COLUMNS else untold),
            source=source,
        )
        if embeddings.digest != metadata["digest"]:
            raise InputError(f"{url}: its vectors are not those its digest was made of; make it again")
        return embeddings

    def only(self, labels: LabelVocabulary) -> "LabelEmbeddings":
        """Return the vectors of *labels* alone, all of which must be here, in their order."""
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
        """Whether any vector depends on which pictures of one dataset show which labels."""
        return not {"ppmi", "cooccurrence"}.isdisjoint(self.origin)

    def learned_from(self, name: str) -> str | None:
        """Return a label whose vector depends on which pictures show *name*; None where no vector does."""
        for label, words, origin in zip(self.labels, self.words, self.origin, strict=True):
            # One decomposition makes all PPMI vectors; a mean is made of the labels that it names.
            if origin == "ppmi" or (origin == "cooccurrence" and name in (label, *words)):
                return label
        return None

    def check_labels(self, labels: LabelVocabulary, url: str, of: str) -> None:
        """Refuse vectors of another vocabulary, naming the first label that differs."""
        if self.labels == labels:
            return
        differing = next(
            (
                f"{theirs!r} stands where {ours!r} does"
                for theirs, ours in zip(self.labels, labels, strict=False)
                if theirs != ours
            ),
            f"{len(self.labels)} labels against {len(labels)}",
        )
        raise InputError(
            f"{url}: label embeddings of another vocabulary than {of}: {differing}; "
            "run lglm label-embeddings for this one"
        )


def with_closest(lost: Sequence[str], closest: Sequence[Sequence[str]]) -> str:
    """Name labels without a vector, those for which *closest* holds what is like them; count the rest."""
    named = [
        f"{label!r}" + (f" (closest: {', '.join(close)})" if close else "")
        for label, close in zip(lost, closest, strict=False)
    ]
    rest = len(lost) - len(named)
    return ", ".join(named) + (f" and {rest} more labels" if rest else "")
