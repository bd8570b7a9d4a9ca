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

from jobs import options as jobs
from jobs.command_line import Outcome
from jobs.options import LabelVectors, Options, Recipe
from lglm_core import rooms, storage
from lglm_core.errors import InputError
from pipelines.form import with_form
from pipelines.launch import run_job
from pipelines.options import Cluster, TrainLglm

ROOMS = ("dataset", "labels", "run", "evaluation", "embeddings", "tags")
HEADLINE = ("mAP", "CF1", "OF1")


@flow(name="train-lglm")
@with_form("train-lglm", TrainLglm)
def train_lglm(options: TrainLglm) -> None:
    """Shard, embed the labels, train, evaluate, embed, tag, and find neighbours of one picture."""
    place = _places(options)
    model, on_val = storage.join(place["run"], "model"), {"dataset": place["dataset"], "split": "val"}
    run_job("shard", _shard(options, place["dataset"]), options, choice=options.source)
    _refuse_without_validation(place["dataset"])
    run_job("label-embeddings", _label_embeddings(options, place), options)
    run_job("train", _train(options, place), options)
    run_job("evaluate", jobs.Evaluate(model=model, out=place["evaluation"], **on_val), options)
    run_job("embed", jobs.Embed(model=model, out=place["embeddings"], **on_val), options)
    if images := _images(options):
        run_job("tag", jobs.Tag(model=model, images=images, out=place["tags"]), options)
    if query := options.query or (_first_tagged(place["tags"]) if images else None):
        search = jobs.Search(model=model, embeddings=place["embeddings"], query=query, out=_page(options))
        run_job("search", search, options)
    create_markdown_artifact(
        key="train-lglm", markdown=_artifact(options), description=f"{options.head} on val"
    )


def _places(options: TrainLglm) -> dict[str, str]:
    return {name: storage.join(options.out, name) for name in ROOMS}


def _raw(options: TrainLglm) -> str:
    return options.root or storage.join(options.out, "raw")


def _images(options: TrainLglm) -> str | None:
    """The pictures to tag: those named or, of drawn scenes, those without labels."""
    drawn = storage.join(_raw(options), "test2017") if options.source == "toy" else None
    return options.images or drawn


def _page(options: TrainLglm) -> str:
    return storage.join(options.out, "neighbours.html")


def _shard(options: TrainLglm, out: str) -> Options:
    """Hand on the options that the source has too."""
    kind = jobs.SOURCES[options.source]
    given = options.model_dump(include=set(kind.model_fields) - set(Cluster.model_fields)) | {"out": out}
    return kind.model_validate(given | {"root": _raw(options)} if options.source == "toy" else given)


def _refuse_without_validation(dataset: str) -> None:
    """Say so before the training, not after it."""
    splits = rooms.require(dataset, "dataset").details["splits"]
    if not splits.get("val", {}).get("samples"):
        raise InputError(f"{dataset}: no samples in a split 'val', which the model would be measured on")


def _label_embeddings(options: TrainLglm, place: dict[str, str]) -> Options:
    return jobs.MakeLabelEmbeddings(
        **options.model_dump(include=set(LabelVectors.model_fields)),
        dataset=place["dataset"],
        out=place["labels"],
    )


def _train(options: TrainLglm, place: dict[str, str]) -> Options:
    return jobs.Train(
        **options.model_dump(include=set(Recipe.model_fields)),
        dataset=place["dataset"],
        label_embeddings=place["labels"],
        out=place["run"],
        num_workers=options.num_workers,
    )


def _first_tagged(tags: str) -> str | None:
    """The first file that could be read, of those that were tagged."""
    rows = storage.read_parquet(
        storage.join(tags, "part-00000.parquet"), columns=["uri", "status"]
    ).to_pylist()
    return next((row["uri"] for row in rows if row["status"] == "ok"), None)


def run(options: TrainLglm) -> Outcome:
    """Run the flow from this process and sum up what the rooms say."""
    wanted = [place for name, place in _places(options).items() if name != "tags" or _images(options)]
    complete = all(rooms.read_manifest(place) for place in wanted)
    train_lglm(**options.model_dump())
    return Outcome(
        status="already complete" if complete else "done",
        out=options.out,
        summary=_summary(options),
        counts=rooms.require(_places(options)["evaluation"], "evaluation").counts,
        metrics=_metrics(options),
    )


def _metrics(options: TrainLglm) -> dict[str, Any]:
    return dict(rooms.read_json(storage.join(_places(options)["evaluation"], "metrics.json")))


def _made(options: TrainLglm) -> dict[str, str]:
    """What there is to look at, and where."""
    place = _places(options)
    return {
        "dataset": place["dataset"],
        "model": storage.join(place["run"], "model"),
        "report": storage.join(place["evaluation"], "report.html"),
        "embeddings": place["embeddings"],
        **({"tags": place["tags"]} if _images(options) else {}),
        **({"neighbours": _page(options)} if _images(options) or options.query else {}),
    }


def _summary(options: TrainLglm) -> str:
    metrics = _metrics(options)
    return "\n".join(
        [
            "",
            f"{'on ' + str(metrics['n_images']) + ' validation pictures':<32}{options.head:>8}{'prior':>8}",
            *(f"{name:<32}{metrics[name]:>8.1f}{metrics[f'prior_{name}']:>8.1f}" for name in HEADLINE),
            "",
            *(f"{name:<12}{path}" for name, path in _made(options).items()),
        ]
    )


def _artifact(options: TrainLglm) -> str:
    metrics = _metrics(options)
    return "\n".join(
        [
            f"| on {metrics['n_images']} validation pictures | {options.head} | prior |",
            "|---|---:|---:|",
            *(f"| {name} | {metrics[name]:.1f} | {metrics[f'prior_{name}']:.1f} |" for name in HEADLINE),
            "",
            *(f"- {name}: `{path}`" for name, path in _made(options).items()),
        ]
    )
