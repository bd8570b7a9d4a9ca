"""Tag every file in a folder: each file becomes one row, whether or not it can be read.

lglm tag --model RUN/model --images FOLDER --out TAGS
"""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from jobs import command_line
from jobs.cluster import ray_cluster
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.models import require_model
from jobs.options import Tag
from jobs.parts import IMAGES_PER_BATCH, read_parts, write_parts
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.images.codec import MAX_BYTES
from lglm_core.rooms import Provenance, Room, TagsManifest, digest
from lglm_core.storage.location import StoredFile

LABELS_NAMED = 5
SCHEMA = pa.schema(
    {
        "uri": pa.string(),
        "etag": pa.string(),
        "size": pa.int64(),
        "status": pa.string(),
        "error": pa.string(),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
    }
)


class TagRows:
    """Makes the rows of tags: ``uri, etag, size, status, error, labels, scores``.

    ``status`` is ``ok``, or a code for the reason why the file could not be read; in that case ``error``
    gives the reason, and ``labels`` and ``scores`` are empty. ``labels`` are the labels at or above their
    thresholds, the highest score first; ``scores`` are their probabilities.

    Args:
        model: URL of the model.
        images: URL of the listed folder.
        files: The listing.
        threads: CPU threads of the actor.
    """

    def __init__(self, model: str, images: str, files: list[StoredFile], threads: int) -> None:
        from lglm_core.inference.tagger import Tagger

        self.tagger = Tagger.load(model, threads=threads)
        self.readers = ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader")
        self.images = images
        self.redacted = storage.redact_url(images)
        self.files = files

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the tags of the files *start* up to *stop* of the listing."""
        rows = []
        for first in range(start, stop, IMAGES_PER_BATCH):
            rows += self._rows(self.files[first : min(first + IMAGES_PER_BATCH, stop)])
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _rows(self, files: list[StoredFile]) -> list[dict]:
        contents = list(self.readers.map(self._read, files))
        predictions = self.tagger.predict([data if isinstance(data, bytes) else b"" for data in contents])
        rows = [
            {
                "uri": storage.join(self.redacted, _printable(file.name)),
                "etag": file.etag,
                "size": file.size,
                "status": "ok",
                "error": "",
                "labels": [],
                "scores": [],
            }
            for file in files
        ]
        for position, reason in predictions.errors.items():
            rows[position] |= {"status": reason.reason, "error": str(reason)}
        for position, columns, scores in zip(
            predictions.read, self.tagger.tags(predictions.scores), predictions.scores, strict=True
        ):
            rows[position] |= {
                "labels": [self.tagger.labels[column] for column in columns],
                "scores": [float(scores[column]) for column in columns],
            }
        for row, data in zip(rows, contents, strict=True):
            if not isinstance(data, bytes):  # there was nothing to decode
                row |= {"status": data[0], "error": _printable(data[1])}
        return rows

    def _read(self, file: StoredFile) -> bytes | tuple[str, str]:
        """Return the bytes of a file, or the status and the error of a file that cannot be read."""
        if file.size > MAX_BYTES:
            return "too_large", f"{file.size} bytes, at most {MAX_BYTES} taken"
        try:
            return storage.read_bytes(storage.join(self.images, file.name))
        except storage.UnreadableFile as error:  # it is gone since it was listed, or access to it is denied
            return "unreadable", str(error)


def _printable(name: str) -> str:
    """Return a file name as valid text, with bytes that are not UTF-8 as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def run(options: Tag) -> Outcome:
    """Tag all listed files, unless the same files were tagged with the same model."""
    _, inputs = require_model(options.model)
    images, out = storage.absolute(options.images), storage.absolute(options.out)
    if storage.lies_within(out, images):
        raise InputError(f"{options.out}: lies inside {options.images}; its own files would be tagged")
    files = storage.list_files(images)
    if not files:
        raise InputError(f"{options.images}: holds no file")
    listing = digest([[file.name, file.size, file.etag] for file in files])
    room = Room(options.out, Provenance(TagsManifest, {**inputs, "images": listing}, {}))
    return make_room(
        room,
        lambda: _tag(options, images, files, room),
        lambda manifest, status: _summary(options.out, manifest, status),
    )


def _tag(options: Tag, images: str, files: list[StoredFile], room: Room[TagsManifest]) -> TagsManifest:
    folder = storage.absolute(options.out)
    arguments = {"model": storage.absolute(options.model), "images": images, "files": files}
    with ray_cluster(options.ray_address):
        room.begin()
        write_parts(
            TagRows,
            arguments,
            folder=folder,
            total=len(files),
            provenance=room.provenance.fingerprint,
            progress="tag",
        )
    table = read_parts(folder, len(files))
    statuses = Counter(table.column("status").to_pylist())
    labels = Counter(label for row in table.column("labels").to_pylist() for label in row)
    return room.commit(
        TagsManifest(
            fingerprint=room.provenance.fingerprint,
            **room.provenance.fields,
            counts={
                "files": len(files),
                **{f"status_{name}": count for name, count in sorted(statuses.items())},
            },
            labels=dict(labels.most_common()),
        )
    )


def _summary(out: str, manifest: TagsManifest, status: str) -> str:
    counts = dict(manifest.counts)
    files = counts.pop("files")
    statuses = ", ".join(f"{name.removeprefix('status_')} {count}" for name, count in counts.items())
    labels = Counter(manifest.labels).most_common(LABELS_NAMED)
    commonest = ", ".join(f"{name} {count}" for name, count in labels)
    return f"{out}: tags, {status}: {files} rows ({statuses}); commonest labels: {commonest or 'none'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("tag", Tag, run, argv)


if __name__ == "__main__":
    sys.exit(main())
