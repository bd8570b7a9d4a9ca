"""What the verbs that write a dataset share: the source, the writer, and the summary."""

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
    """Build the source that the options describe, with absolute paths for processes that run elsewhere."""
    module, _, name = options.source_class.partition(":")
    absolute = options.absolute()
    shared = {*WriteDataset.model_fields, "extend_labels"}
    own = {field: getattr(absolute, field) for field in type(options).model_fields if field not in shared}
    source: LabelledSource = getattr(importlib.import_module(module), name)(**own)
    return source


def dataset_writer(options: WriteDataset) -> "DatasetWriter":
    """Return a writer that writes each shard in a Ray task."""
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


def dataset_outcome(out: str, manifest: "DatasetManifest", status: str) -> Outcome:
    """Return the outcome of a job that wrote a dataset, with a summary of what the dataset holds.

    Args:
        out: URL of the dataset.
        manifest: Its manifest.
        status: What the job did; the text before the first comma becomes the outcome's status.
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
        lines.append(f"  reasons: {storage.join(out, 'rejects.parquet')}")
    if counts["duplicates"]:
        lines.append(
            f"  {counts['duplicates']} pictures have the same bytes as another: listed in "
            f"{storage.join(out, 'duplicates.parquet')} or, where dropped, in rejects.parquet"
        )
    return Outcome(status.partition(",")[0], out, "\n".join(lines), counts=counts)


def _named(labels: "LabelVocabulary") -> str:
    """Name the first labels in quotes, so that a cell of a table that was split in the wrong place shows."""
    more = f" and {len(labels) - LABELS_NAMED} more" if len(labels) > LABELS_NAMED else ""
    return f"{len(labels)} labels: {', '.join(map(repr, labels[:LABELS_NAMED]))}{more}"
