"""The flow tag-bucket: a bucket prefix and a model in, a table with one row per object out.

lglm flow tag-bucket --model run/model --images s3://bucket/photos --out s3://bucket/tags
prefect deployment run tag-bucket/default --param model=s3://… --param images=s3://… --param out=s3://…
"""

import os
import sys
from collections import Counter

if __name__ == "__main__":  # before Prefect is imported, with other settings than an embedded run needs
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.cli", "flow", "tag-bucket", *sys.argv[1:]])

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from jobs.command_line import Outcome
from lglm_core import rooms
from pipelines.flow_jobs import tagging_job
from pipelines.form import with_form
from pipelines.launch import run_job
from pipelines.options import TagBucket

Counts = dict[str, int]


@flow(name="tag-bucket")
@with_form("tag-bucket", TagBucket)
def tag_bucket(options: TagBucket) -> None:
    """Tag every object, and publish the counts per status and per label as an artifact."""
    run_job(tagging_job(options), options)
    create_markdown_artifact(
        key="tag-bucket", markdown=_artifact(options), description=f"Tags of {options.images}"
    )


def run(options: TagBucket) -> Outcome:
    """Run the flow from this process and sum up what the room says."""
    complete = rooms.read_manifest(options.out) is not None
    tag_bucket(**options.model_dump())
    statuses, labels = _counts(options.out)
    return Outcome(
        status="already complete" if complete else "done",
        out=options.out,
        summary="\n".join(
            [
                "",
                *(f"{name:<32}{count:>10}" for name, count in (*statuses.items(), *labels.items())),
                "",
                f"tags        {options.out}",
            ]
        ),
        counts=rooms.require(options.out, rooms.TagsManifest).counts,
    )


def _counts(tags: str) -> tuple[Counts, Counts]:
    """Return the number of rows per status and per label, the most frequent first."""
    manifest = rooms.require(tags, rooms.TagsManifest)
    statuses = {
        name.removeprefix("status_"): count
        for name, count in manifest.counts.items()
        if name.startswith("status_")
    }
    by_count = sorted(statuses.items(), key=lambda pair: -pair[1])
    return dict(by_count), dict(Counter(manifest.labels).most_common())


def _artifact(options: TagBucket) -> str:
    statuses, labels = _counts(options.out)
    return "\n".join(
        [
            f"{sum(statuses.values())} objects of `{options.images}`, tagged by `{options.model}`, "
            f"one row each in `{options.out}`.",
            *_table("status", "objects", statuses),
            *_table("label", "tagged with it", labels),
        ]
    )


def _table(what: str, of: str, counts: Counts) -> list[str]:
    rows = (f"| {name.replace('|', '/')} | {count} |" for name, count in counts.items())
    return ["", f"| {what} | {of} |", "|---|---:|", *rows]
