"""Shard labelled pictures into WebDataset tar files with an index.

lglm shard coco --root COCO --out DATASET
lglm shard mirflickr --root MIRFLICKR --out DATASET
lglm shard voc --root VOCdevkit/VOC2007 --out DATASET
lglm shard table --table labels.csv --image-root PICTURES --out DATASET
lglm shard toy --out DATASET
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.datasets import build_source, dataset_outcome, dataset_writer
from jobs.options import SHARD, ShardSource, ShardToy, WriteDataset
from lglm_core import storage

if TYPE_CHECKING:
    from lglm_core.dataset.writer import DatasetWriter
    from lglm_core.rooms import DatasetManifest, Provenance


def run(options: WriteDataset) -> Outcome:
    """Write the shards of the dataset that are missing, unless it is complete."""
    writer = dataset_writer(options)
    if isinstance(options, ShardToy):
        return _shard_toy(options, writer)
    assert isinstance(options, ShardSource)
    source = build_source(options)
    provenance = writer.settings.provenance(source.inputs(), source.options())
    return _find_or_write(writer, provenance, lambda: writer.write(source, provenance))


def _shard_toy(options: ShardToy, writer: "DatasetWriter") -> Outcome:
    """Draw a COCO and shard it like any other; draw nothing if the dataset is complete."""
    drawn = {"source": "toy", "samples": options.samples, "seed": options.seed}
    provenance = writer.settings.provenance({}, drawn)

    def write() -> "DatasetManifest":
        from jobs.cluster import progress_bar
        from lglm_core.sources.coco import CocoSource
        from lglm_core.sources.toy.coco import write_toy_coco

        with _kept_or_temporary(options.root) as root:
            with progress_bar(options.samples, "draw") as bar:

                def show_progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                write_toy_coco(root, samples=options.samples, seed=options.seed, progress=show_progress)
            return writer.write(CocoSource(root), provenance)

    return _find_or_write(writer, provenance, write)


def _find_or_write(
    writer: "DatasetWriter", provenance: "Provenance[DatasetManifest]", write: "Callable[[], DatasetManifest]"
) -> Outcome:
    manifest = writer.find(provenance)
    status = "already complete" if manifest else "done"
    return dataset_outcome(writer.url, manifest or write(), status)


@contextmanager
def _kept_or_temporary(root: str | None) -> Iterator[str]:
    if root:
        yield storage.absolute(root)
        return
    with TemporaryDirectory(prefix="lglm-toy-") as folder:
        yield folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("shard", SHARD, run, argv)


if __name__ == "__main__":
    sys.exit(main())
