"""The flow train-lglm: from labelled pictures to a model, its evaluation, its embeddings, and tags.

lglm flow train-lglm --source toy --out demo
prefect deployment run train-lglm/default --param source=coco --param root=s3://raw/coco --param out=s3://rooms
"""

import os
import sys
from typing import Any

if __name__ == "__main__":  # before Prefect is imported, with other settings than an embedded run needs
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.cli", "flow", "train-lglm", *sys.argv[1:]])

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from jobs.command_line import Outcome
from lglm_core import rooms, storage
from lglm_core.errors import InputError
from pipelines.flow_jobs import TrainingUrls, search_job, training_jobs, urls_of
from pipelines.form import with_form
from pipelines.launch import run_job
from pipelines.options import TrainLglm

HEADLINE = ("mAP", "CF1", "OF1")


@flow(name="train-lglm")
@with_form("train-lglm", TrainLglm)
def train_lglm(options: TrainLglm) -> None:
    """Shard, embed the labels, train, evaluate, embed, tag, and find neighbours of one picture."""
    urls = urls_of(options)
    shard, *others = training_jobs(options)  # all at once: wrong options are refused before any job starts
    run_job(shard, options)
    refuse_without_validation(urls.dataset)
    for job in others:
        run_job(job, options)
    if query := options.query or (first_tagged(urls.tags) if urls.tags else None):
        run_job(search_job(options, query), options)
    create_markdown_artifact(
        key="train-lglm", markdown=_artifact(options, urls), description=f"{options.head} on val"
    )


def refuse_without_validation(dataset: str) -> None:
    """Refuse a dataset without validation samples before the training, which would go unmeasured."""
    if not rooms.require(dataset, rooms.DatasetManifest).has_samples("val"):
        raise InputError(f"{dataset}: no samples in a split 'val', which the model would be measured on")


def first_tagged(tags: str) -> str | None:
    """Return the first of the tagged files that could be read."""
    rows = storage.read_parquet(
        storage.join(tags, "part-00000.parquet"), columns=["uri", "status"]
    ).to_pylist()
    return next((row["uri"] for row in rows if row["status"] == "ok"), None)


def run(options: TrainLglm) -> Outcome:
    """Run the flow from this process and sum up what the rooms say."""
    urls = urls_of(options)
    training_jobs(options)  # refuses wrong options before a server starts
    complete = all(rooms.read_manifest(room) for room in urls.rooms)
    train_lglm(**options.model_dump())
    return Outcome(
        status="already complete" if complete else "done",
        out=options.out,
        summary=_summary(options, urls),
        counts=rooms.require(urls.evaluation, rooms.EvaluationManifest).counts,
        metrics=_metrics(urls),
    )


def _metrics(urls: TrainingUrls) -> dict[str, Any]:
    return dict(rooms.read_json(storage.join(urls.evaluation, "metrics.json")))


def _made(options: TrainLglm, urls: TrainingUrls) -> dict[str, str]:
    """Return what there is to look at, and its URL."""
    return {
        "dataset": urls.dataset,
        "model": urls.model,
        "report": storage.join(urls.evaluation, "report.html"),
        "embeddings": urls.embeddings,
        **({"tags": urls.tags} if urls.tags else {}),
        **({"neighbours": urls.neighbours} if urls.tags or options.query else {}),
    }


def _summary(options: TrainLglm, urls: TrainingUrls) -> str:
    metrics = _metrics(urls)
    return "\n".join(
        [
            "",
            f"{'on ' + str(metrics['n_images']) + ' validation pictures':<32}{options.head:>8}{'prior':>8}",
            *(f"{name:<32}{metrics[name]:>8.1f}{metrics[f'prior_{name}']:>8.1f}" for name in HEADLINE),
            "",
            *(f"{name:<12}{url}" for name, url in _made(options, urls).items()),
        ]
    )


def _artifact(options: TrainLglm, urls: TrainingUrls) -> str:
    metrics = _metrics(urls)
    return "\n".join(
        [
            f"| on {metrics['n_images']} validation pictures | {options.head} | prior |",
            "|---|---:|---:|",
            *(f"| {name} | {metrics[name]:.1f} | {metrics[f'prior_{name}']:.1f} |" for name in HEADLINE),
            "",
            *(f"- {name}: `{url}`" for name, url in _made(options, urls).items()),
        ]
    )
