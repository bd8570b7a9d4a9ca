"""Label embeddings: one vector per label, with a record of the words it came from."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lglm_core.data import storage
from lglm_core.errors import InputError
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import digest

FILE = "label_embeddings.parquet"


@dataclass(frozen=True)
class LabelEmbeddings:
    """Vectors float32 [C, d] in column order of *labels*.

    ``words`` and ``missing`` say, per label, which words gave the vector and which the source does not
    hold. ``source`` is ``glove`` or ``ppmi``; the latter belong to one dataset alone.
    """

    labels: LabelVocabulary
    vectors: np.ndarray
    words: tuple[tuple[str, ...], ...]
    missing: tuple[tuple[str, ...], ...]
    source: str

    @property
    def digest(self) -> str:
        """The sha256 over label names and vectors."""
        return digest([self.labels.digest, digest(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes())])

    def save(self, url: str) -> None:
        """Write the table ``label, words, missing, vector`` as a Parquet file at *url*."""
        width = self.vectors.shape[1]
        flat = pa.array(self.vectors.astype(np.float32).ravel())
        table = pa.table(
            {
                "label": list(self.labels),
                "words": pa.array([list(words) for words in self.words], pa.list_(pa.string())),
                "missing": pa.array([list(words) for words in self.missing], pa.list_(pa.string())),
                "vector": pa.FixedSizeListArray.from_arrays(flat, width),
            }
        )
        metadata = {"source": self.source, "digest": self.digest, "labels": self.labels.digest}
        storage.write_parquet(url, table.replace_schema_metadata(metadata))

    @classmethod
    def load(cls, url: str) -> "LabelEmbeddings":
        """Read what :meth:`save` wrote; refuse a file whose content is not what its digest says."""
        table = storage.read_parquet(url)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if table.column_names != ["label", "words", "missing", "vector"] or "digest" not in metadata:
            raise InputError(f"{url}: not a table of label embeddings; lglm label-embeddings writes one")
        width = table.schema.field("vector").type.list_size
        vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, width)
        embeddings = cls(
            labels=LabelVocabulary(table.column("label").to_pylist()),
            vectors=vectors,
            words=tuple(map(tuple, table.column("words").to_pylist())),
            missing=tuple(map(tuple, table.column("missing").to_pylist())),
            source=metadata["source"],
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
            self.source,
        )

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
