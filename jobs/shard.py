"""Shard labelled pictures into WebDataset tar files with an index.

lglm shard coco --root COCO --out DATASET
lglm shard mirflickr --root MIRFLICKR --out DATASET
lglm shard voc --root VOCdevkit/VOC2007 --out DATASET
lglm shard table --table labels.csv --image-root PICTURES --out DATASET
lglm shard toy --out DATASET
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import SOURCES, Shard, ShardToy
from lglm_core import rooms
from lglm_core.data import storage

if TYPE_CHECKING:
    from lglm_core.data.source import Source


def run(options: Shard) -> Outcome:
    """Plan the shards, write those that are missing, and commit the dataset."""
    if isinstance(options, ShardToy):
        return _shard_toy(options)
    source = _source(options)
    recipe = rooms.Recipe(
        "dataset",
        source.inputs(),
        {**source.options(), "max_samples_per_shard": options.max_samples_per_shard},
    )
    manifest = rooms.find(options.out, recipe)
    if manifest and not (options.retry_rejected and manifest.counts["rejected"]):
        return _outcome(options.out, manifest, "already complete")
    return _write(source, recipe, options)


def _source(options: Shard) -> "Source":
    module, _, name = options.source.partition(":")
    absolute = options.absolute()
    arguments = {field: getattr(absolute, field) for field in type(options).model_fields}
    own = {field: value for field, value in arguments.items() if field not in Shard.model_fields}
    source: Source = getattr(importlib.import_module(module), name)(**own)
    return source


def _shard_toy(options: ShardToy) -> Outcome:
    """Draw, then shard as any other COCO; a complete dataset is recognised before anything is drawn."""
    recipe = rooms.Recipe(
        "dataset",
        inputs={},
        options={
            "source": "toy",
            "samples": options.samples,
            "seed": options.seed,
            "max_samples_per_shard": options.max_samples_per_shard,
        },
    )
    manifest = rooms.find(options.out, recipe)
    if manifest:
        return _outcome(options.out, manifest, "already complete")
    from jobs.cluster import progress_bar
    from lglm_core.data.coco import CocoSource
    from lglm_core.data.toy import write_toy_coco

    with _kept_or_temporary(options.root) as root:
        with progress_bar(options.samples, "draw") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            write_toy_coco(root, samples=options.samples, seed=options.seed, progress=show)
        return _write(CocoSource(root), recipe, options)


def _write(source: "Source", recipe: rooms.Recipe, options: Shard) -> Outcome:
    from jobs.cluster import ray_cluster, run_tasks
    from lglm_core.data.dataset import NothingReadable, commit_dataset
    from lglm_core.data.plan import make_plan
    from lglm_core.data.shards import write_shard

    plan = make_plan(source, options.max_samples_per_shard)
    out = storage.absolute(options.out)
    with ray_cluster(options.ray_address):
        rooms.begin(options.out, recipe)
        if options.retry_rejected:
            rooms.reopen(options.out)
        calls = [(shard, plan.labels, out, options.retry_rejected) for shard in plan.shards]
        receipts = run_tasks(write_shard, calls, "shard")
    try:
        manifest = commit_dataset(
            options.out, recipe, plan, receipts, dropped=source.dropped, max_rejected=options.max_rejected
        )
    except NothingReadable:  # the folder would only stand in the way of the next try
        storage.remove(options.out)
        raise
    return _outcome(options.out, manifest, "done")


def _outcome(out: str, manifest: rooms.Manifest, status: str) -> Outcome:
    counts, splits = manifest.counts, manifest.details["splits"]
    lines = [
        f"{out}: dataset, {status}: {counts['written']} samples in {len(manifest.details['shards'])} shards ("
        + ", ".join(f"{name} {split['samples']}" for name, split in splits.items())
        + f"), {counts['unlabelled']} of them without a label; {counts['rejected']} pictures rejected"
    ]
    if counts["unlabelled_dropped"]:
        lines.append(f"  {counts['unlabelled_dropped']} pictures without a label were dropped")
    if counts["rejected"]:
        lines.append(f"  why: {storage.join(out, 'rejects.parquet')}")
    return Outcome(status, out, "\n".join(lines), counts=counts)


@contextmanager
def _kept_or_temporary(root: str | None) -> Iterator[str]:
    if root:
        yield storage.absolute(root)
        return
    with TemporaryDirectory(prefix="lglm-toy-") as folder:
        yield folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("shard", SOURCES, run, argv)


if __name__ == "__main__":
    sys.exit(main())
