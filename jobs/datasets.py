"""What the verbs that write a dataset share: its source, its writer, and the summary."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.command_line import Outcome
from jobs.options import Source, WriteDataset
from lglm_core import storage
from lglm_core.dataset.layout import load_labels

if TYPE_CHECKING:
    from lglm_core.dataset.writer import DatasetWriter, RunTasks
    from lglm_core.labels.vocabulary import LabelVocabulary
    from lglm_core.rooms import DatasetManifest
    from lglm_core.sources.source import Source as LabelledSource

LABELS_NAMED = 6


def build_source(options: Source) -> "LabelledSource":
    """Build the source that the options describe, with paths that hold in any working directory."""
    module, _, name = options.source_class.partition(":")
    absolute = options.absolute()
    shared = {*WriteDataset.model_fields, "extend_labels"}
    own = {field: getattr(absolute, field) for field in type(options).model_fields if field not in shared}
    source: LabelledSource = getattr(importlib.import_module(module), name)(**own)
    return source


def dataset_writer(options: WriteDataset) -> "DatasetWriter":
    """Return a writer whose shards are Ray tasks."""
    from lglm_core.dataset.image_policy import QUALITY, ImagePolicy
    from lglm_core.dataset.writer import DatasetWriter, WriteSettings

    @contextmanager
    def on_ray() -> "Iterator[RunTasks]":
        from jobs.cluster import ray_cluster, run_tasks

        with ray_cluster(options.ray_address):
            yield run_tasks

    settings = WriteSettings(
        max_samples_per_shard=options.max_samples_per_shard,
        max_bytes_per_shard=options.max_bytes_per_shard,
        images=ImagePolicy(options.verify, options.max_side, options.quality or QUALITY),
        duplicates=options.duplicates,
        max_rejected=options.max_rejected,
    )
    return DatasetWriter(options.out, settings, on_ray)


def sum_up(out: str, manifest: "DatasetManifest", status: str) -> Outcome:
    """Say what is in a dataset.

    Args:
        status: What the job did; up to a comma it is the outcome's status.
    """
    counts = manifest.counts
    splits = ", ".join(f"{name} {split.samples}" for name, split in manifest.splits.items())
    lines = [
        f"{out}: dataset, {status}: {counts['written']} samples in {len(manifest.shards)} shards ({splits}), "
        f"{counts['unlabelled']} of them without a label; {counts['rejected']} pictures rejected",
        f"  {_named(load_labels(out, manifest))}",
    ]
    if counts["unlabelled_dropped"]:
        lines.append(f"  {counts['unlabelled_dropped']} pictures without a label were dropped")
    if counts["rejected"]:
        lines.append(f"  why: {storage.join(out, 'rejects.parquet')}")
    if counts["duplicates"]:
        lines.append(
            f"  {counts['duplicates']} pictures have the same bytes as another: "
            f"{storage.join(out, 'duplicates.parquet')}, or dropped: rejects.parquet"
        )
    return Outcome(status.partition(",")[0], out, "\n".join(lines), counts=counts)


def _named(labels: "LabelVocabulary") -> str:
    """Name some labels, in quotation marks: a cell that was taken apart in another way than meant is seen."""
    more = f" and {len(labels) - LABELS_NAMED} more" if len(labels) > LABELS_NAMED else ""
    return f"{len(labels)} labels: {', '.join(map(repr, labels[:LABELS_NAMED]))}{more}"
